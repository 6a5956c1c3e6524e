"""How an exception comes from a worker to a client: as itself, the remote traceback its cause.

pack_error() in the worker makes plain data of it, which goes into an envelope; unpack_error() at
the client makes an exception again. Whether it survives pickling is tried in the worker, since
many do not: their __init__ takes other arguments than BaseException keeps.
"""

import builtins
import pickle
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from lastcall import errors
from lastcall.envelope import dump_pickle
from lastcall.errors import LastcallError, NotSerializable, RemoteError, RemoteTraceback, rebuild

# (how to make it, type name, message, traceback, notes): with a key the first is a pickle, without
# one (args, fields) of plain data; None: only what follows can be sent.
PackedError = tuple[bytes | tuple[tuple[Any, ...], dict[str, Any]] | None, str, str, str, tuple[str, ...]]

_MOST_TEXT = 100_000  # characters; an exception may quote its whole input
_MOST_SHORT = 1_000
_PLAIN = (str, bytes, int, float, bool, type(None))


def pack_error(error: BaseException, sealer_has_key: bool) -> PackedError:
    """Plain data that stands for an exception, its notes and its traceback.

    sealer_has_key: with a key it is pickled; without one, only exceptions that are built in or
    lastcall's own, and hold plain values, arrive as themselves.
    """
    text = "".join(traceback.format_exception(type(error), error, _user_frames(error)))
    return (
        _pickled(error) if sealer_has_key else _plain(error),
        f"{type(error).__module__}.{type(error).__qualname__}",
        _shorten(_message(error)),
        _shorten(text),
        tuple(_shorten(str(note)) for note in getattr(error, "__notes__", ())),
    )


def in_short(packed: PackedError) -> str:
    """An error as the history of its job tells it: "Type: message"."""
    _, type_name, message, _, _ = packed
    text = f"{type_name.removeprefix('builtins.')}: {message[:_MOST_SHORT]}"
    return text.encode(errors="backslashreplace").decode()  # of a path that is no UTF-8, say


def unpack_error(data: Sequence[Any], sealer_has_key: bool) -> BaseException:
    """The exception that pack_error() packed, its cause a RemoteTraceback.

    data: out of an envelope that was verified. sealer_has_key: whether that was signed; if not,
    nothing is unpickled. Where the exception cannot be made here: RemoteError.
    """
    made, type_name, message, text, notes = data
    error: BaseException | None = None
    if sealer_has_key and isinstance(made, bytes):
        error = _unpickled(made)
    elif not sealer_has_key and isinstance(made, list | tuple):
        error = _from_plain(type_name, made)
    if error is None:
        error = RemoteError(type_name.removeprefix("builtins."), message)
    for note in notes:
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
    error.__cause__ = RemoteTraceback(text)
    return error


class _Kept:
    """Pickles an exception past its own __init__ and __reduce__: class, args and fields."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self._error), self._error.args, self._error.__dict__)


def _pickled(error: BaseException) -> bytes | None:
    for value in (error, _Kept(error)):
        try:
            pickled = dump_pickle(value)
        except NotSerializable:
            continue
        copy = _unpickled(pickled)
        if copy is not None and _same(copy, error):
            return pickled
    return None


def _unpickled(pickled: bytes) -> BaseException | None:
    try:
        error = pickle.loads(pickled)
    except Exception:  # the class is missing here, or its __init__ fails in any way
        return None
    return error if isinstance(error, BaseException) else None


def _plain(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    fields = {name: value for name, value in error.__dict__.items() if name != "__notes__"}
    try:
        # More than error.args: an OSError keeps its file name elsewhere.
        args = error.args if isinstance(error, LastcallError) else error.__reduce__()[1]
    except Exception:  # a class's own __reduce__ may raise anything
        return None
    if not isinstance(args, tuple) or not _is_plain((*args, *fields.values())):
        return None
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    copy = _from_plain(name, (args, fields))
    return (args, fields) if copy is not None and _same(copy, error) else None


def _from_plain(type_name: str, made: Sequence[Any]) -> BaseException | None:
    # Unsigned: so only classes that are known to do nothing but hold what they are given, and
    # none that would end this process (SystemExit, KeyboardInterrupt).
    module, _, name = type_name.rpartition(".")
    try:
        args, fields = made
        if module == "builtins":
            kind = getattr(builtins, name, None)
            if isinstance(kind, type) and issubclass(kind, Exception) and not fields:
                return kind(*args)
        elif module == errors.__name__:
            kind = getattr(errors, name, None)
            if isinstance(kind, type) and issubclass(kind, LastcallError):
                return rebuild(kind, tuple(args), fields)
    except Exception:  # the arguments are not this class's
        return None
    return None


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(part) for part in value)
    return type(value) in _PLAIN


def _same(copy: BaseException, error: BaseException) -> bool:
    return type(copy) is type(error) and _message(copy) == _message(error)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a class's own __str__ may raise anything
        return f"<str() of this {type(error).__name__} failed>"


def _user_frames(error: BaseException) -> TracebackType | None:
    """The traceback from the user's function on, without the worker's frames that led to it."""
    frames = error.__traceback__
    while frames is not None and _is_workers(frames):
        frames = frames.tb_next
    return frames or error.__traceback__


def _is_workers(frames: TracebackType) -> bool:
    module = str(frames.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] == "lastcall_worker" or module in ("lastcall.calls", "lastcall.steps")


def _shorten(text: str) -> str:
    if len(text) <= _MOST_TEXT:
        return text
    half = _MOST_TEXT // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"
