"""map: run a function over an iterable, lazily at both ends.

feed.py makes chunks of the input. No more of them are under way than the slots need, and no more results kept than the
window: input may be endless.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from lastcall.checks import positive
from lastcall.coroutine import CONCURRENCY, is_async
from lastcall.errors import (
    ConfigError,
    ItemTimeout,
    LastcallError,
    NotSerializable,
    QueueCancelled,
    QueueFinished,
    WaitTimeout,
    WorkerLost,
)
from lastcall.feed import FILL_S, MOST_BYTES, MOST_ITEMS, Feed, Sizes
from lastcall.outcome import unpack_error
from lastcall.payload import ITEM, STAR, Outcome
from lastcall.policy import told_of
from lastcall.queue import make
from lastcall.results import Entry, Reader
from lastcall.waiting import AWAY, Deadline, raise_for, status_of, unreachable

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.policy import Told
    from lastcall.starter import Starter
    from lastcall.state.ledger import Ledger

_log = logging.getLogger(__name__)

MAP = "map"  # the name of a map's queue, and of its producer

_LOOK_S = 1.0
_COROUTINES = 16  # items of the first chunks, where they run at the same time
_LANES = 4  # chunks of them that a slot runs at the same time, at least


class Failure:
    """What a map or a flow that was told to go on gives for an item that has no value. error: why."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"Failure({self.error!r})"


class MapResults(Iterator[Any]):
    """The results of a map, in order or as they come; made by client.map(). Each is computed ahead of its being read.

    Raises what the function raised, with the remote traceback as its cause; then, or when it is no longer referred to,
    what is left is cancelled. `job` is the id of the map's job.

    star: items are tuples of arguments. goes_on: errors of items, and of items that cannot be sent, come as Failure in
    their place. numbered: each comes in a pair, behind its place in the input, from 0. starter: what slots do before
    their first item.
    """

    def __init__(
        self, connection: Connection, function: Callable[..., Any], iterables: Sequence[Iterable[Any]], *,
        ordered: bool, chunksize: int | None, workers: str | None, max_workers: int | None,
        timeout: float | None, policy: Told, job: str | None = None,
        star: bool = False, goes_on: bool = False, numbered: bool = False, starter: Starter | None = None,
        notify: str | None = None,
    ) -> None:  # fmt: skip
        if chunksize is not None:
            positive("chunksize", chunksize)
        if not iterables:
            raise ConfigError("iterables", "at least one", "none", "client.map(function, items)")
        for at, iterable in enumerate(iterables):
            if not isinstance(iterable, Iterable):
                raise ConfigError(f"iterable {at}", "iterable", type(iterable).__name__)
        self.job = f"map-{uuid.uuid4().hex}" if job is None else job
        # What does the work does not know this object: so it ends as soon as nobody refers to this.
        self._map = _Map(
            connection, function, iterables, self.job, ordered=ordered, chunksize=chunksize,
            workers=workers, max_workers=max_workers, timeout=timeout, policy=policy,
            keep=job is not None, star=star, goes_on=goes_on, numbered=numbered, starter=starter, notify=notify,
        )  # fmt: skip
        self._values = self._map.run()

    def __iter__(self) -> MapResults:
        return self

    def __next__(self) -> Any:
        return next(self._values)

    @property
    def ledger(self) -> Ledger:
        """Of the map's queue."""
        return self._map._ledger

    @property
    def failures(self) -> int:
        """How many of the values that were handed out were a Failure."""
        return self._map.failures

    def close(self) -> None:
        """Cancel what is left."""
        self._values.close()
        self._map.finish(cancel=True)

    def __del__(self) -> None:
        # Half made, or used by another thread, or the server is gone; and nobody is there to be told.
        try:
            self.close()
        except Exception:
            return


