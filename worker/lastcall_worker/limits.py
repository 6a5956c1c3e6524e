"""Time limits of items: what a slot says of the item that it runs, and the alarm that ends it.

A slot that runs an item with a timeout writes what it runs, and until when it may, into a row of a table that its
worker's main process reads (watch.py): shared memory, so that a process which is frozen, or hangs in C, has said it.
In a process's main thread an alarm raises ItemTimeout in the function when its time is over. Elsewhere nothing can
end a function from outside: an exception that is forced into a thread may leave its locks and files in any state.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from billiard.process import current_process

if TYPE_CHECKING:
    from types import FrameType

GRACE_S: Final = 1.0  # from the alarm until the process is killed

ROWS: Final = 4096  # of the tables in shared memory: moved.py has the other
_ROW: Final = 1024
_A_PROCESS: Final = 8  # rows of a prefork child: one, and more where a function waits for others and runs them
_FACTS = struct.Struct("<IIqq480s480s")  # pid, item, delay, timeout, chunk, "address ticket"
_TEXT_BYTES: Final = 480
_DEADLINE = struct.Struct("d")


class Late(NamedTuple):
    """An item whose time is over. item: its number in its chunk, from 0; delay_ms: until its next try, None if none."""

    row: int
    deadline: float
    pid: int
    address: str
    ticket: str
    chunk: str
    item: int
    delay_ms: int | None
    timeout_ms: int


class Table:
    """The rows of one worker: made in its main process, inherited by its children."""

    def __init__(self) -> None:
        # Deadlines first, side by side, so that who looks for late ones touches nothing else.
        memory = memoryview(mmap.mmap(-1, ROWS * (_DEADLINE.size + _ROW)))
        self._deadlines = memory[: ROWS * _DEADLINE.size].cast("d")
        self._facts = memory[ROWS * _DEADLINE.size :]

    def write(
        self, row: int, address: str, ticket: str, chunk: str, item: int, delay_ms: int | None, timeout_s: float,
        *, left_s: float | None = None,
    ) -> bool:  # fmt: skip
        """Say what is run from now on. False if there is no room for it: then only the alarm ends it.

        left_s: what is left of its time, if that is not all.
        """
        what, where = chunk.encode(), f"{address} {ticket}".encode()
        if row >= ROWS or max(len(what), len(where)) > _TEXT_BYTES:
            return False
        if left_s is None:
            left_s = timeout_s + (GRACE_S if has_alarm() else 0.0)
        self._deadlines[row] = 0.0  # one that a killed process left behind is not of what follows
        _FACTS.pack_into(
            self._facts, row * _ROW, os.getpid(), item, -1 if delay_ms is None else delay_ms,
            int(timeout_s * 1000), what, where,
        )  # fmt: skip
        # Last: who reads a deadline reads what belongs to it.
        self._deadlines[row] = time.monotonic() + left_s
        return True

    def clear(self, row: int) -> bool:
        """Nothing with a timeout is run there. False if it had been dealt with as late."""
        if row >= ROWS:
            return True
        in_time = self._deadlines[row] != 0.0
        self._deadlines[row] = 0.0
        return in_time

    def settled(self, late: Late) -> bool:
        """It was dealt with. False if something else is run there by now, or nothing."""
        still = bool(self._deadlines[late.row] == late.deadline)
        if still:
            self.clear(late.row)
        return still

    def late(self) -> list[Late]:
        """What should have ended by now."""
        now = time.monotonic()
        found = []
        for row, deadline in enumerate(self._deadlines.tolist()):
            if not 0.0 < deadline <= now:
                continue
            pid, item, delay_ms, timeout_ms, chunk, where = _FACTS.unpack_from(self._facts, row * _ROW)
            address, _, ticket = where.rstrip(b"\0").decode().rpartition(" ")
            delay = None if delay_ms < 0 else delay_ms
            found.append(
                Late(row, deadline, pid, address, ticket, chunk.rstrip(b"\0").decode(), item, delay, timeout_ms)
            )
        return found


table = Table()  # made as the worker's module is loaded, before it has children


_numbers = itertools.count()  # of this process's rows
_free: list[int] = []


def is_child() -> bool:
    """Whether this is one of the processes of a prefork worker, not its main process."""
    return getattr(current_process(), "index", None) is not None


def take_row() -> int:
    """A row that nobody else writes: those of prefork children follow one another."""
    index = getattr(current_process(), "index", None)
    first = 0 if index is None else int(index) * _A_PROCESS
    try:
        return _free.pop()
    except IndexError:
        number = next(_numbers)
        return first + number if index is None or number < _A_PROCESS else ROWS


def give_row(row: int) -> None:
    """It is not used any more."""
    table.clear(row)
    _free.append(row)


def has_alarm() -> bool:
    """Whether a function that runs here can be ended by an alarm."""
    return threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")


@contextlib.contextmanager
def alarm(timeout_s: float, error: Callable[[], BaseException]) -> Iterator[None]:
    """Raise `error()` inside when the time is over; elsewhere than in the main thread nothing happens."""
    if not has_alarm():
        yield
        return
    armed = True

    def ring(_: int, __: FrameType | None) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise error()

    before: Any = signal.signal(signal.SIGALRM, ring)
    # Of the caller's own alarm, if there is one, what is left; it then comes late, but it comes.
    left_s, every_s = signal.setitimer(signal.ITIMER_REAL, timeout_s)
    began = time.monotonic()
    try:
        yield
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        _go_on(left_s, every_s, began)


@contextlib.contextmanager
def no_alarm() -> Iterator[None]:
    """Inside no alarm rings that was set outside; one whose time comes meanwhile rings afterwards."""
    if not has_alarm():
        yield
        return
    left_s, every_s = signal.setitimer(signal.ITIMER_REAL, 0)
    began = time.monotonic()
    try:
        yield
    finally:
        _go_on(left_s, every_s, began)


def _go_on(left_s: float, every_s: float, since: float) -> None:
    """Set the alarm again that had `left_s` to go at that time, if there was one."""
    if left_s:
        signal.setitimer(signal.ITIMER_REAL, max(left_s - (time.monotonic() - since), 1e-6), every_s)
