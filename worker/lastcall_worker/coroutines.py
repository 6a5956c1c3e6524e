"""Coroutines in a slot: the items of its chunks run at the same time, up to the queue's `concurrency`.

They run on the process's loop (loop.py); the slot's own thread completes chunks as they end and claims others beside
those that are under way, so that nobody waits for the slowest item of a chunk.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from lastcall.current import running as running_here
from lastcall.errors import BlocksLoop, ItemTimeout, LastcallError
from lastcall.outcome import PackedError, pack_error
from lastcall.payload import CALL, STAR, Origin
from lastcall.policy import Policy
from lastcall.waiting import AWAY
from lastcall_worker import starters
from lastcall_worker.loop import enter_place, is_here, loop
from lastcall_worker.looplimits import Limits
from lastcall_worker.monitored import Monitored
from lastcall_worker.running import Running
from lastcall_worker.slot import Slot, policy_of
from lastcall_worker.station import TicketOver

if TYPE_CHECKING:
    from lastcall.state.ledger import Ledger
    from lastcall.state.records import Chunk, Claim, Completion
    from lastcall_worker.station import Work

_log = logging.getLogger(__name__)

_MOST_CHUNKS: Final = 64  # that are claimed at once
_FIRST_ITEMS: Final = 16  # that are claimed at first
_LOOK_S: Final = 0.005  # until a slot with room looks for more, if nothing was ready; twice that the next time, up to
_SELDOM_S: Final = 0.05
_FULL_S: Final = 1.0  # until a slot without room looks whether its queue was cancelled


class Item(Running):
    """What `lastcall.current` tells in a coroutine."""

    __slots__ = ("_at",)

    def __init__(self, slot: Slot, work: Work, chunk: Chunk, at: int) -> None:
        super().__init__(slot, work, chunk)
        self._at = at

    @property
    def at(self) -> int:
        return self._at

    def check_wait(self, what: str, twin: str) -> None:
        if is_here():
            raise BlocksLoop(what, twin)

    def help(self, ledger: Ledger) -> bool:
        self.check_wait(f"queue {ledger.shown}", "")
        return super().help(ledger)


class Airborne:
    """A chunk whose items run."""

    __slots__ = (
        "again", "began", "call", "chunk", "errors", "items", "left", "origins", "positions", "share_s", "values",
    )  # fmt: skip

    def __init__(
        self, chunk: Chunk, items: list[Any], errors: dict[int, PackedError], origins: list[Origin] | None = None,
        positions: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.origins = origins
        self.chunk, self.items, self.errors, self.positions = chunk, items, errors, positions
        self.values: list[Any] = [None] * len(items)
        self.again: dict[int, int] = {}
        self.left = len(items) - len(errors)
        self.began = time.perf_counter()
        self.share_s = 0.0  # of the slot's time
        self.call = Monitored(time.time())


class Flight:
    """The chunks that one ticket's slot has under way.

    What begins with `_` and is said to run on the loop does; the rest is the slot's.
    """

    def __init__(self, slot: Slot, work: Work) -> None:
        self._slot, self._work = slot, work
        self._loop = loop()
        self._chunks: list[Airborne] = []  # in hand
        self._landed: deque[Airborne] = deque()
        self._moved = threading.Condition()
        self._over = False  # what runs is not ours any more
        self._late = False  # the worker has ended the ticket
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = 0
        self._blocked = 0  # items that wait for others of their function
        self._ahead = 0  # items that were handed to the loop; what has begun of them is counted there
        self._begun = 0
        self._turns: dict[Any, asyncio.Semaphore] = {}
        self._limits = Limits(slot)
        self._items = 1.0  # of a chunk, as last seen

    def __len__(self) -> int:
        return len(self._chunks)

    @property
    def room(self) -> int:
        """For how many chunks there is room. At least one where nothing is under way."""
        if not self._chunks:
            return max(1, min(_MOST_CHUNKS, int(self._work.concurrency / self._items)))
        if self._blocked or self.behind or any(one.chunk.tries for one in self._chunks):
            return 0  # one that may have killed its slot runs alone
        free = self._work.concurrency - sum(one.left for one in self._chunks)
        return max(0, min(_MOST_CHUNKS, int(free / self._items)))

    @property
    def behind(self) -> bool:
        """Whether the loop has not come to all that it was handed: what runs there computes, and others had better take
        what else there is."""
        return self._begun < self._ahead

    @property
    def most_items(self) -> int:
        """That are claimed at once: as many as have begun, so that it shows early if they compute."""
        return max(_FIRST_ITEMS, self._begun)

    def start(self, chunk: Chunk) -> None:
        """Open a chunk and run its items."""
        slot, work = self._slot, self._work
        items, errors = slot.open(work, chunk)
        one = Airborne(chunk, items, errors, slot.origins)
        self._items = max(1, chunk.items)
        if slot.events is not None:
            one.call.describe(work, items)
            one.call.started(slot.events)
        unable = work.error
        if unable is None and work.starter is not None:
            unable = starters.ready(work.starter, slot.station.node, slot.station.sealer)
        if unable is not None:
            one.errors = dict.fromkeys(range(len(items)), unable)
            one.left = 0
        self._chunks.append(one)
        self.launch(one)

    def launch(self, one: Airborne) -> None:
        """Run the items of a chunk that have no error yet."""
        work, station = self._work, self._slot.station
        ready = []
        for at, item in enumerate(one.items):
            if at in one.errors:
                continue
            function: Any = work.function
            if work.style == CALL:
                try:
                    function = station.load(item[0], work.starter)
                except BaseException as error:  # whatever importing raises
                    self._fail(one, at, error)
                    one.left -= 1
                    continue
            ready.append((at, item, function))
        if one.left:
            self._ahead += len(ready)
            self._loop.call_soon_threadsafe(self._launch, one, ready)
        else:
            self._land(one)

    def wait(self, timeout_s: float | None) -> list[Airborne]:
        """The chunks that have ended, as soon as there are some. Raises TicketOver."""
        with self._moved:
            if not self._landed and not self._late:
                self._moved.wait(timeout_s)
            landed = list(self._landed)
            self._landed.clear()
        if self._late:
            raise TicketOver
        return landed

    def finish(self, one: Airborne) -> Completion:
        """Say what a chunk came to that has ended."""
        slot = self._slot
        self._chunks.remove(one)
        slot.origins = one.origins
        completion = slot.pack(self._work, one.chunk, one.values, one.errors, one.again, max(1, int(one.share_s * 1e6)))
        if slot.events is not None:
            took_s = time.perf_counter() - one.began
            one.call.ended(slot.events, one.items, one.values, one.errors, one.again, took_s)
        return completion

    def cancel(self) -> None:
        """Cancel what is under way: its ticket is over."""
        self._over = True
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:  # on the loop
        for task in self._tasks:
            task.cancel()
        self._limits.clear()

    def _launch(self, one: Airborne, ready: Sequence[tuple[int, Any, Callable[..., Any]]]) -> None:  # on the loop
        for at, item, function in ready:
            task = self._loop.create_task(self._run(one, at, item, function))
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, one, at))

    def _ended(self, one: Airborne, at: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() and one.values[at] is None and at not in one.errors:
            self._fail(one, at, asyncio.CancelledError())  # by another one of the loop, before it began
        one.left -= 1
        if not one.left:
            self._land(one)

    async def _run(self, one: Airborne, at: int, item: Any, function: Callable[..., Any]) -> None:
        self._begun += 1
        work = self._work
        policy = policy_of(work, item)
        place = at if one.positions is None else one.positions[at]
        running_here.set(Item(self._slot, work, one.chunk, place))
        enter_place()
        try:
            async with self._in_turn(one, item, policy):
                one.values[at] = await self._limited(one, place, item, function, policy)
        except BaseException as error:  # whatever a function raises is its item's outcome
            if not self._over:
                self._failed(one, at, error, policy)

    @contextlib.asynccontextmanager
    async def _in_turn(self, one: Airborne, item: Any, policy: Policy) -> AsyncIterator[None]:
        """While no more run than may, and counted."""
        turn = self._turn(item, policy)
        self._blocked += 1
        try:
            await turn.acquire()
        finally:
            self._blocked -= 1
        self._running += 1
        began, beside = time.perf_counter(), self._running
        try:
            yield
        finally:
            turn.release()
            beside = max(beside, self._running)
            self._running -= 1
            one.share_s += (time.perf_counter() - began) / beside

    def _turn(self, item: Any, policy: Policy) -> asyncio.Semaphore:
        """Of the queue's items; of calls, those of the same function."""
        key = (tuple(item[0]), policy.concurrency) if self._work.style == CALL else None
        turn = self._turns.get(key)
        if turn is None:
            most = policy.concurrency if self._work.style == CALL else 0
            turn = self._turns[key] = asyncio.Semaphore(most or self._work.concurrency)
        return turn

    async def _limited(self, one: Airborne, at: int, item: Any, function: Callable[..., Any], policy: Policy) -> Any:
        if not policy.timeout_s:
            return await self._apply(item, function)
        chunk = one.chunk
        error = ItemTimeout(self._work.ledger.shown, chunk.start + at, policy.timeout_s, chunk.raises + 1)
        delay_ms = policy.delay_ms(chunk.raises) if policy.retries_after(error, chunk.raises) else None
        limit = self._limits.begin(chunk.id, at, delay_ms, policy.timeout_s)
        try:
            async with asyncio.timeout(policy.timeout_s) as scope:
                return await self._apply(item, function)
        except BaseException:
            if scope.expired():
                raise error from None
            raise
        finally:
            if not self._over and not self._limits.end(limit):
                with self._moved:
                    self._late = True
                    self._moved.notify()

    async def _apply(self, item: Any, function: Callable[..., Any]) -> Any:
        style = self._work.style
        if style == CALL:
            result = function(*item[1], **item[2])
        elif style == STAR:
            result = function(*item)
        else:
            result = function(item)
        # A worker's version of a function may be no coroutine.
        return await result if inspect.isawaitable(result) else result

    def _failed(self, one: Airborne, at: int, error: BaseException, policy: Policy) -> None:
        if isinstance(error, SystemExit | KeyboardInterrupt):
            error = RuntimeError("the function ended its event loop")
        raises = one.chunk.raises
        if policy.retries_after(error, raises):
            one.again[at] = policy.delay_ms(raises)
        self._fail(one, at, error)

    def _fail(self, one: Airborne, at: int, error: BaseException) -> None:
        one.errors[at] = pack_error(error, self._slot.station.sealer.keyed)
        one.values[at] = None

    def _land(self, one: Airborne) -> None:
        with self._moved:
            self._landed.append(one)
            self._moved.notify()


