"""FlowJob: one run of a flow on workers. plan.py says which queues it has, feeder.py puts its input into the first."""

from __future__ import annotations

import contextlib
import itertools
import os
import uuid
import weakref
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from lastcall.announced import wait_for_end
from lastcall.checks import one_of, plain_name, positive
from lastcall.errors import (
    ConfigError,
    LastcallError,
    NothingToReduce,
    ResultsUnread,
    WaitTimeout,
)
from lastcall.feeder import FEEDER, Feeder
from lastcall.flow import BATCH, REDUCE, Flow, Options
from lastcall.flowoptions import FlowOptions
from lastcall.flowresults import FlowResults, handed
from lastcall.job import Job
from lastcall.plan import HORIZONTAL, QueuePlan, planned
from lastcall.policy import Told
from lastcall.queue import StatusableQueue, make
from lastcall.results import Reader
from lastcall.serial import check_reducible, endless, is_empty, is_endless
from lastcall.sources import put_sources
from lastcall.state.ledger import Ledger
from lastcall.state.records import OFF, RECORD, RESULTS, Status
from lastcall.steps import Guarded, lowered
from lastcall.waiting import Deadline, raise_for, reaching

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.letters import DeadLetter

WINDOW: Final = 100_000  # items of a flow that are under way, results that nobody has read included
_WINDOW_BYTES: Final = 64 << 20
_LOOK_S: Final = 1.0
_STUCK: Final = 2  # looks at which nothing has moved


