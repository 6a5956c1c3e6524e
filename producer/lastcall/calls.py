"""submit: single calls, each a chunk of its own, each with a Future.

All calls of a client through one Celery queue share one queue in the ledger: an item is a call (function, args,
kwargs). Calls that are made while a put is under way travel together; one thread reads the outcomes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from lastcall import functions
from lastcall.aside import Aside, Kept
from lastcall.coroutine import is_async
from lastcall.current import HELP_S, current, help_with, running
from lastcall.errors import (
    AsideLost,
    BadEnvelope,
    ConfigError,
    ItemTooLarge,
    LastcallError,
    LeaseLost,
    NotSerializable,
    QueueCancelled,
    WaitTimeout,
)
from lastcall.outcome import unpack_error
from lastcall.payload import CALL
from lastcall.policy import Policy, told, told_of
from lastcall.queue import make
from lastcall.results import Entry, Reader
from lastcall.task import task
from lastcall.unchanged import Unchanged, unchanged
from lastcall.waiters import Waiters
from lastcall.waiting import AWAY, Deadline, describe, unreachable, warn_of_loop

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.functions import FunctionSpec
    from lastcall.parcel import Parcel
    from lastcall.starter import Starter
    from lastcall.state.ledger import Ledger

_Sent = tuple[tuple[Any, ...], tuple[Any, ...]]  # a function and its policy, as they travel

_BLOCK_S = 1.0
_ACK_ITEMS = 1_000
_OWED_S = 0.05  # for which answers that were handed out may be left unacknowledged
_TELLING_S = 0.5  # from which on a timeout says why, which takes a round trip
_MOST_KNOWN = 1_000  # functions, of which it is remembered how they travel
_KNOWN_BYTES = 65_536  # of the largest of these
_CANCEL_ITEMS = 250  # in one script


@task(name="lastcall.call")  # so that a client without a key may name it; what is called must be a task, too
def run_call(item: tuple[Any, ...]) -> Any:
    """Stands as the function of a queue of calls; slots take such items apart themselves."""
    raise TypeError(f"a call must be run by a slot, got {item!r}")


@task(name="lastcall.calls")
def run_calls(function: Callable[..., Any] | str, calls: Iterable[Sequence[Any]]) -> Any:
    """Several calls in one, of a function, or of one that @task knows by this name. Of coroutines: one that awaits
    all."""
    if isinstance(function, str):
        function = functions.load(("task", function, function), current.worker, False)
    if is_async(function):
        return _gathered(function, calls)
    return [function(*args) for args in calls]


async def _gathered(function: Callable[..., Any], calls: Iterable[Sequence[Any]]) -> list[Any]:
    return await asyncio.gather(*(function(*args) for args in calls))


class Answer(Future[Any]):
    """A call's future. Asked for by a function that a worker runs, it may be that slot which runs the call."""

    number = 0  # of the call's chunk; another one when calls before it are dropped before they are sent
    withdrawn = False
    held = False
    abandoned = False  # who awaited it was cancelled: nobody can get its result
    needs: tuple[Kept, ...] = ()  # what lies aside for it

    def __init__(self, ledger: Ledger | None = None, calls: Calls | None = None) -> None:
        super().__init__()
        self.ledger = ledger  # of the queue that the call waits in; None: not known yet
        self.calls = calls  # None: it stands for more than one call, and cannot be taken back
        self._pid = os.getpid()
        if ledger is not None and running.get():
            self._waiters = Waiters(ledger)

    def cancel(self) -> bool:
        """Take the call back, if no slot has it. A round trip to the server, none if it is not sent yet.

        True: nobody begins it any more (one that raised, and waits for its next attempt, is not tried again). False:
        a slot has it (one may take several at once, where they are very short), it is done, or the server is away.
        """
        if self.calls is not None and not self.done():
            self.calls.cancel([self])
        return super().cancel() if self.withdrawn else self.cancelled()

    def running(self) -> bool:
        """Whether a slot had the call when it was last to be cancelled, and it is not done since.

        Nobody is told when a slot begins a call: where nobody has called cancel() this is False, though it may run.
        """
        return self.held and not self.done()

    def end_cancelled(self) -> None:
        """It was taken back: tell who waits. Called once, by who removed it from those that are out."""
        self.withdrawn = True
        if super().cancel():
            self.set_running_or_notify_cancel()

    def result(self, timeout: float | None = None) -> Any:
        """What the function returned. timeout: seconds. Raises what it raised, CancelledError, WaitTimeout."""
        try:
            return super().result(self._help(timeout))
        except TimeoutError:
            if self.done():  # by now, or it is the function's own
                return super().result(0)
            raise self._late(timeout) from None

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the function raised, None if it returned. timeout: seconds. Raises CancelledError, WaitTimeout."""
        try:
            return super().exception(self._help(timeout))
        except TimeoutError:
            if self.done():
                return super().exception(0)
            raise self._late(timeout) from None

    def _late(self, timeout: float | None) -> WaitTimeout:
        what = "the answer to a call"
        if self.ledger is not None:
            what += f" in queue {self.ledger.shown}"
            if self.calls is not None and timeout and timeout >= _TELLING_S:  # not where somebody polls
                with contextlib.suppress(LastcallError, *AWAY):
                    what = f"the answer to a call in {describe(self.calls._connection, self.ledger.status())}"
        return WaitTimeout(what, timeout or 0.0)

    def _help(self, timeout: float | None) -> float | None:
        """Where this waits in a worker's function: until it is done, or time is over. Gives what is left of that."""
        if timeout != 0 and not self.done():
            if os.getpid() != self._pid:
                raise ConfigError(
                    "the answer to a call", "waited for in the process that called", "a fork of it",
                    "nobody reads what comes here",
                )  # fmt: skip
            warn_of_loop("the answer to a call", "await client.submit(function)")
        if not running.get():
            return timeout
        deadline = Deadline(timeout)
        while not self.done() and not deadline.passed:
            try:
                super().exception(deadline.left(HELP_S))
            except TimeoutError:
                if self.ledger is not None:
                    help_with(self.ledger)
        return None if timeout is None else deadline.left(timeout)


