"""map: run a function over an iterable, lazily at both ends.

Chunks grow until each holds some tens of milliseconds of work, and shrink towards the end of an input whose length is
known, so that no slot is left with the last one (guided self-scheduling: Polychronopoulos and Kuck, 1987). No more
chunks are under way than the slots need, and no more results kept than the window: input may be endless.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any

from lastcall.envelope import unserializable
from lastcall.errors import (
    ConfigError,
    ItemTooLarge,
    NotSerializable,
    QueueCancelled,
    WaitTimeout,
)
from lastcall.outcome import unpack_error
from lastcall.payload import ITEM, STAR, Outcome, seal_values
from lastcall.checks import positive
from lastcall.queue import make
from lastcall.results import Reader
from lastcall.waiting import Deadline, raise_for

if TYPE_CHECKING:
    from lastcall.connection import Connection

_TARGET_S = 0.03  # work in a chunk
_LEAST_S = 0.002  # below which a chunk is not cut for the sake of an even end
_MOST_ITEMS = 10_000
_MOST_BYTES = 4 << 20
_GROWTH = 8  # times, from one size to the next
_LOOK_S = 1.0


class MapResults(Iterator[Any]):
    """The results of a map, in order or as they come; made by client.map(). Each is computed ahead of its being read.

    Raises what the function raised, with the remote traceback as its cause, and cancels what is left. `job` is the id
    of the map's job.
    """

    def __init__(
        self, connection: Connection, function: Callable[..., Any], iterables: Sequence[Iterable[Any]], *,
        ordered: bool, chunksize: int | None, workers: str | None, max_workers: int | None,
        timeout: float | None, job: str | None = None,
    ) -> None:  # fmt: skip
        if chunksize is not None:
            positive("chunksize", chunksize)
        if not iterables:
            raise ConfigError("iterables", "at least one", "none", "client.map(function, items)")
        for at, iterable in enumerate(iterables):
            if not isinstance(iterable, Iterable):
                raise ConfigError(f"iterable {at}", "iterable", type(iterable).__name__)
        star = len(iterables) > 1
        self.job = job or f"map-{uuid.uuid4().hex}"
        self._queue = make(
            connection, self.job, "map", function=function, style=STAR if star else ITEM,
            workers=workers, max_workers=max_workers, results="once", on_error="return",
        )  # fmt: skip
        self._connection = connection
        self._ledger = self._queue._ledger
        self._celery_queue = self._queue.workers
        self._items: Iterator[Any] = zip(*iterables, strict=False) if star else iter(iterables[0])
        sizes = [len(one) for one in iterables if isinstance(one, Sized)]
        self._remaining = min(sizes) if sizes else None
        self._ordered = ordered
        self._chunksize = chunksize
        self._timeout = timeout
        self._size = chunksize or 1
        self._item_s = 0.0  # what an item takes, measured
        self._item_bytes = 0.0
        self._lease = self._ledger.join("map")
        self._seq = 0
        self._taken = 0  # items, of the chunks before the one that is made
        self._left = self._finished = False
        self._under_way: dict[int, int] = {}  # chunk number -> items that have not come back
        self._parts: dict[int, list[tuple[int, Outcome]]] = {}  # chunk number -> parts that have
        self._yielded = 0  # chunks, of an ordered map
        self._exhausted = False
        self._reader = Reader(connection, self._ledger, self._celery_queue)
        self._lost = False
        connection.heart.hold_producer(self._ledger, "map", self._lease.epoch, self._on_lost)
        self._results: Generator[Any, None, None] = self._run()
        self._fill()

    def __iter__(self) -> MapResults:
        return self

    def __next__(self) -> Any:
        return next(self._results)

    def close(self) -> None:
        """Cancel what is left. Called when the results are no longer referred to."""
        self._results.close()
        self._finish(cancel=not self._reader.ended)

    def __del__(self) -> None:
        # The server may be gone already, and nobody is there to be told.
        try:
            self.close()
        except Exception:
            return

    def _on_lost(self) -> None:
        self._lost = True

    def _run(self) -> Generator[Any, None, None]:
        with self._connection.heart.watching(self._ledger, self._celery_queue):
            deadline = Deadline(self._timeout)
            while True:
                self._fill()
                if not self._under_way and self._exhausted and not self._parts:
                    break
                entries = self._reader.read(0) or self._reader.read(deadline.left(_LOOK_S) or 0.001)
                for entry in entries:
                    self._learn(entry.outcome.busy_us, len(entry.outcome.values))
                    left = self._under_way[entry.number] - len(entry.outcome.values)
                    self._parts.setdefault(entry.number, []).append((entry.start, entry.outcome))
                    self._under_way[entry.number] = left
                    if left == 0:
                        del self._under_way[entry.number]
                if entries:
                    self._reader.ack()
                    self._fill()
                    yield from self._ready()
                    deadline = Deadline(self._timeout)
                elif self._reader.ended:
                    raise_for(self._ledger.status())
                    raise QueueCancelled(self._ledger.shown)
                elif deadline.passed:
                    what = self._reader._patience.describe(self._ledger.status())
                    raise WaitTimeout(f"results of {what}", deadline.waited_s)
        self._finish(cancel=False)

    def _ready(self) -> Iterator[Any]:
        """The values that may be handed out now."""
        if self._ordered:
            while (number := self._yielded + 1) in self._parts and number not in self._under_way:
                self._yielded = number
                yield from self._values(number)
        else:
            for number in [n for n in self._parts if n not in self._under_way]:
                yield from self._values(number)

    def _values(self, number: int) -> Iterator[Any]:
        parts = self._parts.pop(number)
        for _, outcome in sorted(parts, key=lambda part: part[0]):
            if not outcome.errors:
                yield from outcome.values
                continue
            for at, value in enumerate(outcome.values):
                if at in outcome.errors:
                    raise unpack_error(outcome.errors[at], self._connection.sealer.keyed)
                yield value

    def _fill(self) -> None:
        """Put chunks until the slots have enough to do, or the window is full."""
        slots = max(1, self._connection.slots(self._celery_queue))
        chunks: list[tuple[int, bytes]] = []
        while (
            not self._exhausted
            and len(self._under_way) < 2 * slots + 1
            and len(self._under_way) + len(self._parts) < 8 * slots
        ):
            items = self._take(slots)
            if not items:
                self._exhausted = True
                break
            self._seq += 1
            chunks.append((len(items), self._seal(self._seq, items)))
            self._under_way[self._seq] = len(items)
            self._taken += len(items)
        if chunks:
            put = self._ledger.put(
                "map", self._lease.epoch, self._seq - len(chunks) + 1, chunks, slots
            )
            self._connection.send(self._celery_queue, self._ledger.address, put.tickets)
        if self._exhausted and not self._lost:
            self._leave()

    def _take(self, slots: int) -> list[Any]:
        size = self._size
        if self._chunksize is None and self._remaining is not None:
            even = self._remaining // (2 * slots)
            least = int(_LEAST_S / self._item_s) if self._item_s else 1
            size = max(1, min(size, max(even, least)))
        try:
            items = list(itertools.islice(self._items, size))
        except BaseException:
            self._finish(cancel=True)
            raise
        if self._remaining is not None:
            self._remaining = max(0, self._remaining - len(items))
        return items

    def _seal(self, number: int, items: list[Any]) -> bytes:
        chunk = f"{self._lease.index}-{number}"
        limit = self._connection.settings.max_item_bytes
        try:
            payload = seal_values(self._connection.sealer, self.job, "map", chunk, items)
            self._item_bytes = len(payload) / len(items)
            if len(payload) > limit:
                self._check_sizes(items, limit)
        except (NotSerializable, ItemTooLarge) as error:
            self._finish(cancel=True)
            found = unserializable(self._connection.sealer, items)
            if found is None:
                raise
            at, cause = found
            raise NotSerializable("item", self._taken + at, cause.type_name, cause.reason) from error
        return payload

    def _check_sizes(self, items: list[Any], limit: int) -> None:
        for at, item in enumerate(items):
            size = len(self._connection.sealer.dump(item))
            if size > limit:
                raise ItemTooLarge(size, limit, self._taken + at)

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
        if not self._left:
            self._left = True
            self._connection.heart.drop_producer(self._ledger, "map", self._lease.epoch)
            self._ledger.leave("map", self._lease.epoch)

    def _finish(self, *, cancel: bool) -> None:
        if self._finished:
            return
        self._finished = True
        if cancel:
            self._ledger.cancel()
        self._leave()
