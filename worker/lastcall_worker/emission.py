"""emission: functions that give many outputs for an item.

A generator whose outputs grow too large, or that takes its time, has them sent before it is done, and goes on when
there is room for more.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lastcall.errors import NotSerializable
from lastcall.outcome import PackedError
from lastcall.state.records import Output, part_of
from lastcall.waiting import AWAY
from lastcall_worker import limits
from lastcall_worker.outputs import MOST_BYTES, last_way, name_of, origins_of, seal_output
from lastcall_worker.station import TicketOver, bear

if TYPE_CHECKING:
    from lastcall.state.records import Chunk, Completion, Emitted
    from lastcall_worker.running import Running
    from lastcall_worker.slot import Slot
    from lastcall_worker.station import Work

_MOST_ITEMS = 1_000  # outputs that are held back
_LONG_S = 0.5  # for which outputs are held back
_ROOM_S = 1.0  # how long to wait for the room bell before looking again


def many(work: Work, running: Running, function: Callable[[Any], Iterable[Any]]) -> Callable[[Any], list[Any]]:
    """A function that gives an iterable, as one that gives a list: of the outputs that were not emitted."""
    fold = work.fold

    def outputs(item: Any) -> list[Any]:
        given = function(item)
        if fold is not None:
            values = iter(given)
            return [functools.reduce(fold, values, first) for first in values]
        if isinstance(given, list | tuple):
            return list(given[running.chunk.skip :])
        if running.emission is None:
            return list(given)
        return running.emission.collect(iter(given))

    return outputs


class Emission:
    """Of a chunk's items: sends outputs of the one that runs; with the first, what was done before in the same hand."""

    def __init__(
        self, slot: Slot, work: Work, running: Running, values: list[Any], errors: dict[int, PackedError],
        again: dict[int, int], items: list[Any],
    ) -> None:  # fmt: skip
        self._slot, self._work, self._running = slot, work, running
        self._values, self._errors, self._again, self._items = values, errors, again, items
        self._part: Chunk | None = None  # the item that runs, a chunk of its own since outputs of it were emitted
        self._limit: tuple[int | None, float] = (None, 0.0)  # delay before another attempt, when the item is late

    def limit(self, delay_ms: int | None, timeout_s: float) -> None:
        """An item begins that has a time limit; 0: that nobody looks at."""
        self._limit = (delay_ms, time.monotonic() + timeout_s if timeout_s else 0.0)

    def left(
        self, items: list[Any], values: list[Any], errors: dict[int, PackedError], again: dict[int, int]
    ) -> tuple[Chunk, list[Any], list[Any], dict[int, PackedError], dict[int, int]]:
        """What is still to be said: of the whole chunk or, where outputs were emitted, of the item that they are of."""
        if self._part is None:
            return self._running.chunk, items, values, errors, again
        at = len(values) - 1
        mine: dict[int, Any] = {0: errors[at]} if at in errors else {}
        if self._slot.origins is not None:
            self._slot.origins = [self._slot.origins[at]]
        delays = {0: again[at]} if at in again else {}
        return self._part, [items[at]], [values[at]], mine, delays

    def collect(self, outputs: Iterator[Any]) -> list[Any]:
        """Outputs, but for those that are emitted, or were in an attempt before."""
        for _ in range(self._running.chunk.skip):
            next(outputs, None)
        held: list[Any] = []
        largest, since = 0, time.monotonic()
        for output in outputs:
            held.append(output)
            count = len(held)
            if count & (count - 1) == 0:  # measured less and less often: they are alike
                largest = max(largest, self._size(output))
            if (
                count >= _MOST_ITEMS
                or count * largest >= MOST_BYTES
                or time.monotonic() - since >= _LONG_S
            ):  # fmt: skip
                self._emit(held)
                held = []
                since = time.monotonic()
        return held

    def _size(self, output: Any) -> int:
        try:
            return len(self._slot.station.sealer.dump(output))
        except NotSerializable:
            return 0  # it is told of at the end

    def _emit(self, values: list[Any]) -> None:
        slot, running = self._slot, self._running
        table, row = limits.table, slot.station.row
        delay_ms, until = self._limit
        if until and not table.clear(row):  # the item's time stands still meanwhile
            raise TicketOver
        began = time.monotonic()
        with limits.no_alarm():
            self._send(values)
        if until:
            assert self._part is not None
            until += time.monotonic() - began
            self._limit = (delay_ms, until)
            left_s = max(until - time.monotonic(), 1e-3)
            table.write(row, slot.address, slot.ticket, self._part.id, 0, delay_ms, left_s)
        if running.at + 1 < len(self._items):
            del self._items[running.at + 1 :]  # they are others' by now

    def _send(self, values: list[Any]) -> None:
        slot, work, running = self._slot, self._work, self._running
        chunk, at = running.chunk, running.at
        item = chunk.start + at
        part = self._part or part_of(chunk, item)
        completions: list[Completion] = []
        if self._part is None:
            completions += slot.before
            if at:
                before = chunk._replace(id=f"{chunk.root}/{chunk.start}:{item}", items=at)
                errors = {index: error for index, error in self._errors.items() if index < at}
                again = {index: delay for index, delay in self._again.items() if index < at}
                completions.append(slot.pack(work, before, self._values[:at], errors, again, 0))
        origin = origins_of(slot, chunk, [at])
        name = name_of(work, part, item, item + 1, part.parts)
        # What cannot be sent is this item's error, whose outputs end here.
        output = seal_output(slot, work, name, values, origin and origin * len(values))
        self._until_there_is_room(part, item, output, part.skip + len(values), completions)
        slot.before = []
        self._part = part._replace(parts=part.parts + 1, skip=part.skip + len(values))

    def _until_there_is_room(
        self, part: Chunk, item: int, output: Output, skip: int, completions: list[Completion]
    ) -> None:
        slot, work = self._slot, self._work
        chunk = self._running.chunk if self._part is None else part
        registry = slot.station.registry

        def emit() -> Emitted:
            return work.ledger.emit(
                slot.ticket, slot.nonce, chunk, item, [output],
                parts=part.parts, skip=skip, way=last_way(work), completions=completions,
                cap=registry.slots(work.celery),
                downstream_cap=registry.slots(work.down_celery) if work.down_celery else 0,
            )  # fmt: skip

        while True:
            emitted = bear(emit)
            if emitted.lost:
                raise TicketOver
            slot.send_downstream(work, emitted)
            slot.send(work.celery, slot.address, emitted.tickets)
            if not emitted.full:
                return
            if not self._help():
                with suppress(*AWAY):
                    slot.station.redis.blpop([work.ledger.room_key], timeout=_ROOM_S)

    def _help(self) -> bool:
        """Run what makes room: a chunk of a queue downstream, or the one for whose outputs those at the gate wait.

        Else all slots might wait for each other.
        """
        ledger, slot = self._work.ledger, self._slot
        with suppress(*AWAY):
            downstream = ledger.names[1:]
            if any(slot.help(ledger.other(name), 1) for name in downstream):
                return True
            others = (name for name in ledger.names_of_job() if name not in downstream)
            return any(slot.help(ledger.other(name), -2) for name in others)
        return False
