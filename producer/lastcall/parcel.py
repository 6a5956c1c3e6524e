"""Parcel: the large buffers of a value, which travel beside its envelope (aside.py says how)."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import cache
from typing import Any, Final, NamedTuple

from lastcall.errors import AsideLost, ItemTooLarge
from lastcall.mainspace import Loader


class Part(NamedTuple):
    """What lies aside, as its envelope names it.

    copied: each call gets one of its own, which it may write into. buffer: it is one of pickle's, else it is bytes
    (copied: a bytearray).
    """

    digest: bytes
    size: int
    copied: bool
    buffer: bool


Fetch = Callable[[str, Part], bytes]  # the job, and what of it: the bytes, verified

# What fetches here: a worker's slot sets it for what it unpickles.
fetching: Final[ContextVar[Fetch | None]] = ContextVar("lastcall_fetching", default=None)


class Parcel:
    """Takes the large buffers of one value while it is pickled.

    job: with which they are kept. least: bytes of the smallest that is taken; limit: of the largest that may be sent.
    copied: the other side may write into what this one could write into; else it is read-only there.
    known: whether what has this digest is there already, and need not be sent.
    """

    __slots__ = ("_copied", "_known", "_least", "_limit", "_picky", "_seen", "job", "parts", "taken")

    def __init__(
        self, job: str, least: int, limit: int, *, copied: bool, known: Callable[[bytes], bool] = lambda _: False
    ) -> None:
        self.job = job
        self._copied = copied
        self._known = known
        self._least = least
        self._limit = limit
        self._picky = False  # whether bytes are looked for, too
        self._seen: dict[int, int] = {}
        self.taken: list[tuple[memoryview, bool, bool]] = []  # and whether it is copied there, and is a buffer
        self.parts: tuple[Part, ...] = ()

    def dump(self, value: object, pickler: Callable[..., Any], dumps: Callable[..., bytes]) -> bytes:
        """Pickle a value without what is taken of it. pickler, dumps: pickle's or cloudpickle's.

        Raises ItemTooLarge, and what they raise.
        """
        if not self._picky:
            self._clear()
            payload = dumps(value, 5, buffer_callback=self._take)
            if len(payload) < self._least:
                return payload
            # bytes are never given out of band: where they may be what makes it long, every object is looked at; at
            # once, should the same value be pickled again, by cloudpickle.
            self._picky = True
        self._clear()
        file = io.BytesIO()
        _picky(pickler)(self._take_bytes, file, 5, buffer_callback=self._take).dump(value)
        return file.getvalue()

    def _clear(self) -> None:
        self.taken.clear()
        self._seen.clear()

    def _take(self, buffer: pickle.PickleBuffer) -> bool:
        """pickle's buffer_callback: False where the buffer is taken, True where it is to be pickled."""
        raw = buffer.raw()
        if raw.nbytes < self._least:
            return True
        self._add(raw, self._copied and not raw.readonly, True)
        return False

    def _take_bytes(self, value: bytes | bytearray) -> int | None:
        """Its number where it is taken, else None."""
        if len(value) < self._least:
            return None
        at = self._seen.get(id(value))  # it may be there twice
        if at is None:
            at = self._seen[id(value)] = len(self.taken)
            self._add(memoryview(value), type(value) is bytearray, False)
        return at

    def _add(self, raw: memoryview, copied: bool, buffer: bool) -> None:
        if raw.nbytes > self._limit:
            raise ItemTooLarge(raw.nbytes, self._limit)
        self.taken.append((raw, copied, buffer))

    def seal(self, digest: Callable[[memoryview], bytes]) -> tuple[Part, ...]:
        """Name what was taken. What is to be sent is copied, if another thread may write into it meanwhile: else it
        might not be what its name says, and be refused.
        """
        parts = []
        for at, (raw, copied, buffer) in enumerate(self.taken):
            name = digest(raw)
            if not raw.readonly and not self._known(name):
                copy = memoryview(bytes(raw))
                name = digest(copy)
                self.taken[at] = copy, copied, buffer
            parts.append(Part(name, raw.nbytes, copied, buffer))
        self.parts = tuple(parts)
        return self.parts

    @property
    def contents(self) -> dict[bytes, memoryview]:
        """What was taken, by its digest: what is there twice, once."""
        return {part.digest: raw for part, (raw, *_) in zip(self.parts, self.taken, strict=True)}


@cache
def _picky(pickler: Any) -> Callable[..., Any]:
    """A pickler that asks whether bytes are taken. By a class of its own: in Python 3.13 an instance of pickle's has no
    persistent_id to be set."""

    class Picky(pickler):  # type: ignore[misc]
        def __init__(self, take: Callable[[bytes | bytearray], int | None], *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._take = take

        def persistent_id(self, value: object) -> int | None:
            return self._take(value) if type(value) is bytes or type(value) is bytearray else None

    return Picky


class _Unpickler(Loader):
    def __init__(self, payload: bytes, data: list[bytes | bytearray], parts: list[Part]) -> None:
        super().__init__(
            io.BytesIO(payload), buffers=[one for one, part in zip(data, parts, strict=True) if part.buffer]
        )
        self._data = data

    def persistent_load(self, at: int) -> bytes | bytearray:
        return self._data[at]


def rebuild(job: str, parts: Iterable[Iterable[Any]], payload: bytes) -> Any:
    """The value that a parcel was taken of; inside an envelope that was verified. Raises AsideLost, BadEnvelope."""
    fetch = fetching.get()
    if fetch is None:
        raise AsideLost(job, "it is for functions that workers run, and this is none")
    named = [Part(*part) for part in parts]
    return _Unpickler(payload, [_own(fetch(job, part), part) for part in named], named).load()


def _own(data: bytes, part: Part) -> bytes | bytearray:
    if part.copied:
        return bytearray(data)
    # Only a buffer is surely read-only. bytes may be what __setstate__ takes: numpy makes an array of them that can be
    # written into and is no copy (a view with gaps, a masked array, ...), and other calls are to have these, too.
    return data if part.buffer else bytes(memoryview(data))