class _Map:
    """The work of a map: puts chunks, reads outcomes, hands out values."""

    def __init__(
        self, connection: Connection, function: Callable[..., Any], iterables: Sequence[Iterable[Any]], job: str, *,
        ordered: bool, chunksize: int | None, workers: str | None, max_workers: int | None, timeout: float | None,
        policy: Told, keep: bool, star: bool, goes_on: bool, numbered: bool, starter: Starter | None,
        notify: str | None,
    ) -> None:  # fmt: skip
        several = len(iterables) > 1
        try:
            queue = make(
                connection, job, MAP, function=function, style=STAR if several or star else ITEM,
                workers=workers, max_workers=max_workers, results="keep" if keep else "once", on_error="return",
                policy=policy, founder=MAP, starter=starter, notify=notify,
            )  # fmt: skip
            if keep and [(one.epoch, one.position) for one in queue.status().producers] != [(1, 0)]:
                raise ConfigError(
                    "job", "an id that no other map has had", repr(job),
                    "use another, such as one with the date (this one is free again LASTCALL_TTL_S seconds after it "
                    f"ended), or read its results: client.job({job!r})",
                )  # fmt: skip
            self._starts: dict[int, int] = {}  # chunk number -> items before it
            self._under_way: dict[int, int] = {}  # chunk number -> items that have not come back
            items: Iterator[Any] = zip(*iterables, strict=False) if several else iter(iterables[0])
            lengths = [len(one) for one in iterables if isinstance(one, Sized)]
            at_a_time = policy.over(told_of(function)).concurrency or CONCURRENCY
            self._concurrency = at_a_time if is_async(function) else 1  # items that a slot runs at the same time
            # Of coroutines several chunks at a time, so that what is done makes room for what is next.
            first, most = (
                (min(_COROUTINES, self._concurrency), max(1, self._concurrency // _LANES))
                if self._concurrency > 1
                else (1, MOST_ITEMS)
            )
            self._sizes = Sizes(chunksize, min(lengths) if lengths else None, first=first, most=most)
            made = _noted(self._starts, self._under_way)
            self._feed = Feed(
                connection, queue._ledger, queue.workers, MAP, items, self._sizes, goes_on=goes_on, made=made
            )
        except AWAY as error:
            raise unreachable(connection, error) from error
        self._connection = connection
        self._job = job
        self._ledger = queue._ledger
        self._beside = () if keep else queue._beside
        self._celery_queue = queue.workers
        self._ordered = ordered
        self._max_workers = max_workers
        self._timeout = timeout
        self._goes_on = goes_on
        self._numbered = numbered
        self._delayed: set[int] = set()  # chunks under way that wait for no more than items that are tried again
        self._parts: dict[int, list[tuple[int, Outcome]]] = {}  # chunk number -> parts that have come back
        self._yielded = 0  # chunks, of an ordered map
        self.failures = 0
        self._finished = False
        self._reader = self.reader(connection, self._ledger, once=not keep)
        try:
            self._fill()
        except BaseException:
            self.finish(cancel=True)
            raise

    def reader(self, connection: Connection, ledger: Ledger, *, once: bool) -> Reader:
        """What outcomes are read with."""
        return Reader(connection, ledger, once=once)

    @property
    def ledger(self) -> Ledger:
        """Of the map's queue."""
        return self._ledger

    def run(self) -> Generator[Any, None, None]:
        """The values."""
        try:
            with self._connection.heart.watching(self._ledger):
                yield from self._run()
        except BaseException:
            self.finish(cancel=True)
            raise
        self.finish(cancel=False)

    def finish(self, *, cancel: bool) -> None:
        """Let go of the queue. cancel: if it has not ended."""
        if self._finished:
            return
        self._finished = True
        self._feed.drop()
        try:
            if cancel and not self._reader.ended:
                self._ledger.cancel()
            elif not self._feed.left:
                self._feed.leave()
            self._ledger.drop_aside(self._beside)
        except (RedisError, LastcallError) as error:  # it ends by itself when its lease has run out
            _log.warning("map %s cannot be ended now: %s", self._job, error)

    def _run(self) -> Iterator[Any]:
        deadline = Deadline(self._timeout)
        while True:
            filled = self._fill()
            if self._feed.unsendable:
                yield from self._ready()
            if self._feed.exhausted and not self._under_way and not self._parts:
                break
            entries = self._reader.read(0)
            if not entries and filled:
                entries = self._reader.read(max(deadline.left(_LOOK_S), 0.001))
            for entry in entries:
                self._take_in(entry)
            if entries:
                self._reader.ack(sum(entry.outcome.settled for entry in entries))
                if filled:  # not where the input is slow: what is here goes first
                    self._fill()
                yield from self._ready()
                deadline = Deadline(self._timeout)
            elif self._reader.ended:
                raise_for(status_of(self._connection, self._ledger))
                raise QueueCancelled(self._ledger.shown)
            elif filled and deadline.passed:
                raise WaitTimeout(f"results of {self._reader.describe()}", deadline.waited_s)
        if self._feed.ended_without:
            raise_for(status_of(self._connection, self._ledger))
        if self._feed.error is not None:
            raise self._feed.error

    def _take_in(self, entry: Entry) -> None:
        if entry.error is not None:
            raise entry.error
        number, outcome = entry.number, entry.outcome
        self._sizes.learn(outcome.busy_us, outcome.settled)
        self._parts.setdefault(number, []).append((entry.start, outcome))
        left = self._under_way[number] - outcome.settled
        if left:
            self._under_way[number] = left
            if outcome.later:
                self._delayed.add(number)
        else:
            del self._under_way[number]
            self._delayed.discard(number)

    def _ready(self) -> Iterator[Any]:
        """The values that may be handed out now."""
        if self._ordered:
            yield from self._failures(self._yielded)
            while (number := self._yielded + 1) in self._parts and number not in self._under_way:
                self._yielded = number
                yield from self._values(number)
                yield from self._failures(number)
        else:
            for number in list(self._feed.unsendable):
                yield from self._failures(number)
            for number in [n for n in self._parts if n not in self._under_way]:
                yield from self._values(number)

    def _failures(self, number: int) -> Iterator[Any]:
        for place, error in self._feed.unsendable.pop(number, ()) if self._feed.unsendable else ():
            self.failures += 1
            yield (place, Failure(error)) if self._numbered else Failure(error)

    def _values(self, number: int) -> Iterator[Any]:
        parts, first = self._parts.pop(number), self._starts.pop(number)
        if len(parts) == 1 and not parts[0][1].errors:
            values = parts[0][1].values
            yield from enumerate(values, first) if self._numbered else values
            return
        whole = sorted(
            (start + at, outcome, at)
            for start, outcome in parts
            for at in range(len(outcome.values))
            if at not in outcome.later
        )
        for number, outcome, at in whole:
            value = outcome.values[at]
            if at in outcome.errors:
                error = of_item(unpack_error(outcome.errors[at], self._connection.sealer.keyed), first + number)
                if not self._goes_on:
                    raise error
                self.failures += 1
                value = Failure(error)
            yield (first + number, value) if self._numbered else value

    def _fill(self) -> bool:
        """Put chunks until the slots have enough to do, or the window is full. False if that is not reached yet."""
        feed = self._feed
        slots = max(1, self._connection.slots(self._celery_queue))
        slots = min(slots, self._max_workers or slots)
        began, full = time.monotonic(), True
        size = self._sizes.size
        lanes = -(-self._concurrency // size)  # chunks that a slot runs at a time
        if lanes > 1 and self._sizes.item_bytes:
            lanes = max(1, min(lanes, int(_LANES * MOST_BYTES / (size * self._sizes.item_bytes))))
        while (
            not feed.exhausted
            and len(self._under_way) - len(self._delayed) < 2 * slots * lanes + 1
            and len(self._under_way.keys() | self._parts.keys()) < 8 * slots * lanes
        ):
            if time.monotonic() - began > FILL_S:
                full = False
                break
            feed.read(slots)
            if feed.starved:
                full = False
                break
        unsent = range(feed.seq - len(feed.unsent) + 1, feed.seq + 1)
        try:
            feed.send(slots)
        except QueueFinished:
            raise_for(status_of(self._connection, self._ledger))
            raise
        if feed.ended_without:  # what it was sent before is handed out still
            for number in unsent:
                self._under_way.pop(number, None)
                self._starts.pop(number, None)
        elif feed.exhausted and not feed.unsent and not feed.left:
            feed.leave()
        return full


def _noted(starts: dict[int, int], under_way: dict[int, int]) -> Callable[[int, int, int], None]:
    """What keeps these true of each chunk that is made; not a method, which would hold on to the map."""

    def note(number: int, items: int, before: int) -> None:
        starts[number] = before
        under_way[number] = items

    return note


def of_item(error: BaseException, number: int) -> BaseException:
    """The error as it is raised here: a worker knows an item's place in its chunk, not in the input."""
    mended: BaseException
    if isinstance(error, WorkerLost):
        mended = WorkerLost(error.queue, number, error.attempts, error.last)
    elif isinstance(error, ItemTimeout):
        mended = ItemTimeout(error.queue, number, error.timeout_s, error.attempts)
    elif isinstance(error, NotSerializable) and error.index is not None and error.what == "the result of item":
        mended = NotSerializable(error.what, number, error.type_name, error.reason)
    else:
        return error
    mended.__cause__ = error.__cause__
    return mended
