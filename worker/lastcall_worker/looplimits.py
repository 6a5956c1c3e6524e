"""Time limits of coroutines, on their loop: asyncio's own end them.

A coroutine that blocks the loop, or does not end when it is cancelled, the worker's main process sees in the table
(limits.py), which has one row for all of a slot's: for the one that is to end next.
"""

from __future__ import annotations

import heapq
import itertools
import time
from typing import TYPE_CHECKING

from lastcall_worker import limits

if TYPE_CHECKING:
    from lastcall_worker.slot import Slot


class Limits:
    """Time limits of the items of one flight."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._row = slot.station.row
        self._order = itertools.count()
        self._heap: list[tuple[float, int, str, int, int | None, float]] = []
        self._there: set[int] = set()
        self._written = -1

    def begin(self, chunk: str, at: int, delay_ms: int | None, timeout_s: float) -> int:
        number = next(self._order)
        until = time.monotonic() + timeout_s + limits.GRACE_S
        heapq.heappush(self._heap, (until, number, chunk, at, delay_ms, timeout_s))
        self._there.add(number)
        if self._heap[0][1] == number:
            self._write()
        return number

    def end(self, number: int) -> bool:
        """False if it had been dealt with as late."""
        self._there.discard(number)
        if number != self._written:
            return True
        in_time = limits.table.clear(self._row)
        self._written = -1
        while self._heap and self._heap[0][1] not in self._there:
            heapq.heappop(self._heap)
        if self._heap:
            self._write()
        return in_time

    def clear(self) -> None:
        self._heap.clear()
        self._there.clear()
        limits.table.clear(self._row)

    def _write(self) -> None:
        until, self._written, chunk, at, delay_ms, timeout_s = self._heap[0]
        slot = self._slot
        limits.table.write(
            self._row, slot.address, slot.ticket, chunk, at, delay_ms, timeout_s, left_s=until - time.monotonic()
        )