def apply(
    slot: Slot, work: Work, running: Running, items: list[Any], again: dict[int, int], positions: Sequence[int] | None
) -> tuple[list[Any], dict[int, PackedError]]:
    """Run items of one chunk at the same time, and wait for them: where a slot runs a chunk in place."""
    flight = Flight(slot, work)
    one = Airborne(running.chunk, items, {}, positions=positions)
    flight.launch(one)
    try:
        flight.wait(None)
    except BaseException:
        flight.cancel()
        raise
    again.update(one.again)
    return one.values, one.errors


def run(slot: Slot, work: Work) -> None:
    """Run a slot's ticket on a queue of coroutines, as Slot.run() does on others."""
    station = slot.station
    flight = Flight(slot, work)
    end = time.monotonic() + station.settings.slice_s
    completions: list[Completion] = []
    busy_s, waited, leaving, look_s = 0.0, False, False, _LOOK_S
    claim: Claim | None = None
    try:
        while True:
            if claim is None:
                if not leaving and time.monotonic() >= end:
                    leaving = not (flight and _may_stay(slot, work))
                    end = time.monotonic() + station.settings.slice_s
                left = starters.left(work.starter)
                leaving = leaving or not left
                want = 0 if leaving else min(flight.room, left)
                claim = slot._next(
                    work, want, completions, waited, busy_s, known=len(flight), most_items=flight.most_items
                )
            slot.send_downstream(work, claim)
            if claim.lost or claim.ended:
                break
            completions, busy_s, waited = [], 0.0, False
            for chunk in claim.chunks:
                flight.start(chunk)
            if flight:
                look_s = _LOOK_S if claim.chunks else min(2 * look_s, _SELDOM_S)
                # Where as many came as were asked for, there may be more.
                pause_s = look_s if (flight.room or flight.behind) and not leaving else _FULL_S
                if claim.wait_ms:
                    pause_s = claim.wait_ms / 1000
                for one in flight.wait(0 if len(claim.chunks) == _MOST_CHUNKS else pause_s):
                    completions.append(flight.finish(one))
                    busy_s += one.share_s
            elif leaving:
                if not claim.tickets or slot.send(work.celery, slot.address, claim.tickets):
                    break
                slot.take_on(claim.tickets[0])
                starters.count_anew(work.starter)
                leaving = False
            else:
                if slot.events is not None:
                    slot.events.flush()
                claim, leaving = (claim, True) if claim.called else slot.linger(work, claim, want, flight.most_items)
                waited = leaving
                if not leaving:
                    continue
            claim = None
    except TicketOver:
        pass
    finally:
        if flight:
            flight.cancel()
        if slot.events is not None:
            slot.events.flush()


def _may_stay(slot: Slot, work: Work) -> bool:
    """Whether nobody waits for the slot, nor its worker leaves: then what runs need not come to an end first."""
    station = slot.station
    with contextlib.suppress(LastcallError, *AWAY):
        return work.celery in station.served() and not station.tickets.waiting(work.celery)
    return False
