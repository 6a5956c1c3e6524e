"""map: run a function over an iterable, lazily at both ends.

Chunks grow until each holds some tens of milliseconds of work, and shrink towards the end of an input whose length is
known, so that no slot is left with the last one (guided self-scheduling: Polychronopoulos and Kuck, 1987). No more
chunks are under way than the slots need, and no more results kept than the window: input may be endless.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from lastcall.checks import positive
from lastcall.envelope import unserializable
from lastcall.errors import (
    ConfigError,
    ItemTimeout,
    ItemTooLarge,
    LastcallError,
    LeaseLost,
    NotSerializable,
    QueueCancelled,
    QueueFinished,
    WaitTimeout,
    WorkerLost,
)
from lastcall.outcome import unpack_error
from lastcall.payload import ITEM, STAR, Outcome, seal_values
from lastcall.queue import make
from lastcall.results import Entry, Reader
from lastcall.waiting import AWAY, Deadline, Outage, raise_for, status_of, unreachable

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.policy import Told
    from lastcall.queue import Starter
    from lastcall.state.ledger import Ledger

_log = logging.getLogger(__name__)

_TARGET_S = 0.03  # work in a chunk
_LEAST_S = 0.002  # below which a chunk is not cut for the sake of an even end
_MOST_ITEMS = 10_000
_MOST_BYTES = 4 << 20
_GROWTH = 8  # times, from one size to the next
MAP = "map"  # the name of a map's queue, and of its producer

_LOOK_S = 1.0
_FILL_S = 0.01  # after which what was read is sent, and results are looked for: the input may be slow


class Failure:
    """What a map that was told to go on gives for an item that has no value. error: why."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class NotYet(Exception):
    """What an input raises whose next item has not come in milliseconds: results are read, then it is asked again."""


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
            keep=job is not None, star=star, goes_on=goes_on, numbered=numbered, starter=starter,
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
    ) -> None:  # fmt: skip
        several = len(iterables) > 1
        try:
            queue = make(
                connection, job, MAP, function=function, style=STAR if several or star else ITEM,
                workers=workers, max_workers=max_workers, results="keep" if keep else "once", on_error="return",
                policy=policy, founder=MAP, starter=starter,
            )  # fmt: skip
            if keep and [(one.epoch, one.position) for one in queue.status().producers] != [(1, 0)]:
                raise ConfigError(
                    "job", "an id that no other map has had", repr(job),
                    "use another, such as one with the date (this one is free again LASTCALL_TTL_S seconds after it "
                    f"ended), or read its results: client.job({job!r})",
                )  # fmt: skip
            lease = queue._ledger.join(MAP)
        except AWAY as error:
            raise unreachable(connection, error) from error
        self._connection = connection
        self._job = job
        self._ledger = queue._ledger
        self._celery_queue = queue.workers
        self._items: Iterator[Any] = zip(*iterables, strict=False) if several else iter(iterables[0])
        sizes = [len(one) for one in iterables if isinstance(one, Sized)]
        self._remaining = min(sizes) if sizes else None
        self._ordered = ordered
        self._chunksize = chunksize
        self._max_workers = max_workers
        self._timeout = timeout
        self._goes_on = goes_on
        self._numbered = numbered
        self._size = chunksize or 1
        self._item_s = 0.0  # what an item takes, measured
        self._read_s = 0.0  # what it took to read one from the input
        self._item_bytes = 0.0
        self._index, self._epoch = lease.index, lease.epoch
        self._seq = 0
        self._unsent: list[tuple[int, bytes]] = []  # the last chunks up to `_seq`: items, payload
        self._taken = 0  # items, of the chunks before the one that is made
        self._starts: dict[int, int] = {}  # chunk number -> items before it
        self._under_way: dict[int, int] = {}  # chunk number -> items that have not come back
        self._delayed: set[int] = set()  # of these, what waits for no more than items that are tried again
        self._parts: dict[int, list[tuple[int, Outcome]]] = {}  # chunk number -> parts that have
        self._yielded = 0  # chunks, of an ordered map
        # chunk number -> of items between it and the next: place in the input, why
        self._unsendable: dict[int, list[tuple[int, BaseException]]] = {}
        self.failures = 0
        self._starved = False  # the input had nothing when it was read last
        self._input_error: Exception | None = None  # that the input raised, once it is exhausted
        self._exhausted = self._left = self._finished = self._ended_without = False
        self._reader = Reader(connection, self._ledger, once=not keep)
        self._outage = Outage(connection)
        self._lost = threading.Event()  # set by the heart; its callback must not hold on to this object
        connection.heart.hold_producer(self._ledger, MAP, self._epoch, self._lost.set)
        try:
            self._fill()
        except BaseException:
            self.finish(cancel=True)
            raise

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
        self._connection.heart.drop_producer(self._ledger, MAP, self._epoch)
        try:
            if cancel and not self._reader.ended:
                self._ledger.cancel()
            elif not self._left:
                self._ledger.leave(MAP, self._epoch)
        except (RedisError, LastcallError) as error:  # it ends by itself when its lease has run out
            _log.warning("map %s cannot be ended now: %s", self._job, error)

    def _run(self) -> Iterator[Any]:
        deadline = Deadline(self._timeout)
        while True:
            filled = self._fill()
            if self._unsendable:
                yield from self._ready()
            if self._exhausted and not self._under_way and not self._parts:
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
        if self._ended_without:
            raise_for(status_of(self._connection, self._ledger))
        if self._input_error is not None:
            raise self._input_error

    def _take_in(self, entry: Entry) -> None:
        if entry.error is not None:
            raise entry.error
        number, outcome = entry.number, entry.outcome
        self._learn(outcome.busy_us, outcome.settled)
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
            for number in list(self._unsendable):
                yield from self._failures(number)
            for number in [n for n in self._parts if n not in self._under_way]:
                yield from self._values(number)

    def _failures(self, number: int) -> Iterator[Any]:
        for place, error in self._unsendable.pop(number, ()) if self._unsendable else ():
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
                error = _of_item(unpack_error(outcome.errors[at], self._connection.sealer.keyed), first + number)
                if not self._goes_on:
                    raise error
                self.failures += 1
                value = Failure(error)
            yield (first + number, value) if self._numbered else value

    def _fill(self) -> bool:
        """Put chunks until the slots have enough to do, or the window is full. False if that is not reached yet."""
        slots = max(1, self._connection.slots(self._celery_queue))
        slots = min(slots, self._max_workers or slots)
        began, full = time.monotonic(), True
        while (
            not self._exhausted
            and len(self._under_way) - len(self._delayed) < 2 * slots + 1
            and len(self._under_way.keys() | self._parts.keys()) < 8 * slots
        ):
            if time.monotonic() - began > _FILL_S:
                full = False
                break
            items = self._take(slots)
            if items:
                self._seal(items)
            elif not self._starved:
                self._exhausted = True
            if self._starved:
                full = False
                break
        if self._lost.is_set() and not self._left:
            self._come_back()
        if self._unsent:
            self._send(slots)
        if self._exhausted and not self._unsent and not self._left:
            self._leave()
        return full

    def _send(self, slots: int) -> None:
        first = self._seq - len(self._unsent) + 1
        try:
            put = self._ledger.put(MAP, self._epoch, first, self._unsent, slots)
        except AWAY as error:
            self._outage.bear(error)
            return  # sent again as it was: its sequence numbers tell what had arrived
        except LeaseLost:
            self._come_back()
            return
        except QueueFinished as error:
            if error.state == "CANCELLED":
                raise_for(status_of(self._connection, self._ledger))
            self._give_up_input()
            return
        self._outage.over()
        self._unsent = []
        self._connection.send(self._celery_queue, self._ledger.address, put.tickets)

    def _come_back(self) -> None:
        """This process was silent for longer than its lease: take it out again, what is not sent is sent with it."""
        try:
            lease = self._ledger.join(MAP)
        except AWAY as error:
            self._outage.bear(error)
        except QueueFinished:
            self._give_up_input()
        else:
            if lease.seq < self._seq - len(self._unsent):  # the server has lost what it had accepted
                raise LeaseLost(self._ledger.shown, MAP)
            self._epoch = lease.epoch
            self._lost.clear()
            self._connection.heart.hold_producer(self._ledger, MAP, self._epoch, self._lost.set)

    def _give_up_input(self) -> None:
        """The queue has ended without this producer: what it was sent before is done, and is handed out still."""
        for number in range(self._seq - len(self._unsent) + 1, self._seq + 1):
            del self._under_way[number], self._starts[number]
        self._unsent = []
        self._exhausted = self._left = self._ended_without = True

    def _take(self, slots: int) -> list[Any]:
        size = self._size
        if self._chunksize is None and self._remaining is not None:
            even = self._remaining // (2 * slots)
            least = int(_LEAST_S / self._item_s) if self._item_s else 1
            size = max(1, min(size, max(even, least)))
        if self._read_s:
            size = max(1, min(size, int(_FILL_S / self._read_s)))
        items: list[Any] = []
        began = time.perf_counter()
        try:
            self._starved = False
            items.extend(itertools.islice(self._items, size))
        except NotYet:
            self._starved = True
        except Exception as error:  # whatever the input raises comes when the results of what came before it are read
            self._input_error = error
            self._exhausted = True
        if items and self._chunksize is None:
            self._read_s = (time.perf_counter() - began) / len(items)
        if self._remaining is not None:
            self._remaining = max(0, self._remaining - len(items))
        return items

    def _seal(self, items: list[Any]) -> None:
        """Make a chunk of these items; more than one if it were too large, or if some cannot be sent."""
        while items and (refused := self._chunk(items)):
            at, error = refused
            if not self._goes_on:
                raise error
            self._seal(items[:at])
            self._unsendable.setdefault(self._seq, []).append((self._taken, error))
            self._taken += 1
            items = items[at + 1 :]

    def _chunk(self, items: list[Any]) -> tuple[int, BaseException] | None:
        """Make a chunk, or several, of these items; or say which of them cannot be sent, and why."""
        number = self._seq + 1
        try:
            payload = seal_values(self._connection.sealer, self._job, MAP, f"{self._index}-{number}", items)
        except NotSerializable:
            found = unserializable(self._connection.sealer, items)
            if found is None:
                raise
            at, cause = found
            unsendable = NotSerializable("item", self._taken + at, cause.type_name, cause.reason)
            unsendable.__cause__ = cause
            return at, unsendable
        limit = self._connection.settings.max_item_bytes
        if len(payload) > limit:
            if len(items) > 1:
                half = len(items) // 2
                self._seal(items[:half])
                self._seal(items[half:])
                return None
            size = len(self._connection.sealer.dump(items[0]))
            if size > limit:
                return 0, ItemTooLarge(size, limit, self._taken)
        self._item_bytes = len(payload) / len(items)
        self._seq = number
        self._unsent.append((len(items), payload))
        self._starts[number] = self._taken
        self._under_way[number] = len(items)
        self._taken += len(items)
        return None

    def _learn(self, busy_us: int, items: int) -> None:
        """Choose the next chunks' size from what this one took."""
        if not busy_us or not items:
            return
        item_s = busy_us / 1e6 / items
        self._item_s = item_s if not self._item_s else 0.7 * self._item_s + 0.3 * item_s
        if self._chunksize is None:
            fitting = int(_TARGET_S / max(self._item_s, 1e-9))
            if self._item_bytes:
                fitting = min(fitting, int(_MOST_BYTES / self._item_bytes))
            self._size = max(1, min(fitting, self._size * _GROWTH, _MOST_ITEMS))

    def _leave(self) -> None:
        try:
            self._ledger.leave(MAP, self._epoch)  # of no matter if it is held no more: nothing more comes
        except AWAY as error:
            self._outage.bear(error)
            return  # tried again at the next fill
        self._left = True
        self._connection.heart.drop_producer(self._ledger, MAP, self._epoch)


def _of_item(error: BaseException, number: int) -> BaseException:
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
