"""Monitored: a chunk as monitors see it."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from reprlib import Repr
from typing import TYPE_CHECKING, Any

from lastcall.outcome import PackedError
from lastcall.payload import CALL
from lastcall_worker.events import Call

if TYPE_CHECKING:
    from lastcall_worker.events import TaskEvents
    from lastcall_worker.station import Work


class _Repr(Repr):
    def repr_bytes(self, value: bytes | bytearray, level: int) -> str:
        """Without writing out all of it, which may be millions of characters."""
        most = self.maxother
        return self.repr_instance(value if len(value) <= most else value[:most] + value[-most:], level)

    repr_bytearray = repr_bytes


_repr = _Repr()
_repr.maxstring = _repr.maxother = 120


class Monitored:
    """A chunk: one task, under the user's function's name; one more for each failed item."""

    __slots__ = ("args", "kwargs", "name", "received", "uuid")

    def __init__(self, received: float) -> None:
        self.received = received
        self.uuid = str(uuid.uuid4())
        self.name = self.args = self.kwargs = ""

    def describe(self, work: Work, items: list[Any]) -> None:
        self.name, self.kwargs = work.name, "{}"
        if work.style == CALL and items[0] is not None:
            wire, args, kwargs, _ = items[0]
            self.name, self.args, self.kwargs = wire[1], _repr.repr(tuple(args)), _repr.repr(kwargs)
        elif len(items) == 1:
            self.args = self._of(items[0])
        else:
            self.args = _repr.repr(tuple(items))

    def started(self, events: TaskEvents) -> None:
        events.started(self._call(self.uuid, self.args))

    def ended(
        self, events: TaskEvents, items: list[Any], values: list[Any], errors: dict[int, PackedError],
        again: Collection[int], runtime_s: float,
    ) -> None:  # fmt: skip
        identity = self.uuid
        if len(errors) < len(values):
            result = _repr.repr(values[0] if len(values) == 1 else values)
            events.finished(self._call(identity, self.args), runtime_s, result)
            identity = ""
        for at, (_, type_name, message, text, _) in errors.items():
            call = self._call(identity or str(uuid.uuid4()), self.args if len(items) == 1 else self._of(items[at]))
            raised = f"{type_name.removeprefix('builtins.')}({message!r})"
            tell = events.retried if at in again else events.failed
            tell(call, runtime_s, raised, text)
            identity = ""

    def _call(self, identity: str, args: str) -> Call:
        return Call(identity, self.name, args, self.kwargs, self.received, self.received)

    @staticmethod
    def _of(item: Any) -> str:
        return f"({_repr.repr(item)},)"
