"""The slot: what the one Celery task does. It completes the chunk in hand and claims the next, in one round trip,
until nothing is ready or its time slice is over.

Everything that a slot needs of its process is in its Station (station.py).
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.app.task import Task
from redis.exceptions import RedisError

from lastcall.connection import Connection
from lastcall.current import running as running_here
from lastcall.errors import (
    BadEnvelope,
    LastcallError,
    NotDeserializable,
    ServerOutOfMemory,
    ServerReadOnly,
    ServerUnreachable,
    UnknownJob,
)
from lastcall.flowoptions import MANY
from lastcall.outcome import PackedError, pack_error
from lastcall.payload import (
    CALL,
    STAR,
    Origin,
    open_each,
    open_items,
    open_traced,
)
from lastcall.policy import MOST_RETRIES, Policy
from lastcall.state.ledger import Ledger
from lastcall.state.records import Completion
from lastcall.tickets import SLOT_TASK
from lastcall.waiting import AWAY
from lastcall_worker import gather, limits, moved, outputs, packing, starters
from lastcall_worker.celerytask import AskedAgain, SoftItemTimeout
from lastcall_worker.emission import Emission, many
from lastcall_worker.limits import is_child
from lastcall_worker.loop import finish
from lastcall_worker.monitored import Monitored
from lastcall_worker.moved import Held
from lastcall_worker.notes import notes_of
from lastcall_worker.request import give_back
from lastcall_worker.running import Running
from lastcall_worker.station import Station, TicketOver, Work, bear
from lastcall_worker.station import station as a_station

if TYPE_CHECKING:
    from lastcall.settings import Settings
    from lastcall.starter import Starter
    from lastcall.state.records import Chunk, Claim, Emitted, Minted
    from lastcall_worker.events import TaskEvents

_HAND_S = 0.002  # work that a slot takes in hand at once, when chunks are much shorter than that
_MOST_CHUNKS = 16
_LONG_S = 0.1  # where a chunk took longer, the next is shown as started before it ends

_SOON_MS = 1000  # for which a slot waits itself until its queue's rate lets something through, or a delay is over
_BETWEEN_S = 0.005  # how long a slot lingers at most at a queue whose neighbours' tickets may wait for it
_NO_LIMIT_S = 10 * 365 * 86_400

_log = logging.getLogger(__name__)


class Slot:
    """One run of the slot task: a ticket, for at most a slice of time. beneath: whose function waits meanwhile."""

    def __init__(
        self, station: Station, address: str, ticket: str, events: TaskEvents | None, beneath: Slot | None = None
    ) -> None:
        self.station = station
        self.address = address
        self.ticket = ticket
        self.events = events
        self._beneath = beneath
        self._end = 0.0  # of the slice
        self._moves = 0
        self.nonce = uuid.uuid4().hex
        self._last_s = float("inf")  # what the last chunk took
        self._unready: PackedError | None = None  # why this process or thread cannot run the queue's items
        self._hand: deque[Chunk] = deque()  # calls that were claimed and are not begun
        self._completed: list[Completion] = []  # those that were
        self.origins: list[Origin] | None = None  # of the items of the chunk that was opened last
        self.before: list[Completion] = []  # what was done before in the same hand, and is not sent

    def help(self, ledger: Ledger, want: int = -1) -> bool:
        """Run a ready chunk of another queue here and now, if this worker serves that. want: which, as for next()."""
        station = self.station
        with a_station(station.app, station.settings, station.node) as other:
            work = other.work(ledger.address)
            if work is None or work.celery not in other.served():
                return False
            return Slot(other, ledger.address, f"helper-{uuid.uuid4().hex}", self.events, self).run_one(work, want)

    def run(self) -> None:
        """Run the queue's chunks, and those of its flow's other queues that have need of a slot when it has nothing."""
        station = self.station
        work = station.work(self.address)
        self._end = time.monotonic() + station.settings.slice_s
        moved.table.write(station.row, ())
        dying = False
        try:
            while work is not None:
                if work.concurrency:
                    from lastcall_worker import coroutines  # which build on what is here

                    coroutines.run(self, work)
                    self.issue(work)
                    break
                work = self._serve(work)
        except (SystemExit, KeyboardInterrupt) as error:
            dying = is_child()
            if self._moves and not dying:  # a solo worker goes on, and knows no other ticket than the one it was sent
                give_back(station.settings, self.address, self.ticket, crashed=True, why=repr(error), node=station.node)
            raise
        finally:
            if not dying:  # what a process held that dies its worker gives back
                moved.table.write(station.row, ())
        if self.events is not None:
            self.events.flush()
        starters.check_worn()

    def _serve(self, work: Work) -> Work | None:
        """Run a queue's chunks. Gives the work of the one to which the slot has moved, if it has."""
        station, settings = self.station, self.station.settings
        completions: list[Completion] = []
        busy_s, want, most_items, waited, leaving = 0.0, 1, 0, False, False
        claim: Claim | None = None
        while True:
            if claim is None:
                left = starters.left(work.starter)
                leaving = leaving or time.monotonic() >= self._end or not left
                claim = self._next(
                    work, 0 if leaving else min(want, left), completions, waited, busy_s, most_items=most_items
                )
            self.send_downstream(work, claim)
            if claim.ended and work.down_celery and work.between and self._move(work):
                return station.work(self.address)
            if claim.lost or claim.ended:
                break
            completions, busy_s, waited = [], 0.0, False
            if claim.chunks:
                began = time.perf_counter()
                try:
                    completions = self._complete_all(work, claim)
                except TicketOver:
                    self.issue(work)
                    break
                busy_s = time.perf_counter() - began
                # Very short chunks are taken several at a time; one that is not, alone. The next ones may be longer.
                in_hand = _HAND_S / max(busy_s, 1e-6)
                want = max(1, min(_MOST_CHUNKS, int(in_hand * len(completions))))
                most_items = max(1, int(in_hand * sum(chunk.items for chunk in claim.chunks)))
                if work.policy.timeout_s:
                    want = 1  # so that what is done does not wait beside an item that is late
            elif leaving:
                self.issue(work)
                if not claim.tickets or self.send(work.celery, self.address, claim.tickets):
                    break
                # The ticket that would go to the back of the line cannot: it is run here, so that the work goes on.
                self.take_on(claim.tickets[0])
                starters.count_anew(work.starter)
                leaving, self._end = False, time.monotonic() + settings.slice_s
            elif claim.called and self._move(work):
                return station.work(self.address)
            else:
                if self.events is not None:
                    self.events.flush()
                claim, leaving = self.linger(work, claim, min(want, left), most_items)
                if not leaving:
                    continue
                if work.between and self._move(work):
                    return station.work(self.address)
                waited = True
            claim = None
        return None

    def take_on(self, ticket: str) -> None:
        """Go on with another ticket of the same queue."""
        self.ticket = ticket
        self._moves += 1
        moved.table.write(self.station.row, [Held(self.address, ticket)])

    def _move(self, work: Work) -> bool:
        """Go on in another queue of the flow, with a ticket that is known there. False if none has need of a slot."""
        station, flow = self.station, self._flow(work)
        ticket = f"{self.nonce}-{self._moves + 1}"
        here = Held(self.address, self.ticket)
        there = [Held(f"{flow.job}/{name}", ticket) for name in flow.names if name != work.ledger.name]
        # Said before, so that whatever becomes of this process its tickets are known.
        if not moved.table.write(station.row, [here, *there]):
            return False
        self._moves += 1
        name = bear(lambda: flow.move(work.ledger.name, self.ticket, self.nonce, ticket, station.lease_ms))
        if name:
            self.address, self.ticket = f"{flow.job}/{name}", ticket
        moved.table.write(station.row, [Held(self.address, self.ticket)])
        return bool(name)

    def issue(self, work: Work) -> None:
        """The slot has left: send tickets to other queues of the flow, which counted on it."""
        if work.between:
            flow = self._flow(work)
            self._send_further(flow, bear(flow.issue))

    def _flow(self, work: Work) -> Ledger:
        """Of its flow's first queue, which has all others downstream of it."""
        if work.flow_ledger is None:
            try:
                work.flow_ledger = Ledger.open(self.station.redis, work.ledger.job, work.head)
            except UnknownJob:  # it has expired, since it ended long ago
                work.flow_ledger = work.ledger
        return work.flow_ledger

    def linger(self, work: Work, claim: Claim, want: int, most_items: int = 0) -> tuple[Claim, bool]:
        """Wait at the bell of a queue that had nothing, and claim. Gives what, and whether to leave then."""
        linger_s = self.station.settings.linger_s
        soon = 0 < claim.wait_ms <= _SOON_MS and (claim.wait_ms / 1000 <= linger_s or self._may_wait(work))
        pause_s = claim.wait_ms / 1000 if soon else min(linger_s, _BETWEEN_S) if work.between else linger_s
        if pause_s <= 0:  # which the server takes for no end
            return claim, True
        claim = self._next(work, want, [], True, 0.0, most_items=most_items, wait_s=pause_s)
        if claim.chunks or claim.ended or claim.lost:
            return claim, False
        return claim, time.monotonic() >= self._end or not (claim.rang or soon)

    def _may_wait(self, work: Work) -> bool:
        """Whether no ticket waits for this slot."""
        with suppress(LastcallError, *AWAY):
            return not self.station.tickets.waiting(work.celery)
        return False

    def _next(
        self, work: Work, want: int, completions: list[Completion], waited: bool, busy_s: float,
        *, known: int = 0, most_items: int = 0, wait_s: float = 0.0,
    ) -> Claim:  # fmt: skip
        """Complete and claim; again and again where the server is away, so that what is done is not done anew.

        Asked again, the ledger gives the same answer. Raises redis-py's errors after a minute.
        """
        station = self.station
        return bear(
            lambda: work.ledger.next(
                self.ticket, self.nonce, station.lease_ms, want,
                completions=completions, waited=waited, busy_us=int(busy_s * 1e6),
                downstream_cap=station.registry.slots(work.down_celery) if work.down_celery else 0, known=known,
                most_items=most_items if want > 1 else 0, wait_s=wait_s,
            )
        )  # fmt: skip

    def send_downstream(self, work: Work, claim: Claim | Emitted) -> None:
        """Send the tickets that queues downstream lack now."""
        ledger = work.ledger
        if claim.downstream_tickets:
            self.send(work.down_celery, f"{ledger.job}/{ledger.names[1]}", claim.downstream_tickets)
        self._send_further(ledger, claim.further)

    def _send_further(self, ledger: Ledger, minted: Sequence[Minted]) -> None:
        for name, tickets in minted:
            further = ledger.other(name)
            self.send(further.celery_queue(), further.address, tickets)

    def running(self, work: Work, chunk: Chunk) -> Running:
        """What `current` tells while that chunk runs."""
        return Running(self, work, chunk)

    def _complete_all(self, work: Work, claim: Claim) -> list[Completion]:
        """Run what was claimed and say what it came to."""
        if work.gather:
            return gather.complete(self, work, claim)
        if work.style == CALL:
            self._hand, self._completed = deque(claim.chunks), []
            while self._hand:
                self._completed.append(self._complete(work, self._hand.popleft()))
            return self._completed
        completions: list[Completion] = []
        for chunk in claim.chunks:
            self.before = completions
            completions.append(self._complete(work, chunk))
            if self.before is not completions:  # an item's outputs were emitted, and so all else is settled
                return completions[-1:]
        return completions

    def send(self, celery_queue: str, address: str, tickets: Sequence[str]) -> bool:
        """Send tickets; False if that is not possible now. The reaper replaces those that nobody runs."""
        try:
            self.station.tickets.send(celery_queue, address, tickets)
        except (ServerUnreachable, ServerReadOnly, ServerOutOfMemory) as error:
            _log.warning("tickets for queue %s are not sent now: %s", address, error)
            return False
        return True

    def run_one(self, work: Work, want: int = -1) -> bool:
        """Run one ready chunk with a ticket of its own, beside those that the queue has given out. Whether there was
        one. want: which, as Ledger.next() has it."""
        station, ledger = self.station, work.ledger
        status = ledger.status()
        if not status.chunks_ready or (work.max_workers and status.started >= work.max_workers):
            return False
        if ledger.enroll(self.ticket, self.nonce, station.lease_ms):
            return False
        heart = Connection.of(station.settings).heart  # the worker renews the tickets that it was sent
        heart.hold_ticket(ledger, self.ticket, _nothing)
        moved.table.write(station.row, [Held(self.address, self.ticket)])
        try:
            # The newest: what is waited for was put last, and what is older may wait for it.
            claim = self._next(work, want, [], False, 0.0)
            completions = self._complete_all(work, claim) if claim.chunks else []
            left = self._next(work, 0, completions, False, 0.0)
        except TicketOver:
            return True
        except SystemExit as error:  # the helped item's doing, not of the one that waits for it
            ledger.release(self.ticket, crashed=True, worker=station.node, why=f"it ended by {error!r}")
            return True
        except BaseException:
            with suppress(RedisError, LastcallError):  # its lease runs out
                ledger.release(self.ticket)
            raise
        finally:
            heart.drop_ticket(ledger, self.ticket)
            moved.table.write(station.row, ())
        self.send_downstream(work, left)
        self.send(work.celery, self.address, left.tickets)
        return bool(claim.chunks)

    def run_next(self) -> bool:
        """Run the next call in the hand, else in that of a slot beneath, all of which wait. Whether there is one."""
        if not self._hand:
            return self._beneath is not None and self._beneath.run_next()
        station = self.station
        with a_station(station.app, station.settings, station.node) as other:
            work = other.work(self.address)
            if work is None:
                return False
            beside = Slot(other, self.address, self.ticket, self.events, self._beneath)
            beside._hand, beside._completed = self._hand, self._completed  # it may wait, too
            beside._completed.append(beside._complete(work, beside._hand.popleft()))
            return True

    def _complete(self, work: Work, chunk: Chunk) -> Completion:
        """Run a chunk's items and say what it came to."""
        if work.starter is not None:
            self._unready = starters.ready(work.starter, self.station.node, self.station.sealer)
        call = Monitored(time.time())
        began = time.perf_counter()
        items, errors = self.open(work, chunk)
        again: dict[int, int] = {}
        running = Running(self, work, chunk)
        if self.events is not None:
            call.describe(work, items)
            if self._last_s >= _LONG_S:
                call.started(self.events)
        if errors:
            values = self._apply_to_rest(work, running, items, errors, again)
        else:
            values, errors = self._apply(work, running, items, again)
        self._last_s = time.perf_counter() - began
        if running.emission is not None:
            chunk, items, values, errors, again = running.emission.left(items, values, errors, again)
        completion = self.pack(work, chunk, values, errors, again, int(self._last_s * 1e6))
        if self.events is not None:
            call.ended(self.events, items, values, errors, again, self._last_s)
        return completion

    def open(self, work: Work, chunk: Chunk) -> tuple[list[Any], dict[int, PackedError]]:
        """A chunk's items; where one cannot be opened, None and why."""
        station, ledger = self.station, work.ledger
        where = (station.sealer, ledger.job, ledger.name, chunk)
        self.origins = None
        try:
            with starters.loading(work.starter):
                try:
                    if work.flow:
                        items, failed, self.origins = open_traced(*where)
                    else:
                        return open_items(*where), {}
                except NotDeserializable:
                    items, failed = open_each(*where)
            return items, {at: pack_error(error, station.sealer.keyed) for at, error in failed.items()}
        except (BadEnvelope, NotDeserializable) as error:
            if isinstance(error, BadEnvelope):
                station.refused()
            packed = pack_error(error, station.sealer.keyed)
            return [None] * chunk.items, dict.fromkeys(range(chunk.items), packed)

    def _apply_to_rest(
        self, work: Work, running: Running, items: list[Any], errors: dict[int, PackedError], again: dict[int, int]
    ) -> list[Any]:
        """Run the items that were opened; adds to `errors` and `again`."""
        values: list[Any] = [None] * len(items)
        rest = [at for at in range(len(items)) if at not in errors]
        retried: dict[int, int] = {}
        done, failed = self._apply(work, running, [items[at] for at in rest], retried, rest)
        for index, at in enumerate(rest):
            values[at] = done[index]
            if index in failed:
                errors[at] = failed[index]
            if index in retried:
                again[at] = retried[index]
        return values

    def _apply(
        self, work: Work, running: Running, items: list[Any], again: dict[int, int],
        positions: Sequence[int] | None = None,
    ) -> tuple[list[Any], dict[int, PackedError]]:  # fmt: skip
        """Run items. Gives values, and errors by index; adds those that are to be tried again to `again`, with the
        delay in ms. positions: of the items in the chunk, where it is not all of them."""
        values: list[Any] = []
        errors: dict[int, PackedError] = {}
        unable = work.error or self._unready
        if unable is not None:
            return [None] * len(items), dict.fromkeys(range(len(items)), unable)
        if work.concurrency:
            from lastcall_worker import coroutines

            return coroutines.apply(self, work, running, items, again, positions)
        keyed = self.station.sealer.keyed
        function: Any = work.function
        if work.style == CALL:
            function = partial(self._call, work.starter)
        elif work.style == STAR:
            plain = function

            def function(item: Any) -> Any:
                return plain(*item)

        elif work.style == MANY:
            running.emission = (
                Emission(self, work, running, values, errors, again, items) if positions is None else None
            )
            function = many(work, running, function)
        if work.policy.timeout_s or work.style == CALL:
            function = self._limited(work, running, function)
        running.into(values, positions)
        append = values.append
        left = iter(items)
        before = running_here.set(running)
        try:
            while True:
                try:
                    for item in left:
                        append(function(item))
                    return values, errors
                except TicketOver:
                    raise
                except (SystemExit, KeyboardInterrupt):
                    if threading.current_thread() is threading.main_thread():
                        raise  # the process is told to end: what is in hand comes back to the queue
                    error: BaseException = RuntimeError("the function ended its thread")
                except BaseException as raised:  # whatever a function raises is its item's outcome
                    error = raised
                at = len(values)
                policy = policy_of(work, items[at])
                if isinstance(error, AskedAgain):
                    if running.chunk.raises < MOST_RETRIES:
                        again[at] = error.delay_ms
                    error = error.error
                elif policy.retries_after(error, running.chunk.raises):
                    again[at] = policy.delay_ms(running.chunk.raises)
                errors[at] = pack_error(error.plain if isinstance(error, SoftItemTimeout) else error, keyed)
                append(None)
        finally:
            running_here.reset(before)

    def _limited(self, work: Work, running: Running, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The function, with its items' time limits."""
        row, table = self.station.row, limits.table

        def limited(item: Any) -> Any:
            policy = policy_of(work, item)
            if not policy.timeout_s:
                return function(item)
            chunk, at = running.chunk, running.at
            error = SoftItemTimeout(work.ledger.shown, chunk.start + at, policy.timeout_s, chunk.raises + 1)
            delay_ms = policy.delay_ms(chunk.raises) if policy.retries_after(error, chunk.raises) else None
            written = table.write(row, self.address, self.ticket, chunk.id, at, delay_ms, policy.timeout_s)
            if not written:
                _log.warning("queue %s: nobody looks at the timeout of item %s", work.ledger.shown, running.item)
            if running.emission is not None:
                running.emission.limit(delay_ms, policy.timeout_s if written else 0.0)
            try:
                with limits.alarm(policy.timeout_s, lambda: error):
                    return function(item)
            finally:
                if not table.clear(row) and written:
                    raise TicketOver

        return limited

    def _call(self, starter: Starter | None, item: tuple[Any, Any, dict[str, Any], Any]) -> Any:
        wire, args, kwargs, _ = item
        result = self.station.load(wire, starter)(*args, **kwargs)
        return finish(result) if inspect.iscoroutine(result) else result

    def pack(
        self, work: Work, chunk: Chunk, values: list[Any], errors: dict[int, PackedError], again: dict[int, int],
        busy_us: int,
    ) -> Completion:  # fmt: skip
        """What a chunk came to, out of values, and errors and delays before another attempt by index."""
        if work.flow:
            completion = outputs.pack(self, work, chunk, values, errors, again, busy_us)
        else:
            completion = packing.pack(self, work, chunk, values, errors, again, busy_us)
        if work.record:
            # Of a generator also what was emitted before.
            many = work.style == MANY
            made = sum(map(len, filter(None, values))) + chunk.skip if many else len(values) - len(errors)
            alone = packing.alone(self, work, chunk, list(errors)) if errors else {}
            origins = outputs.origins_of(self, chunk, range(chunk.items))
            completion.notes = notes_of(self, work, chunk, origins, made, errors, again, alone, busy_us)
        return completion


def policy_of(work: Work, item: Any) -> Policy:
    """Of an item: its queue's, or its call's own."""
    return Policy(*item[3]) if work.style == CALL and item is not None else work.policy


def _nothing() -> None:
    """A helper's ticket that was lost is told when it completes."""


def run(app: Any, settings: Settings, node: str, address: str, ticket: str, *, events: bool) -> None:
    """Run a slot: here, now."""
    with a_station(app, settings, node) as station:
        Slot(station, address, ticket, station.events if events else None).run()


class _SlotTask(Task):
    abstract = True

    @classmethod
    def annotate(cls) -> None:
        """Nothing: an app's annotations for all its tasks are not for this one."""


def register(app: Any, settings: Settings) -> Any:
    """Give a Celery app the slot task."""

    def slot(task: Any, address: str, ticket: str) -> None:
        request = task.request
        run(app, settings, request.hostname or "solo", address, ticket,
            events=bool(getattr(request, "lastcall_events", False)))  # fmt: skip

    # What an app says for all its tasks is not for this one, whose items have limits of their own.
    limits_s = {
        limit: _NO_LIMIT_S for limit in ("time_limit", "soft_time_limit") if app.conf[f"task_{limit}"] is not None
    }
    return app.task(
        slot, name=SLOT_TASK, base=_SlotTask, shared=False, bind=True, ignore_result=True, acks_late=False,
        send_events=False, rate_limit=0, Request="lastcall_worker.request:SlotRequest", **limits_s,
    )  # fmt: skip
