"""Feeder: the thread that puts a flow's input into its first queue, and learns how large chunks are to be.

It is held back by the window, in the ledger, and by what the slots need: no more chunks wait than keep them busy.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from lastcall.ahead import Ahead
from lastcall.errors import ItemTooLarge, LastcallError, NotSerializable, QueueFinished
from lastcall.feed import FILL_S, Feed, Sizes
from lastcall.state import keys
from lastcall.waiting import AWAY, Deadline

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.queue import StatusableQueue

FEEDER: Final = "input"  # the producer's name

_ROOM_S = 1.0  # how long to wait for the room bell before looking again
_LOOK_S = 0.001  # how long to wait, at first, for what tells how large chunks are to be
_MOST_LOOK_S = 0.1
_GATHERED = 1_000  # items of a chunk for a gather
_READY = 8  # chunks a slot that wait for one, at most


class Feeder:
    """Feeds a flow's first queue. works: those of its queues that work while it is fed, on each item for itself.

    remaining: items of the input, where that is known. most: items of a chunk.

    `fed` is set when all is put, or no more is.
    """

    def __init__(
        self, connection: Connection, first: StatusableQueue[Any], works: Sequence[StatusableQueue[Any]],
        items: Iterator[Any], *, remaining: int | None, most: int, max_workers: int | None,
    ) -> None:  # fmt: skip
        self.fed = threading.Event()
        self._error: BaseException | None = None
        self.blocked = False  # the window is full
        self._connection = connection
        self._first = first
        self._works = works
        self._max_workers = max_workers
        self._most = most
        self._sizes = Sizes(None, remaining, most=most if works else min(_GATHERED, most))
        self._ahead: Ahead | None = None
        if remaining is None:  # what has its length has its items, others may keep who reads them waiting
            items = self._ahead = Ahead(items, most, f"lastcall-input-{first.job}")
        self._feed = Feed(connection, first._ledger, first.workers, FEEDER, items, self._sizes)
        self._stopped = threading.Event()
        self._news = threading.Event()  # results have come, or it is stopped
        # When something was learned last: items that had been put, those that were through all queues, and what each
        # queue had done in how many microseconds.
        self._taken, self._through = 0, 0.0
        self._done = [(0, 0)] * len(works)
        # Not one that holds on to the job: that ends when nobody refers to it.
        self._thread = threading.Thread(target=self._run, name=f"lastcall-feeder-{first.job}", daemon=True)
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Whether a thread of its own asks: the input depends on what comes of it."""
        own = self._thread if self._ahead is None else self._ahead.thread
        return threading.current_thread() is own

    @property
    def error(self) -> BaseException | None:
        """What the input, or the way to the server, raised. Known before the queue can end: who reads that end asks."""
        return self._error or self._feed.error

    def look(self) -> None:
        """Results have come: the slots may have need of more."""
        self._news.set()

    def stop(self, wait_s: float = 0.0) -> None:
        """Put no more: unless all was put, the queue counts its producer as lost."""
        self._stopped.set()
        self._news.set()
        if self._ahead is not None:
            self._ahead.close()
        if not self.is_here:
            self._thread.join(wait_s)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # whatever it is, who reads the results is told
            self._error = error
        finally:
            self.fed.set()
            self._feed.drop()

    def _work(self) -> None:
        feed = self._feed
        try:
            while not self._stopped.is_set() and not (feed.exhausted and not feed.unsent):
                there = self._slots()
                slots = min(there, self._max_workers or there)
                room = self._look(slots)
                if room <= 0:
                    continue
                if not feed.unsent:
                    self._read(slots, room)
                put = feed.send(there)
                if put is not None:
                    self.blocked = put.full
                if self.blocked:
                    self._wait_for_room()
        except QueueFinished:  # it was cancelled: who reads the results sees that
            return
        except (NotSerializable, ItemTooLarge) as error:  # of what came before it the results are read
            self._error = error
            while feed.unsent and not self._stopped.is_set():
                put = feed.send(self._slots())
                if put is not None and put.full:
                    self._wait_for_room()
            self._leave()
            raise
        except BaseException as error:
            self._error = error
            self._lose()
            raise
        if self._stopped.is_set() and not (feed.exhausted and not feed.unsent):
            self._lose()
        else:
            self._leave()

    def _slots(self) -> int:
        """Those that serve the first queue, or will."""
        return max(1, self._connection.slots(self._first.workers))

    def _read(self, slots: int, chunks: int) -> None:
        """Make chunks of the input: so many, or as many as come in some milliseconds; a part of the window."""
        feed, deadline, enough = self._feed, Deadline(FILL_S), self._feed.taken + self._most
        while len(feed.unsent) < chunks and feed.taken < enough and not feed.exhausted and not deadline.passed:
            feed.read(slots)
            if feed.starved:
                return

    def _leave(self) -> None:
        while not self._feed.left:
            self._feed.leave()

    def _lose(self) -> None:
        with contextlib.suppress(RedisError, LastcallError):  # then its lease runs out
            self._feed.lose()

    def _look(self, slots: int) -> int:
        """For how many chunks the slots have need; waits a moment where there is none. Learns what items take."""
        sizes, feed = self._sizes, self._feed
        if not self._works:  # a gather is first, which takes together what came, of any size
            sizes.grow()
            return _READY * slots
        pause_s = _LOOK_S * len(self._works)  # it takes the longer to be through
        while not self._stopped.is_set():
            try:
                ready, through = self._measure()
            except AWAY as error:
                feed.outage.bear(error)
                continue
            if not through:
                room = 2 * slots + 1 - feed.seq  # all that there is, until it is known what they take
            elif sizes.grown or sizes.fits(_READY * slots):
                room = _READY * slots * len(self._works) - ready
            else:
                room = 2 * slots + 1 - ready
            if room > 0:
                return room
            self._news.wait(pause_s)
            self._news.clear()
            # Slots that have no more than small chunks wait for larger ones.
            longer_s = max(2 * pause_s, sizes.chunk_s) if sizes.grown else max(1.2 * pause_s, sizes.chunk_s / 4)
            pause_s = min(longer_s, _MOST_LOOK_S)
        return 0

    def _measure(self) -> tuple[int, float]:
        """Chunks that wait for a slot, and how many items of the input are through all queues. Learns what an item
        takes, where it takes longest, from chunks of the present size."""
        job = self._first.job
        pipeline = self._connection.redis.pipeline(transaction=False)
        for queue in self._works:
            pipeline.hmget(keys.of_queue(job, queue.name, "meta"), "put", "busy", "done", "dead")
            pipeline.llen(keys.of_queue(job, queue.name, "ready"))
        replies: list[Any] = pipeline.execute()
        ready, through, source, most_us = sum(replies[1::2]), 0.0, 0, 0.0
        done = []
        for at, (counts, (before, busy_before)) in enumerate(zip(replies[::2], self._done, strict=True)):
            put, busy, *processed = (int(count or 0) for count in counts)
            items = sum(processed)
            done.append((items, busy))
            if at == 0:
                through, source = float(items), items
            elif put:  # else nothing has come to it so far, perhaps since all is filtered out before
                through *= items / put
            if items > before:
                most_us = max(most_us, (busy - busy_before) / (items - before) * (put / max(source, 1) if at else 1.0))
        if through > self._taken:
            new = through - self._through
            self._sizes.learn(most_us * new, max(1, round(new)))
            self._taken, self._through, self._done = self._feed.taken, through, done
        return ready, through

    def _wait_for_room(self) -> None:
        try:
            self._connection.asking.blpop([self._first._ledger.room_key], timeout=_ROOM_S)
        except AWAY as error:
            self._feed.outage.bear(error)