class FlowJob(Job):
    """One run of a flow; made by client.run(). `with client.run(...) as job:` cancels what is left at the block's end.

    Where nobody refers to it any more what is left is cancelled, unless it was given an id or detach() was called.
    Methods raise what client.job()'s do.
    """

    def __init__(
        self, connection: Connection, flow: Flow, items: Iterable[Any] | None, *,
        mode: str, ordered: bool, on_error: str, window: int | None, results: str | None, job: str | None,
        sources: Sequence[Any] | None, record: str, notify: str | None,
    ) -> None:  # fmt: skip
        one_of("record", record, [level for level in RECORD if level != OFF])
        plans = planned(flow, mode, on_error)
        self._window = window = _checked_window(window, mode, plans)
        self._results = results or ("once" if job is None else "keep")
        one_of("results", self._results, RESULTS)
        if self._results == "discard" and on_error != "dead":
            raise ConfigError("on_error", "'dead' where results are discarded, which errors are", repr(on_error))
        self._endless = is_endless(items)
        if self._endless and mode == HORIZONTAL:
            raise ConfigError("items", "an input that ends, where stages wait for one another", self._endless,
                              'choose another mode than "horizontal"')  # fmt: skip
        if sources is None and is_empty(items):
            check_reducible(lowered(flow))
        if job is not None:
            plain_name("job", job)
        super().__init__(connection, f"flow-{uuid.uuid4().hex}" if job is None else job)
        self._pid = os.getpid()
        self._plans = plans
        self._on_error = on_error
        self._record, self._notify = record, notify
        self._kept = job is not None
        self._detached = self._ended = False
        self.feeder: Feeder | None = None
        self._reading: weakref.ref[FlowResults] | None = None
        self._stuck: tuple[int | None, int] = (None, 0)
        self._keyed = connection.sealer.keyed
        self._guarded = isinstance(plans[-1].function, Guarded)
        if self._kept:
            _check_new(connection, self.id)
        self._made: list[StatusableQueue[Any]] = []
        try:
            self._make(plans, ordered=ordered, window=window, sources=sources)
            self._feed(items, window, sources)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<FlowJob {self.id}>"

    def __enter__(self) -> FlowJob:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        # Half made, or the server is gone; and nobody is there to be told.
        with contextlib.suppress(Exception):
            if not self._kept:
                self.close()

    def results(  # type: ignore[override]  # whether they come in order was said when it was run
        self, *, timeout: float | None = None, cursor: str = ""
    ) -> FlowResults:
        """What the last stage gives, lazily, until the job has ended; with a cursor, from there on.

        With results="once" a second call goes on where the first has got to. timeout: seconds to wait for each.
        Raises what the run's on_error says: the first error of an item, whereupon the job is cancelled ("stop"), or
        nothing, where errors are dead letters ("dead") or come as a Failure in their places ("yield"); what the input
        raised, when the results of what came before it are read; NothingToReduce; ProducerLost, QueueCancelled,
        NoWorker, WaitTimeout; ConfigError if results are discarded, or if the input asks for what comes of itself.
        """
        self.check_readable()
        reading = self._reading() if self._reading is not None and self._results == "once" else None
        if reading is None or cursor:
            reading = FlowResults(self, timeout, cursor)
            self._reading = weakref.ref(reading)
        return reading

    def check_readable(self) -> None:
        """Raises ConfigError where nobody, or not this thread, may read results."""
        if self.feeder is not None and self.feeder.is_here:
            raise ConfigError("results()", "read by others than the job's own input", "a cycle", "run another flow")
        if self._results == "discard":
            raise ConfigError("results()", "called on a job that keeps results", 'results="discard"', "leave that out")

    def check_ends(self) -> None:
        """Raises ConfigError where the input is known to have no end."""
        if self._endless:
            raise endless(self._endless)

    @property
    def is_fed(self) -> bool:
        """Whether all of the input is put, or none of it will be any more."""
        return self.feeder is None or self.feeder.fed.is_set()

    def check_fed(self) -> None:
        """Raises what the input raised."""
        if self.feeder is not None and self.feeder.error is not None:
            raise self.feeder.error

    def check_reduced(self, statuses: Sequence[Status] | None) -> None:
        """All its queues have ended: raises NothingToReduce. statuses: of these, where they are known."""
        needy = {plan.name for plan in self._plans if plan.reduces_nothing}
        if needy:
            for status in self.status() if statuses is None else statuses:
                if status.name in needy and not status.put:
                    raise NothingToReduce(status.name)

    def wait(self, timeout: float | None = None) -> list[Status]:
        """Block until all its queues have ended. timeout: seconds.

        Raises what went wrong: an item's error, where the first one ends the job, which results() would raise, too;
        ProducerLost, QueueCancelled, DeadLetters of the first queue that has some; what the input raised;
        NothingToReduce; NoWorker; WaitTimeout; ResultsUnread where the window is full of results that nobody reads;
        ConfigError where the input is known to have no end.
        """
        self.check_ends()
        deadline = Deadline(timeout)
        if self._on_error == "stop":
            self._look_for_errors(deadline)
        while True:
            try:
                statuses = wait_for_end(self._connection, self.ledgers(), deadline.left(_LOOK_S))
                break
            except WaitTimeout:
                if deadline.passed:
                    raise
                self._check_read()
        for status in statuses:
            raise_for(status)
        self.check_fed()
        self.check_reduced(statuses)
        return statuses

    @reaching
    def cancel(self) -> list[Status]:
        """Drop what is waiting in all its queues, refuse what is running, and read no more of the input."""
        self._cancel()
        return self.status()

    def detach(self, timeout: float | None = None) -> str:
        """Block until all of the input is put; from then on no client need be there. Gives the id, for client.job().

        timeout: seconds. Raises what the input raised, ConfigError where it is known to have no end, WaitTimeout. What
        a window holds back is put when results are read: by another client, or with a job id (whose results are kept).
        """
        self.check_ends()
        deadline = Deadline(timeout)
        feeder = self.feeder
        while feeder is not None and not feeder.fed.wait(deadline.left(_LOOK_S)):
            if deadline.passed:
                raise WaitTimeout(f"the input of job {self.id} to be put", deadline.waited_s)
            self._check_read()
        self.check_fed()
        self._detached = True
        return self.id

    def dead_letters(self) -> Iterator[DeadLetter]:
        """The items of all its queues that were given up on, the first queue's first."""
        for queue in self.queues:
            yield from queue.dead_letters()

    def close(self) -> None:
        """Let go of it: what has not ended is cancelled, unless detach() was called. May be called again."""
        if self._detached or self._pid != os.getpid() or self._connection.closed:
            return
        self._detached = True
        if not self._ended:
            with contextlib.suppress(RedisError, LastcallError):  # its producer's lease runs out
                self._cancel()

    def _cancel(self) -> None:
        # The last queue first, the input last: otherwise what feeds a queue were lost before that is cancelled.
        try:
            for queue in reversed(self._made):
                queue._ledger.cancel()
        finally:
            if self.feeder is not None:
                self.feeder.stop()

    def _make(
        self, plans: Sequence[QueuePlan], *, ordered: bool, window: int, sources: Sequence[Any] | None
    ) -> None:  # fmt: skip
        """Its queues, the last one first, each with a producer's lease of ours until what feeds it is there."""
        connection, job = self._connection, self.id
        one_source = sources is None or len(sources) == 1
        into: StatusableQueue[Any] | None = None
        for at in reversed(range(len(plans))):
            plan, first, last = plans[at], at == 0, into is None
            into = make(
                connection, job, plan.name, function=plan.function, into=into, workers=plan.options.queue,
                max_workers=plan.options.max_workers, maxsize=window, maxbytes=_WINDOW_BYTES if first and window else 0,
                on_lost="ignore" if first and sources is not None else None, results=self._results if last else None,
                on_error="dead" if self._on_error == "dead" else "return",
                policy=_policy(plan.options) if plan.function is not None else None, founder=FEEDER,
                record=self._record, notify=self._notify if last else None, flow=FlowOptions(
                    paths=first and one_source,
                    gated=bool(plan.gather) and one_source,
                    ordered=last and ordered and one_source,
                    barrier=plan.barrier,
                    many=plan.many,
                    fold=plan.fold,
                    batch=plan.size if plan.gather == BATCH else None,
                    batch_timeout_s=plan.timeout_s or None,
                    reduce=plan.gather == REDUCE,
                    rate=plan.options.rate,
                    head=plans[0].name if len(plans) > 1 else "",
                ),
            )  # fmt: skip
            self._made.insert(0, into)
            if not last:
                self._begin(self._made[1], plans[at + 1])
        self._upstream = [queue._ledger for queue in self._made[:-1]]

    def _begin(self, queue: StatusableQueue[Any], plan: QueuePlan) -> None:
        """The stage that feeds this queue is there: put what comes before all, and leave."""
        if plan.initial:
            with queue.producer(FEEDER) as out:
                out.put_many(plan.initial)
        else:
            ledger = queue._ledger
            ledger.leave(FEEDER, ledger.join(FEEDER).epoch)

    def _feed(self, items: Iterable[Any] | None, window: int, sources: Sequence[Any] | None) -> None:
        first, plan = self._made[0], self._plans[0]
        if sources is not None:
            put_sources(self._connection, first, sources, on_error=self._on_error)
            self._begin(first, plan)
            return
        assert items is not None
        until_gathered = itertools.takewhile(lambda pair: not (pair[1].barrier or pair[1].gather),
                                             zip(self._made, self._plans, strict=True))  # fmt: skip
        works = [queue for queue, _ in until_gathered]
        self.feeder = Feeder(
            self._connection, first, works, itertools.chain(plan.initial, items),
            remaining=len(items) if isinstance(items, Sized) else None,
            most=max(1, window // 4) if window else 10_000, max_workers=plan.options.max_workers,
        )  # fmt: skip

    def _look_for_errors(self, deadline: Deadline) -> None:
        """Read over results as they come, which stay where they are; raise the first error that is one."""
        reader = Reader(self._connection, self._made[-1]._ledger, once=False, upstream=self._upstream)
        with reader.watching():
            while not reader.ended:
                entries = reader.read(deadline.left(_LOOK_S))
                _, error = handed(self, entries)
                if error is not None:
                    self.cancel()
                    raise error
                if not entries and deadline.passed:
                    raise WaitTimeout(f"results of {reader.describe()}", deadline.waited_s)
                if not entries:
                    self._check_read()

    def _check_read(self) -> None:
        """Raises ResultsUnread where, for some looks, nothing has moved since nobody reads them."""
        stuck = None
        if self._results == "once" and self.feeder is not None and self.feeder.blocked:
            statuses = self.status()
            if not any(one.ready or one.leased or one.delayed for one in statuses):
                stuck = statuses[-1].unread
        self._stuck = (stuck, self._stuck[1] + 1 if stuck == self._stuck[0] else 0)
        if stuck and self._stuck[1] >= _STUCK:
            raise ResultsUnread(self.id, stuck)


def _policy(options: Options) -> Told:
    if options.concurrency is None:
        return options.policy
    return Told(**asdict(options.policy) | {"concurrency": options.concurrency})


def _checked_window(window: int | None, mode: str, plans: Sequence[QueuePlan]) -> int:
    """How many items may be under way, 0 for any number. Raises ConfigError."""
    if window is not None:
        positive("window", window)
        if mode == HORIZONTAL:
            raise ConfigError("window", "left out where a stage begins when all is through the one before",
                              repr(window), 'choose another mode than "horizontal"')  # fmt: skip
    if mode == HORIZONTAL:
        return 0
    largest = max((plan.size for plan in plans), default=0)
    if window is not None and window < 2 * largest:
        raise ConfigError("window", f"at least twice the largest batch, {2 * largest}", repr(window))
    return window or max(WINDOW, 4 * largest)


def _check_new(connection: Connection, job: str) -> None:
    """Raises ConfigError where there is a job of this id."""
    if Ledger(connection.redis, job, [job]).names_of_job():
        raise ConfigError(
            "job", "an id that no other job has had", repr(job),
            "use another, such as one with the date (this one is free again LASTCALL_TTL_S seconds after it ended), "
            f"or read its results: client.job({job!r})",
        )  # fmt: skip
