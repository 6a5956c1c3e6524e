"""Feed: an input on its way into a queue, by one producer that makes chunks of it.

Chunks grow until each holds some tens of milliseconds of work, and shrink towards the end of an input whose length is
known, so that no slot is left with the last one (guided self-scheduling: Polychronopoulos and Kuck, 1987).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from lastcall.envelope import unserializable
from lastcall.errors import ItemTooLarge, LeaseLost, NotSerializable, QueueFinished
from lastcall.payload import seal_values
from lastcall.waiting import AWAY, Outage

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.state.ledger import Ledger
    from lastcall.state.records import Put

TARGET_S: Final = 0.03  # work in a chunk
FILL_S: Final = 0.01  # after which what was read is sent: the input may be slow
_LEAST_S = 0.002  # below which a chunk is not cut for the sake of an even end
MOST_ITEMS: Final = 10_000
MOST_BYTES: Final = 4 << 20
_GROWTH = 8  # times, from one size to the next
_SURE_S: Final = 0.01  # work up to which a chunk may grow at once: most of what a small one takes is not its items'
_NEWS: Final = 0.3  # what the latest chunk counts for at least in what an item takes


class NotYet(Exception):
    """What an input raises whose next item has not come in milliseconds: results are read, then it is asked again."""


class Sizes:
    """How many items a chunk shall hold, found by measuring. chunksize: the answer, where it was given.

    remaining: items of the input that are left, where its length is known. first, most: items, to begin with and ever.
    """

    def __init__(
        self, chunksize: int | None = None, remaining: int | None = None, *, first: int = 1, most: int = MOST_ITEMS
    ) -> None:
        self.remaining = remaining
        self._most = min(most, MOST_ITEMS)
        self.item_bytes = 0.0
        self._chunksize = chunksize
        self._size = chunksize or first
        self._item_s = 0.0  # what an item takes
        self._learned = 0  # from how many
        self._read_s = 0.0  # what it took to read one from the input

    def learn(self, busy_us: float, items: int) -> None:
        """So many items took so long: choose the next chunks' size."""
        if not busy_us or not items:
            return
        news = max(_NEWS, items / (items + self._learned))
        self._item_s += news * (busy_us / 1e6 / items - self._item_s)
        self._learned += items
        if self._chunksize is None:
            grown = self._size * _GROWTH
            if self.remaining is not None:  # else nothing keeps all that is left from being in one chunk
                grown = max(grown, int(_SURE_S / self._item_s))
            self._size = max(1, min(self._fitting(), grown, self._most))

    def grow(self) -> None:
        """The next chunks may be larger: nothing tells what items take, and it is of no matter."""
        self._size = min(self._size * _GROWTH, self._most)

    @property
    def size(self) -> int:
        """What a chunk shall hold as far as is known."""
        return self._size

    @property
    def chunk_s(self) -> float:
        """What a chunk takes, 0 where that is not known."""
        return self._item_s * self._size

    @property
    def grown(self) -> bool:
        """Whether chunks are as large as what an item takes lets them be, which a chunk's worth of items has told."""
        if self._chunksize is not None:
            return True
        return self._learned >= self._size >= min(self._fitting(), self._most)

    def fits(self, chunks: int) -> bool:
        """Whether all that is left of the input goes into so many: then there is nothing to learn for."""
        return self.remaining is not None and self.remaining <= chunks * self._size

    def next(self, slots: int) -> int:
        """Of the next chunk."""
        size = self._size
        if self._chunksize is None and self.remaining is not None:
            even = self.remaining // (2 * slots)
            least = int(_LEAST_S / self._item_s) if self._item_s else 1
            size = max(1, min(size, max(even, least)))
        if self._read_s:
            size = max(1, min(size, int(FILL_S / self._read_s)))
        return size

    def took(self, items: int, seconds: float) -> None:
        """To read that many from the input took so long."""
        if items and self._chunksize is None:
            self._read_s = seconds / items
        if self.remaining is not None:
            self.remaining = max(0, self.remaining - items)

    def _fitting(self) -> int:
        fitting = int(TARGET_S / max(self._item_s, 1e-9))
        return min(fitting, int(MOST_BYTES / self.item_bytes)) if self.item_bytes else fitting


