"""A producer: a lease to put into a queue, kept alive by the heart, and a thread that carries what is put.

put() serializes in the caller's thread, so that a bad item raises there and later changes to it do no harm; what is put
while a round trip is under way travels together in the next one.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from redis.exceptions import RedisError

from lastcall.current import HELP_S, help_with, running
from lastcall.errors import (
    ConfigError,
    Full,
    ItemTooLarge,
    LeaseLost,
    NotSerializable,
    NoWorker,
    ProducerLeft,
    ServerUnreachable,
    WaitTimeout,
)
from lastcall.payload import seal_dumped
from lastcall.waiting import AWAY, Deadline, Outage, Patience, warn_of_loop

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.parcel import Parcel
    from lastcall.state.ledger import Ledger
    from lastcall.state.records import Lease

T = TypeVar("T")

_CHUNK_S = 0.05  # work that a chunk shall hold, once it is known what an item takes
_FIRST_ITEMS = 16  # items of a chunk until that is known
_MOST_ITEMS = 1_000
_CHUNK_BYTES = 1 << 20
_BUFFER_BYTES = 16 << 20  # of what was put and is not under way
_CHUNKS_A_CALL = 64
_ROOM_S = 1.0  # how long to wait for the room bell before looking again
_LONG_S = 3600.0
_IDLE_S = 1.0  # for which a producer's thread has nothing to do before it ends: the next put() starts another


class Producer(Generic[T]):
    """A live producer of a queue; made by queue.producer(), used as a context manager.

    Leaving the block flushes and leaves the queue; leaving it by an exception counts as lost: what was put is
    processed, and the queue ends INCOMPLETE, because the rest never came. Threads may share one, forks may not.
    """

    def __init__(
        self, connection: Connection, ledger: Ledger, celery_queue: str, name: str, lease: Lease,
        *, maxsize: int, maxbytes: int, chunk_items: int | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.index = lease.index
        self.place = lease.place  # the how-manieth producer to come, from 1
        self._connection = connection
        self._ledger = ledger
        self._celery_queue = celery_queue
        self._epoch = lease.epoch
        self._maxsize = maxsize
        self._chunk_items = chunk_items
        self._chunk_bytes = min(_CHUNK_BYTES, maxbytes // 2 or _CHUNK_BYTES)
        self._buffer_bytes = min(_BUFFER_BYTES, maxbytes or _BUFFER_BYTES)
        self._limit = connection.settings.max_item_bytes
        self._pid = os.getpid()
        self._sent = lease.seq  # of the last chunk that was accepted
        self._position = lease.position
        self._room = 0 if maxsize else -1  # when it was last told, -1 without bound; what is under way takes of it
        self._cost_us = -1
        self._items: deque[bytes] = deque()
        self._bytes = 0
        self._under_way = 0  # items
        self._blocked = 0  # threads that wait for room
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._moved = threading.Condition(self._lock)
        self._error: Exception | None = None
        self._alone: NoWorker | None = None  # while there is no room, nobody makes any
        self._left = False
        self._thread: threading.Thread | None = None
        self._outage = Outage(connection)
        self._patience = Patience(connection)
        connection.heart.hold_producer(ledger, name, lease.epoch, self._on_lost)

    def __enter__(self) -> Producer[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def __repr__(self) -> str:
        return f"<Producer {self.name} of {self._ledger.shown}, {self._position} items put>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a producer cannot be pickled, its lease is of this process: send the queue, and its producer_token()"
        )

    @property
    def position(self) -> int:
        """Items of this producer that the queue has accepted, in all its lives: where to go on."""
        return self._position

    @property
    def broken(self) -> bool:
        """Whether it can put nothing any more; what was waiting is lost."""
        return self._error is not None

    @property
    def waiting(self) -> int:
        """Items that were put and are not in the queue yet."""
        return len(self._items) + self._under_way

    def put(self, item: T, *, timeout: float | None = None) -> None:
        """Add one item; blocks while `maxsize` items are outstanding.

        It is in the queue when flush() or the block is through. timeout: seconds; None waits for as long as the
        lease is held. Raises Full at the timeout (the item was not put), NoWorker if there is no room and nobody to
        make any, QueueFinished if the queue has ended, LeaseLost if this producer was given up, ProducerLeft,
        NotSerializable, ItemTooLarge; ServerUnreachable, ServerReadOnly or ServerOutOfMemory when the server has been
        away, or has refused, for a minute.
        """
        self.put_dumped(self.dump(item), timeout=timeout)

    @property
    def is_full(self) -> bool:
        """Whether put() would block now."""
        with self._lock:
            return not self._fits()

    def put_many(self, items: Iterable[T]) -> None:
        """Add items, one after the other, as put() does."""
        for item in items:
            self.put(item)

    def dump(self, item: object, parcel: Parcel | None = None) -> bytes:
        """Serialize an item. parcel: takes its large buffers. Raises NotSerializable, ItemTooLarge."""
        try:
            dumped = self._connection.sealer.dump(item, parcel)
        except NotSerializable as error:
            raise NotSerializable("item", self._put_so_far(), error.type_name, error.reason) from error
        if len(dumped) > self._limit:
            raise ItemTooLarge(len(dumped), self._limit, self._put_so_far())
        return dumped

    def put_dumped(
        self, dumped: bytes, *, timeout: float | None = None,
        registered: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        """Add an item that went through dump().

        registered: called with the number of the chunk that it will be, where every item is a chunk of its own.
        """
        if os.getpid() != self._pid:
            self._refuse_fork()
        with self._lock:
            self._check()
            if not self._fits():
                self._wait_to_fit(Deadline(timeout))
            if registered is not None:
                registered(self._sent + self._under_way + len(self._items) + 1)
            self._items.append(dumped)
            self._bytes += len(dumped)
            if self._thread is None:
                self._start()
            elif not self._under_way:
                self._work.notify()

    def take_back(self, number: int, moved_up: Callable[[], None]) -> bool:
        """Drop an item that waits here, by the number it was registered with; False if it is under way or further.

        moved_up: called when it is gone, and those behind it have numbers that are one less, before anything is sent.
        """
        if os.getpid() != self._pid:
            self._refuse_fork()
        with self._lock:
            at = number - self._sent - self._under_way - 1
            if at < 0:
                return False
            self._bytes -= len(self._items[at])
            del self._items[at]
            moved_up()
            self._moved.notify_all()
            return True

    def arrived(self, number: int) -> None:
        """Block until the chunk with this number is in the queue, or will not be."""
        with self._lock:
            while number > self._sent and self._error is None and not self._left:
                self._moved.wait(_LONG_S)

    def flush(self, timeout: float | None = None) -> None:
        """Block until all that was put is in the queue. Raises what put() raises, WaitTimeout."""
        if os.getpid() != self._pid:
            self._refuse_fork()
        with self._lock:
            self._flush(Deadline(timeout))

    def close(self, *, patient: bool = True) -> None:
        """Flush, and leave the queue: one live producer less. May be called again. Raises what flush() raises.

        patient: bears a server that is away; else the lease runs out there.
        """
        self._leave(lost=False, patient=patient)

    def abandon(self) -> None:
        """Put what was put so far and leave as lost: the queue will end INCOMPLETE."""
        self._leave(lost=True, patient=False)

    def _leave(self, *, lost: bool, patient: bool) -> None:
        if os.getpid() != self._pid:
            return  # a fork leaves its copy, not the lease
        try:
            with self._lock:
                if self._left:
                    return
                try:
                    # One that is given up anyway does not wait for room that may never come.
                    self._flush(Deadline(self._connection.settings.lease_s if lost else None))
                finally:
                    self._left = True
                    self._work.notify()
                    self._moved.notify_all()
        except BaseException as error:
            self._give_back(lost=True, patient=False)
            if not lost or not isinstance(error, Exception):
                raise
        else:
            self._give_back(lost=lost, patient=patient)

    def _give_back(self, *, lost: bool, patient: bool) -> None:
        try:
            held = self._say_goodbye(lost=lost, patient=patient)
        finally:
            # Renewed until then: it may take a while.
            self._connection.heart.drop_producer(self._ledger, self.name, self._epoch)
        if not held and not lost:
            raise LeaseLost(self._ledger.shown, self.name)

    def _say_goodbye(self, *, lost: bool, patient: bool) -> bool:
        """Leave the queue; bears a server that is away, if it is patient. False if it held no lease any more."""
        outage = Outage(self._connection)
        while True:
            try:
                left = self._ledger.leave(self.name, self._epoch, lost=lost)
                self._connection.send_minted(self._ledger)
                return left
            except AWAY as error:
                if not patient:
                    return True  # its lease runs out, which comes to the same
                outage.bear(error)

    def _flush(self, deadline: Deadline) -> None:
        while self._items or self._under_way:
            self._check()
            if self._alone is not None:
                raise self._alone
            if deadline.passed:
                waiting = len(self._items) + self._under_way
                what = f"room for {waiting} items in queue {self._ledger.shown}"
                raise WaitTimeout(f"{what}; {self._outage}" if self._outage else what, deadline.waited_s)
            self._wait(deadline)
        if self._error is not None:
            raise self._error

    def _fits(self) -> bool:
        if self._bytes >= self._buffer_bytes:
            return False
        return self._room < 0 or len(self._items) + self._under_way < self._room

    def _wait_to_fit(self, deadline: Deadline) -> None:
        self._blocked += 1
        try:
            while not self._fits():
                if deadline.passed:
                    raise Full(self._ledger.shown, self._maxsize, deadline.waited_s)
                if self._alone is not None:
                    raise self._alone
                if self._thread is None:
                    self._start()
                self._work.notify()
                self._wait(deadline)
                self._check()
        finally:
            self._blocked -= 1

    def _wait(self, deadline: Deadline) -> None:
        """Until something has moved; a worker's function does meanwhile what makes room."""
        warn_of_loop(f"room in queue {self._ledger.shown}", "await out.put(item)")
        if not running.get():
            self._moved.wait(deadline.left(_LONG_S))
        elif not self._moved.wait(deadline.left(HELP_S)):
            self._lock.release()
            try:
                help_with(self._ledger)
            finally:
                self._lock.acquire()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._left:
            raise ProducerLeft(self._ledger.shown, self.name)

    def _refuse_fork(self) -> NoReturn:
        raise ConfigError(
            "a producer", "used in the process that took its lease", "a fork of it", "take one there: queue.producer()"
        )

    def _put_so_far(self) -> int:
        return self._position + len(self._items) + self._under_way

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"lastcall-producer-{self.name}", daemon=True)
        self._thread.start()

    def _on_lost(self) -> None:
        with self._lock:
            self._fail(LeaseLost(self._ledger.shown, self.name))

    def _fail(self, error: Exception) -> None:
        if self._error is None and not self._left:
            self._error = error
        self._work.notify()
        self._moved.notify_all()

    # What follows runs in the producer's own thread.

    def _run(self) -> None:
        try:
            self._carry()
        except Exception as error:  # whatever it is, nobody may wait for this thread for ever
            said: Exception = error
            if isinstance(error, RedisError):
                said = ServerUnreachable(self._connection.settings.redacted_url, f"it answered {str(error)!r}")
                said.__cause__ = error
            with self._lock:
                self._fail(said)

    def _carry(self) -> None:
        batch: list[list[bytes]] = []
        while True:
            with self._lock:
                while not batch and not self._items and not self._blocked:
                    if self._left or self._error:
                        return
                    if not self._work.wait(_IDLE_S) and not self._items and not self._blocked:
                        self._thread = None  # a program may have a thousand queues
                        return
                if self._left or self._error:
                    return
                if not batch:
                    batch = self._take()
            try:
                full = self._put(batch)
                if full:
                    self._wait_for_room()
                    batch = self._smaller(batch)
            except AWAY as error:
                # Sent again as it was: its sequence numbers tell what had arrived. Memory comes free as work is done.
                self._outage.bear(error)
                continue
            self._outage.over()

    def _take(self) -> list[list[bytes]]:
        """Chunks out of what was put, to be sent in one call; none where somebody asks for room alone."""
        most = self._chunk_items or self._fitting()
        if self._room > 0:
            most = min(most, self._room)
        chunks: list[list[bytes]] = []
        total = 0
        while self._items and len(chunks) < _CHUNKS_A_CALL and total < self._chunk_bytes:
            chunk: list[bytes] = []
            size = 0
            while self._items and len(chunk) < most:
                if chunk and size + len(self._items[0]) > self._chunk_bytes:
                    break
                item = self._items.popleft()
                size += len(item)
                chunk.append(item)
            chunks.append(chunk)
            total += size
            self._under_way += len(chunk)
        self._bytes -= total
        self._moved.notify_all()
        return chunks

    def _fitting(self) -> int:
        if self._cost_us < 0:
            return _FIRST_ITEMS
        return max(1, min(_MOST_ITEMS, int(_CHUNK_S * 1e6 / max(self._cost_us, 1))))

    def _put(self, batch: list[list[bytes]]) -> bool:
        """Send chunks; removes from `batch` what was accepted. True if some did not fit."""
        job, queue = self._ledger.job, self._ledger.name
        sealer = self._connection.sealer
        first = self._sent + 1
        chunks = [
            (len(items), seal_dumped(sealer, job, queue, f"{self.index}-{first + at}", items))
            for at, items in enumerate(batch)
        ]
        cap = self._connection.slots(self._celery_queue) if self._celery_queue else 0
        put = self._ledger.put(self.name, self._epoch, first, chunks, cap)
        try:
            # Before anybody is told: a process may end when it has flushed, and a ticket that is not sent is missed
            # for seconds.
            self._connection.send(self._celery_queue, self._ledger.address, put.tickets)
        finally:
            accepted = put.seq - self._sent
            with self._lock:
                for items in batch[:accepted]:
                    self._position += len(items)
                    self._under_way -= len(items)
                self._sent = put.seq
                self._room = put.room
                self._cost_us = put.cost_us
                if not put.full:
                    self._alone = None
                self._moved.notify_all()
            del batch[:accepted]
        return put.full

    def _wait_for_room(self) -> None:
        if not self._connection.asking.blpop([self._ledger.room_key], timeout=_ROOM_S):
            self._look_for_workers()

    def _look_for_workers(self) -> None:
        """There is no room: is anybody there to make some?"""
        alone = None
        try:
            self._patience.look(self._ledger.status())
        except NoWorker as error:
            alone = error
        with self._lock:
            self._alone = alone
            self._moved.notify_all()

    def _smaller(self, batch: list[list[bytes]]) -> list[list[bytes]]:
        """The same items in chunks that fit into the room there is."""
        if not batch or self._room <= 0 or len(batch[0]) <= self._room:
            return batch
        items = [item for chunk in batch for item in chunk]
        size = self._room
        return [items[at : at + size] for at in range(0, len(items), size)]