class Calls:
    """A client's calls through one Celery queue.

    max_workers: slots at the same time, in the whole cluster. starter: what slots do before their first call.
    concurrency: the calls are coroutines, of which a slot runs that many at the same time.
    notify: a URL that is told when the queue ends, with its one call: only().
    """

    def __init__(
        self, connection: Connection, celery_queue: str, *,
        max_workers: int | None = None, starter: Starter | None = None, concurrency: int | None = None,
        notify: str | None = None,
    ) -> None:  # fmt: skip
        self.job = f"calls-{uuid.uuid4().hex}"
        self._connection = connection
        try:
            self._queue = make(
                connection, self.job, "calls", function=run_call, style=CALL, workers=celery_queue,
                results="once", on_error="return", founder="client", max_workers=max_workers, starter=starter,
                policy=told(concurrency=concurrency), notify=notify,
            )  # fmt: skip
        except AWAY as error:
            raise unreachable(connection, error) from error
        self._producer = self._queue.producer("client", chunk_items=1)
        self.ledger = self._queue._ledger
        self._aside = Aside(connection, self.ledger)
        self._pid = os.getpid()
        self._futures: dict[int, Answer] = {}  # by the number of the call's chunk
        self._cancelling = threading.Lock()
        self._some = threading.Event()
        self._closed = False
        self._no_more = False  # no call comes after those that are out
        self._known: dict[Callable[..., Any], tuple[Unchanged | None, _Sent]] = {}
        self.broken = False  # it takes no more calls: its lease was lost, or its results cannot be read
        self._reader = threading.Thread(target=self._run, name="lastcall-calls", daemon=True)
        self._reader.start()

    def submit(
        self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any], policy: Policy | None = None, *,
        copied: bool = True, name: str | None = None,
    ) -> Answer:  # fmt: skip
        """Send a call. policy: None for what @task says. copied: whether it may write into large arrays, which are its
        own then. name: of the function, for people. Raises NotSerializable, ItemTooLarge, and what broke it.
        """
        if os.getpid() != self._pid:
            raise ConfigError(
                "a client's submit()", "called in the process that made it", "a fork of it", "make a Client"
            )
        wire, policy_wire = self._sent(function)
        if name is not None:
            wire = (wire[0], name, wire[2])
        parcel = self._aside.parcel(copied=copied)
        try:
            dumped = self._producer.dump((wire, args, kwargs, policy_wire if policy is None else policy.wire), parcel)
        except NotSerializable as error:
            raise self._which(error, args, kwargs) from error
        except ItemTooLarge as error:
            raise ItemTooLarge(error.size_bytes, error.limit_bytes) from None
        future = Answer(self.ledger, self)
        if parcel.taken:
            self._hold(parcel, future)

        def register(number: int) -> None:
            if self.broken:
                raise self._not_run()
            future.number = number
            self._futures[number] = future

        try:
            self._producer.put_dumped(dumped, registered=register)
        except BaseException as error:
            self._aside.release(future.needs)
            if isinstance(error, LastcallError):
                self.broken = True
            raise
        if future.needs:
            future.add_done_callback(self._release)
        self._some.set()
        return future

    def only(self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Answer:
        """Send the one call of a queue of its own, which ends with it, whatever becomes of this process."""
        try:
            future = self.submit(function, args, kwargs)
            self._producer.close()
        except BaseException:
            self.close(wait=False)
            raise
        self._no_more = True
        self._some.set()
        return future

    def _hold(self, parcel: Parcel, future: Answer) -> None:
        """See that the call's large arguments are on the server until it is done."""
        try:
            future.needs = self._aside.hold(parcel.contents)
        except LastcallError:
            self.broken = True
            raise

    def _release(self, future: Any) -> None:
        self._aside.release(future.needs)

    def _sent(self, function: Callable[..., Any]) -> _Sent:
        try:
            known = self._known.get(function)
        except TypeError:  # not hashable
            return self._send(function)[1]
        if known is not None and (known[0] is None or known[0].holds()):
            return known[1]
        spec, sent = self._send(function)
        if spec.kind != "value":
            self._known[function] = None, sent
            return sent
        held = unchanged(function) if len(spec.body) <= _KNOWN_BYTES else None
        self._known.pop(function, None)
        if held is not None:
            while len(self._known) >= _MOST_KNOWN:  # lambdas may be made for each call
                del self._known[next(iter(self._known))]
            self._known[function] = held, sent
        return sent

    def _send(self, function: Callable[..., Any]) -> tuple[FunctionSpec, _Sent]:
        spec = functions.dump(function, self._connection.sealer.keyed)
        return spec, (spec.wire, told_of(function).policy.wire)

    def cancel(self, futures: Iterable[Answer] | None = None) -> None:
        """Take back those of these calls (None: of all) that no slot has; the others' `held` says that one has them.

        Where the server is away nothing is known; if it has taken one out, its future is cancelled later.
        """
        if futures is None:
            with self._producer._lock:  # under which calls come in
                futures = list(self._futures.values())[::-1]  # the last ones first: that is less to look through
        gone: list[Answer] = []
        with self._cancelling:
            # Not those that are being settled. Nobody but who holds this changes a number.
            there = [future for future in futures if self._futures.get(future.number) is future]
            sent = [future for future in there if not self._take_back(future, gone)]
            for at in range(0, len(sent), _CANCEL_ITEMS):
                gone += self._withdraw(sent[at : at + _CANCEL_ITEMS])
        for future in gone:
            future.end_cancelled()  # not under the lock: this runs callbacks

    def _take_back(self, future: Answer, gone: list[Answer]) -> bool:
        """Drop a call that is not sent yet."""

        def move_up() -> None:
            number = future.number
            while (behind := self._futures.get(number + 1)) is not None:
                self._futures[number], behind.number = behind, number
                number += 1
            self._futures.pop(number, None)
            future.withdrawn = True
            gone.append(future)

        return self._producer.take_back(future.number, move_up)

    def _withdraw(self, futures: Sequence[Answer]) -> list[Answer]:
        """Take calls that were sent out of the queue. Gives those that are to be ended here, not by the reader."""
        self._producer.arrived(max(future.number for future in futures))
        chunks = {}
        for future in futures:
            chunk = f"{self._producer.index}-{future.number}"
            chunks[chunk] = future
            chunks[f"{chunk}/0:1"] = future  # as it is called when it waits for its next attempt
        try:
            taken = self.ledger.withdraw(list(chunks))
        except (RedisError, LastcallError):
            return []
        for chunk in taken:
            chunks[chunk].withdrawn = True
        for future in futures:
            future.held = not future.withdrawn
        return [future for future in futures if future.withdrawn and self._futures.pop(future.number, None) is future]

    @property
    def is_full(self) -> bool:
        """Whether submit() would block now, until what was submitted is sent."""
        return self._producer.is_full

    @property
    def reads_here(self) -> bool:
        """Whether this is the thread that reads outcomes, which must not wait for any."""
        return threading.current_thread() is self._reader

    def close(self, *, wait: bool = True) -> None:
        """Take no more calls; wait for those that are out, or cancel them, as where all are abandoned."""
        if self._closed or os.getpid() != self._pid:
            return
        out = list(self._futures.values())
        if out and all(future.abandoned for future in out):
            wait = False
        try:
            while wait and running.get() and self._futures:  # a worker's function leaves: it may be what they wait for
                if not help_with(self._queue._ledger):
                    futures.wait(list(self._futures.values()), HELP_S)
            if wait:
                with contextlib.suppress(LastcallError):  # what was lost is told by the futures
                    self._producer.close()
            else:
                self.drop()
        finally:
            self._closed = True
            self._some.set()
            if not self.reads_here:
                self._reader.join()
                self._aside.clear()

    def drop(self) -> None:
        """Cancel those that are out, and wait for nothing."""
        with contextlib.suppress(RedisError, LastcallError):  # it ends by itself when its lease has run out
            self._queue.cancel()
        self._producer.abandon()

    def _which(self, error: NotSerializable, args: Any, kwargs: dict[str, Any]) -> NotSerializable:
        """The same error, naming the argument."""
        for name, value in [*enumerate(args), *kwargs.items()]:
            try:
                self._connection.sealer.dump(value)
            except NotSerializable as cause:
                return NotSerializable(f"argument {name!r}", None, cause.type_name, cause.reason)
        return error

    # What follows runs in the reader's thread.

    def _run(self) -> None:
        try:
            error = self._read()
        except BaseException as raised:  # whatever it is, nobody may wait for these futures for ever
            self._over(raised)
            self.drop()
        else:
            self._over(error)

    def _read(self) -> LastcallError:
        """Until the queue has ended; why calls that have no answer then will have none."""
        ledger = self.ledger
        reader = Reader(self._connection, ledger, once=True)
        unacked, acked_at = 0, time.monotonic()
        with self._connection.heart.watching(ledger):
            while not reader.ended:
                if not self._futures and not unacked and not self._closed and not self._no_more:
                    self._some.wait()
                    self._some.clear()
                # Who calls again as soon as it has its answer finds this reading, not acknowledging.
                settled = self._settle_all(reader.read(_BLOCK_S if self._futures or not unacked else _OWED_S))
                unacked += settled
                if unacked and (not settled or unacked >= _ACK_ITEMS or time.monotonic() > acked_at + _OWED_S):
                    reader.ack(unacked)
                    unacked, acked_at = 0, time.monotonic()
        return QueueCancelled(ledger.shown) if reader.ended == "CANCELLED" else self._not_run()

    def _over(self, error: BaseException) -> None:
        """Nobody reads any more: no call may come in after this."""
        with self._producer._lock:  # under which calls come in
            self.broken = True
            futures = list(self._futures.values())
            self._futures.clear()
        for future in futures:
            _settle(future, error)

    def _not_run(self) -> LeaseLost:
        error = LeaseLost(self.ledger.shown, self._producer.name)
        error.add_note("This call was not run: submit it again.")
        return error

    def _settle_all(self, entries: Iterable[Entry]) -> int:
        """Tell the futures. Gives how many entries there were, and holds none while the next ones are waited for."""
        count = 0
        for entry in entries:
            count += 1
            future = self._futures.pop(entry.number, None)
            if future is not None:
                self._settle(future, entry)
        return count

    def _settle(self, future: Answer, entry: Entry) -> None:
        if entry.withdrawn:
            future.end_cancelled()
        elif entry.error is not None:
            _settle(future, entry.error)
        elif entry.outcome.errors:
            error = unpack_error(entry.outcome.errors[0], self._connection.sealer.keyed)
            if future.needs and isinstance(error, AsideLost | BadEnvelope):
                self._aside.lost(future.needs)
            _settle(future, error)
        else:
            future.set_result(entry.outcome.values[0])


def _settle(future: Future[Any], error: BaseException) -> None:
    with contextlib.suppress(InvalidStateError):  # it was cancelled just now
        future.set_exception(error)