class Feed:
    """One producer of a queue, which has its lease from who made the queue for it; one thread at a time uses it.

    made: called for each chunk with its number, its items and how many were before. goes_on: an item that cannot be
    sent is passed over, and `unsendable` says after which chunk.
    """

    def __init__(
        self, connection: Connection, ledger: Ledger, celery_queue: str, name: str, items: Iterator[Any], sizes: Sizes,
        *, goes_on: bool = False, made: Callable[[int, int, int], None] | None = None,
    ) -> None:  # fmt: skip
        self.unsent: list[tuple[int, bytes]] = []  # the last chunks up to `seq`: items, payload
        self.seq = 0
        self.taken = 0  # items, of the chunks before the one that is made
        # chunk number -> of items between it and the next: place in the input, why
        self.unsendable: dict[int, list[tuple[int, BaseException]]] = {}
        self.error: Exception | None = None  # that the input raised, once it is exhausted
        self.starved = False  # the input had nothing when it was read last
        self.exhausted = self.left = self.ended_without = False
        self.outage = Outage(connection)
        self._connection = connection
        self._ledger = ledger
        self._celery_queue = celery_queue
        self._name = name
        self._items = items
        self._sizes = sizes
        self._goes_on = goes_on
        self._made = made
        lease = ledger.join(name)
        self._index, self._epoch = lease.index, lease.epoch
        self.position = lease.position
        self._lost = threading.Event()  # set by the heart; its callback must not hold on to this object
        connection.heart.hold_producer(ledger, name, self._epoch, self._lost.set)

    def read(self, slots: int) -> bool:
        """Make a chunk of what the input gives next. False if it had nothing."""
        size = self._sizes.next(slots)
        items: list[Any] = []
        began = time.perf_counter()
        try:
            self.starved = False
            items.extend(itertools.islice(self._items, size))
        except NotYet:
            self.starved = True
        except Exception as error:  # whatever the input raises comes when the results of what came before it are read
            self.error = error
            self.exhausted = True
        self._sizes.took(len(items), time.perf_counter() - began)
        if items:
            self._seal(items)
        elif not self.starved:
            self.exhausted = True
        return bool(items)

    def send(self, slots: int) -> Put | None:
        """Put what was made. None where that has to be tried again, or the queue has ended; else what was accepted.

        slots: the cap on tickets. Raises QueueFinished if the queue was cancelled; LeaseLost, ServerUnreachable.
        """
        if self._lost.is_set() and not self.left:
            self.come_back()
        if not self.unsent:
            return None
        first = self.seq - len(self.unsent) + 1
        try:
            put = self._ledger.put(self._name, self._epoch, first, self.unsent, slots)
        except AWAY as error:
            self.outage.bear(error)
            return None  # sent again as it was: its sequence numbers tell what had arrived
        except LeaseLost:
            self.come_back()
            return None
        except QueueFinished as error:
            if error.state == "CANCELLED":
                raise
            self.give_up()
            return None
        self.outage.over()
        del self.unsent[: put.seq - first + 1]
        self._connection.send(self._celery_queue, self._ledger.address, put.tickets)
        return put

    def come_back(self) -> None:
        """This process was silent for longer than its lease: take it out again, what is not sent is sent with it."""
        try:
            lease = self._ledger.join(self._name)
        except AWAY as error:
            self.outage.bear(error)
        except QueueFinished:
            self.give_up()
        else:
            if lease.seq < self.seq - len(self.unsent):  # the server has lost what it had accepted
                raise LeaseLost(self._ledger.shown, self._name)
            self._epoch = lease.epoch
            self._lost.clear()
            self._connection.heart.hold_producer(self._ledger, self._name, self._epoch, self._lost.set)

    def give_up(self) -> None:
        """The queue has ended without this producer: what it was sent before is done; the rest never comes."""
        self.unsent = []
        self.exhausted = self.left = self.ended_without = True

    def leave(self) -> None:
        """Leave the queue; tried again by the next call where the server is away."""
        try:
            self._ledger.leave(self._name, self._epoch)  # of no matter if it is held no more: nothing more comes
        except AWAY as error:
            self.outage.bear(error)
            return
        self.left = True
        self.drop()
        self._connection.send_minted(self._ledger)

    def lose(self) -> None:
        """Leave the queue without having put all of the input: it counts as lost."""
        self.drop()
        self._ledger.leave(self._name, self._epoch, lost=True)
        self._connection.send_minted(self._ledger)

    def drop(self) -> None:
        """Renew the lease no more."""
        self._connection.heart.drop_producer(self._ledger, self._name, self._epoch)

    def _seal(self, items: list[Any]) -> None:
        """Make a chunk of these items; more than one if it were too large, or if some cannot be sent."""
        while items and (refused := self._chunk(items)):
            at, error = refused
            self._seal(items[:at])
            if not self._goes_on:
                raise error
            self.unsendable.setdefault(self.seq, []).append((self.taken, error))
            self.taken += 1
            items = items[at + 1 :]

    def _chunk(self, items: list[Any]) -> tuple[int, BaseException] | None:
        """Make a chunk, or several, of these items; or say which of them cannot be sent, and why."""
        number, ledger, sealer = self.seq + 1, self._ledger, self._connection.sealer
        try:
            payload = seal_values(sealer, ledger.job, ledger.name, f"{self._index}-{number}", items)
        except NotSerializable:
            found = unserializable(sealer, items)
            if found is None:
                raise
            at, cause = found
            unsendable = NotSerializable("item", self.taken + at, cause.type_name, cause.reason)
            unsendable.__cause__ = cause
            return at, unsendable
        limit = self._connection.settings.max_item_bytes
        if len(payload) > limit:
            if len(items) > 1:
                half = len(items) // 2
                self._seal(items[:half])
                self._seal(items[half:])
                return None
            size = len(sealer.dump(items[0]))
            if size > limit:
                return 0, ItemTooLarge(size, limit, self.taken)
        self._sizes.item_bytes = len(payload) / len(items)
        self.seq = number
        self.unsent.append((len(items), payload))
        if self._made is not None:
            self._made(number, len(items), self.taken)
        self.taken += len(items)
        return None
