"""Exceptions arrive as themselves, with the remote traceback as their cause."""

import errno
import pickle
import threading
import traceback
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest

from lastcall import outcome
from lastcall.envelope import Sealer
from lastcall.errors import FunctionNotAllowed, ProducerLost, RemoteError, RemoteTraceback
from lastcall.outcome import pack_error, unpack_error

KEY = b"sixteen bytes or more"


def raised(error: BaseException) -> BaseException:
    """The exception, as it is when a function has raised it."""
    try:
        the_users_function(error)
    except BaseException as caught:
        return caught
    raise AssertionError


def the_users_function(error: BaseException) -> None:
    raise error


def travel(error: BaseException, key: bytes | None = KEY) -> BaseException:
    """As it goes from a worker to a client: through the envelope."""
    packed = pack_error(error, key is not None)
    return unpack_error(Sealer(key).open(Sealer(key).seal(packed)), key is not None)


class Plain(Exception):
    pass


class TwoArguments(Exception):
    def __init__(self, name: str, size: int) -> None:
        super().__init__(f"{name} has {size}")
        self.name, self.size = name, size


class SaysItTwice(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(f"no {name}")


class OwnReduce(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return OwnReduce, self.args  # loses notes


class BrokenText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


BUILTIN = [
    ValueError("bad"),
    ValueError(),
    KeyError("name"),
    KeyError(3),
    IndexError("list index out of range"),
    ZeroDivisionError("division by zero"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "/missing"),
    OSError("just text"),
    TimeoutError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    SyntaxError("invalid syntax", ("f.py", 1, 2, "x y", 1, 3)),
    StopIteration(3),
]


@pytest.mark.parametrize("key", [KEY, None])
@pytest.mark.parametrize("error", BUILTIN, ids=repr)
def test_a_builtin_exception_arrives_as_itself(error: BaseException, key: bytes | None) -> None:
    arrived = travel(raised(error), key)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert arrived.args == error.args or key is None
    if isinstance(error, OSError):
        assert isinstance(arrived, OSError)
        assert (arrived.errno, arrived.filename) == (error.errno, error.filename)


@pytest.mark.parametrize("key", [KEY, None])
def test_the_remote_traceback_is_the_cause(key: bytes | None) -> None:
    arrived = travel(raised(ValueError("bad")), key)
    assert isinstance(arrived.__cause__, RemoteTraceback)
    assert "in the_users_function" in str(arrived.__cause__)
    assert "ValueError: bad" in str(arrived.__cause__)
    printed = "".join(traceback.format_exception(arrived))
    assert printed.index("in the_users_function") < printed.index("direct cause")


@pytest.mark.parametrize("key", [KEY, None])
def test_chained_causes_are_in_the_traceback(key: bytes | None) -> None:
    try:
        try:
            the_users_function(KeyError("first"))
        except KeyError as error:
            raise ValueError("second") from error
    except ValueError as error:
        arrived = travel(error, key)
    text = str(arrived.__cause__)
    assert text.index("KeyError: 'first'") < text.index("direct cause") < text.index("second")


@pytest.mark.parametrize("key", [KEY, None])
@pytest.mark.parametrize("error", [ValueError("bad"), Plain("bad"), OwnReduce("bad")], ids=repr)
def test_notes_are_kept_once(error: Exception, key: bytes | None) -> None:
    error = type(error)(*error.args)
    error.add_note("while reading frame 7")
    error.add_note("of camera 1")
    arrived = travel(raised(error), key)
    assert arrived.__notes__ == ["while reading frame 7", "of camera 1"]
    assert "of camera 1" in str(arrived.__cause__)


def test_an_exception_whose_init_takes_other_arguments_arrives_with_its_fields() -> None:
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(TwoArguments("frame", 3)))
    arrived = travel(raised(TwoArguments("frame", 3)))
    assert isinstance(arrived, TwoArguments)
    assert (arrived.name, arrived.size, str(arrived)) == ("frame", 3, "frame has 3")


def test_an_exception_whose_init_words_its_message_does_not_say_it_twice() -> None:
    assert str(pickle.loads(pickle.dumps(SaysItTwice("file")))) == "no no file"
    arrived = travel(raised(SaysItTwice("file")))
    assert isinstance(arrived, SaysItTwice)
    assert str(arrived) == "no file"


def test_an_exception_class_of_the_main_module_travels_by_value() -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec("class Local(Exception):\n    size = 3", space)
    arrived: Any = travel(raised(space["Local"]("bad")))
    assert type(arrived).__name__ == "Local"
    assert arrived.size == 3
    assert str(arrived) == "bad"


def test_groups_arrive_with_their_exceptions() -> None:
    arrived = travel(raised(ExceptionGroup("both", [ValueError("a"), KeyError("b")])))
    assert isinstance(arrived, ExceptionGroup)
    assert [type(error) for error in arrived.exceptions] == [ValueError, KeyError]


def _with_lock() -> Exception:
    error = Plain("holds a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("make", "key", "type_name", "message"),
    [
        (_with_lock, KEY, f"{__name__}.Plain", "holds a lock"),
        (lambda: Plain("bad"), None, f"{__name__}.Plain", "bad"),
        (lambda: TwoArguments("frame", 3), None, f"{__name__}.TwoArguments", "frame has 3"),
        (lambda: ValueError(Plain("bad")), None, "ValueError", "bad"),
        (
            lambda: ExceptionGroup("both", [ValueError()]),
            None,
            "ExceptionGroup",
            "both (1 sub-exce",
        ),
        (lambda: SystemExit("leave"), None, "SystemExit", "leave"),
        (lambda: BrokenText(), None, f"{__name__}.BrokenText", "<str() of this BrokenText failed>"),
    ],
)
def test_what_cannot_be_sent_arrives_as_a_remote_error(
    make: Callable[[], BaseException], key: bytes | None, type_name: str, message: str
) -> None:
    arrived = travel(raised(make()), key)
    assert isinstance(arrived, RemoteError)
    assert arrived.type_name == type_name
    assert arrived.message.startswith(message)
    assert "in the_users_function" in str(arrived.__cause__)


def test_an_exception_that_cannot_say_its_message_still_arrives() -> None:
    assert isinstance(travel(raised(BrokenText("odd"))), BrokenText)


def test_an_exception_class_that_the_client_lacks_arrives_as_a_remote_error() -> None:
    made, *others = pack_error(raised(Plain("bad")), True)
    assert isinstance(made, bytes)
    lacking = made.replace(b"Plain", b"Other")
    arrived = unpack_error((lacking, *others), True)
    assert isinstance(arrived, RemoteError)
    assert (arrived.type_name, arrived.message) == (f"{__name__}.Plain", "bad")


def test_lastcalls_own_errors_arrive_as_themselves_without_a_key() -> None:
    arrived = travel(raised(FunctionNotAllowed("images.resize", "no key")), None)
    assert isinstance(arrived, FunctionNotAllowed)
    assert (arrived.function, arrived.reason) == ("images.resize", "no key")
    assert str(arrived) == str(FunctionNotAllowed("images.resize", "no key"))
    assert isinstance(travel(raised(ProducerLost("q", (("a", 1.5),))), None), ProducerLost)


# Without a key, nothing that a stranger sends is unpickled or run


def test_a_pickle_is_not_opened_where_there_is_no_key() -> None:
    packed = pack_error(raised(ValueError("bad")), True)
    with patch.object(outcome.pickle, "loads") as loads:  # type: ignore[attr-defined]
        arrived = unpack_error(packed, False)
    assert not loads.called
    assert isinstance(arrived, RemoteError)


@pytest.mark.parametrize(
    ("type_name", "made"),
    [
        ("builtins.SystemExit", ((1,), {})),
        ("builtins.KeyboardInterrupt", ((), {})),
        ("builtins.eval", (("1/0",), {})),
        ("builtins.ValueError", (("a",), {"__class__": "x"})),
        ("builtins.ValueError", "odd"),
        ("builtins.UnicodeDecodeError", (("too few",), {})),
        ("subprocess.CalledProcessError", ((1, "x"), {})),
        ("lastcall.errors.rebuild", ((), {})),
        ("lastcall.errors._queue", ((), {})),
    ],
)
def test_without_a_key_only_known_exceptions_are_made(type_name: str, made: Any) -> None:
    arrived = unpack_error((made, type_name, "message", "traceback", ()), False)
    assert isinstance(arrived, RemoteError)
    assert arrived.message == "message"


# Sizes and frames


@pytest.mark.parametrize("key", [KEY, None])
def test_texts_that_quote_a_whole_input_are_shortened(key: bytes | None) -> None:
    error = Plain("x" * 1_000_000)
    error.add_note("y" * 1_000_000)
    _, _, message, text, notes = pack_error(raised(error), key is not None)
    assert all(len(part) < 101_000 for part in (message, text, *notes))
    assert "characters left out" in message


def test_the_workers_own_frames_are_left_out_of_the_traceback() -> None:
    def namespace(module: str, source: str) -> dict[str, Any]:
        space = {"__name__": module, "the_users_function": the_users_function}
        exec(compile(source, f"<{module}>", "exec"), space)
        return space

    slot = namespace("lastcall_worker.slot", "def run(f, e): f(e)")
    user = namespace("images", "def call(e): the_users_function(e)")
    with pytest.raises(ValueError, match="bad") as caught:
        slot["run"](user["call"], ValueError("bad"))
    text = str(travel(_as_in_a_worker(caught.value)).__cause__)
    assert "<lastcall_worker.slot>" not in text
    assert "<images>" in text


def test_an_error_of_the_worker_itself_keeps_its_frames() -> None:
    space: dict[str, Any] = {"__name__": "lastcall_worker.slot"}
    exec(compile("def run(): 1 / 0", "<lastcall_worker.slot>", "exec"), space)
    with pytest.raises(ZeroDivisionError) as caught:
        space["run"]()
    assert "<lastcall_worker.slot>" in str(travel(_as_in_a_worker(caught.value)).__cause__)


def _as_in_a_worker(error: BaseException) -> BaseException:
    """Without the test's own frame, which stands where a worker has only its own."""
    assert error.__traceback__ is not None
    return error.with_traceback(error.__traceback__.tb_next)


def test_an_exception_that_was_never_raised_travels() -> None:
    arrived = travel(ValueError("made, not raised"))
    assert isinstance(arrived, ValueError)
    assert "made, not raised" in str(arrived.__cause__)
