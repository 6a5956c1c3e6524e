"""PutGet: queue.Queue's methods, on a queue between machines. Its kinds: queues.py, and StatusableQueue in queue.py."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

from lastcall.errors import QueueHasFunction
from lastcall.handle import Handle
from lastcall.hands import Hands
from lastcall.waiting import reaching

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.state.ledger import Ledger

T = TypeVar("T")


class PutGet(Handle, Generic[T]):
    """put(), get() and their like, with multiprocessing.Queue's behaviour."""

    _explicit = False  # an item is done when task_done() says so, else when its thread asks for the next
    _direct = False  # an item is in the queue when put() returns, also where it has no bound
    _closed_to_readers = True  # by close()

    def _hold(self, connection: Connection, ledger: Ledger, meta: Mapping[str, bytes] | None = None) -> None:
        super()._hold(connection, ledger, meta)
        self._closed_in = 0  # the process that closed it
        self._own_hands: Hands | None = None

    @reaching
    def put(self, obj: T, block: bool = True, timeout: float | None = None) -> None:
        """Add an item; blocks while `maxsize` items are in the queue, unless block=False. timeout: seconds.

        Where the queue is bounded, and in a JoinableQueue or SimpleQueue, the item is in it when this returns; else it
        is sent behind, with others, in order.
        Raises Full (a queue.Full), QueueFinished (a queue.ShutDown) if the queue was shut down or has ended, ValueError
        after close(), NotSerializable (a TypeError), ItemTooLarge, LeaseLost if this process was silent for so long
        that it was given up, ServerUnreachable.
        """
        timeout_s = _timeout(block, timeout)
        self._check_open()
        self._hands.put(obj, timeout_s)

    def put_nowait(self, obj: T) -> None:
        """put(obj, block=False)"""
        self.put(obj, False)

    @reaching
    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest item; blocks until there is one, unless block=False. timeout: seconds.

        Raises Empty (a queue.Empty); when nothing more can come QueueFinished (a queue.ShutDown), ProducerLost if the
        queue ended incomplete, QueueCancelled (a queue.ShutDown, too); ValueError after close(); ServerUnreachable.
        """
        timeout_s = _timeout(block, timeout)
        item: T = self._to_read().get(timeout_s)
        return item

    def get_nowait(self) -> T:
        """get(block=False)"""
        return self.get(False)

    @reaching
    def qsize(self) -> int:
        """Items that nobody has got yet."""
        self._flush()
        ready, delayed = self._ledger.counts("ready", "delayed")
        return ready + delayed

    def empty(self) -> bool:
        """Whether no item waits; another may come, or go, at any moment."""
        return self.qsize() == 0

    @reaching
    def full(self) -> bool:
        """Whether put() would block now."""
        if not self.maxsize:
            return False
        ready, delayed, leased = self._ledger.counts("ready", "delayed", "leased")
        return ready + delayed + (leased if self._bounds == "outstanding" else 0) >= self.maxsize

    @property
    @reaching
    def producers(self) -> int:
        """Live producers: leases to put that were taken out and not given back."""
        (live,) = self._ledger.counts("live")
        return live

    def shutdown(self, immediate: bool = False) -> None:
        """Take no more items: put() raises QueueFinished (a queue.ShutDown) from now on, get() when all is got.

        An item that another process has got and not done may come back, so get() waits for that. immediate: drop what
        is there, too: every get() and join() that waits ends. May be called again.
        """
        self._flush()
        self._shut_down(immediate)
        if self._own_hands is not None and self._own_hands.pid == os.getpid():
            self._own_hands.end()

    @reaching
    def _shut_down(self, immediate: bool) -> None:
        if immediate:
            self._ledger.cancel()
        else:
            self._ledger.seal()

    @reaching
    def close(self) -> None:
        """This process puts nothing more through this handle: its lease to put is given back, when what it has put is
        in the queue. Done at its end, too. May be called again."""
        if not self._closed:
            self._closed_in = os.getpid()
            if self._own_hands is not None and self._own_hands.pid == os.getpid():
                self._own_hands.leave()

    def join_thread(self) -> None:
        """Wait until what was put is in the queue: it is, after close(). Raises AssertionError before that."""
        if not self._closed:
            raise AssertionError(f"Queue {self!r} not closed: close() it first")

    def cancel_join_thread(self) -> None:
        """Do not wait at this process's end until what was put is in the queue: it may be lost."""
        self._hands.flushes_at_exit = False

    @property
    def _closed(self) -> bool:
        return self._closed_in == os.getpid()  # a fork has not closed it

    @property
    def _hands(self) -> Hands:
        hands = self._own_hands
        if hands is None or hands.pid != os.getpid():
            hands = self._own_hands = self._make_hands()
            weakref.finalize(self, hands.let_go_later).atexit = False
        return hands

    def _make_hands(self, *, keeps: bool = False, direct: bool = False) -> Hands:
        return Hands(
            self._connection, self._ledger, celery_queue=self.workers, maxsize=self.maxsize,
            maxbytes=self._maxbytes, direct=direct or self._direct, explicit=self._explicit, keeps=keeps,
        )  # fmt: skip

    def _to_read(self) -> Hands:
        if self._closed_to_readers:
            self._check_open()
        if self.function_name:
            raise QueueHasFunction(self._ledger.shown, self.function_name)
        return self._hands

    def _flush(self) -> None:
        if self._own_hands is not None and self._own_hands.pid == os.getpid():
            self._own_hands.flush()

    def _leave(self) -> None:
        """This process holds nothing that the queue's end waits for."""
        if self._own_hands is not None and self._own_hands.pid == os.getpid():
            self._own_hands.settle()
            self._own_hands.leave()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")


def items_bound(maxsize: object) -> int:
    """A maxsize as multiprocessing takes it. Raises TypeError."""
    if not isinstance(maxsize, int) or isinstance(maxsize, bool):
        raise TypeError(f"maxsize must be an int, 0 for no bound, got {maxsize!r}")
    return max(0, maxsize)


def _timeout(block: bool, timeout: object) -> float | None:
    """Seconds to wait at most, as multiprocessing's queues take it. Raises TypeError."""
    if timeout is not None and not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds or None, got {timeout!r}")
    if not block:
        return 0.0
    return None if timeout is None else max(0.0, float(timeout))
