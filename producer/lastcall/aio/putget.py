"""AsyncPutGet: queue.Queue's methods, awaited, on a queue between machines; queues.py and queue.py have its kinds."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from lastcall.aio.hands import AsyncHands
from lastcall.aio.misuse import Awaited
from lastcall.errors import QueueHasFunction
from lastcall.putget import PutGet, _timeout

if TYPE_CHECKING:
    from lastcall.aio.link import Link

T = TypeVar("T")


class AsyncPutGet(Awaited, Generic[T]):
    """put(), get() and their like, awaited."""

    def __init__(self, link: Link, queue: PutGet[T]) -> None:
        self._link, self._plain = link, queue
        self.name, self.maxsize = queue.name, queue.maxsize
        self._closed = False
        self._own_hands: AsyncHands | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._plain._ledger.shown}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} belongs to its event loop, and does not travel: hand over its `queue`, of which a coroutine on "
            "a worker has a twin by a client of its own: client.twin(queue)"
        )

    async def put(self, obj: T, block: bool = True, timeout: float | None = None) -> None:
        """Add an item; waits while `maxsize` items are in the queue, unless block=False. timeout: seconds.

        The item is in the queue when this returns; where this is cancelled, it may be. The first one takes out a lease,
        which makes this loop a producer until close(). Raises what PutGet.put() does.
        """
        timeout_s = _timeout(block, timeout)
        self._check_open()
        await self._hands.put(obj, timeout_s)

    async def put_nowait(self, obj: T) -> None:
        """put(obj, block=False)"""
        await self.put(obj, False)

    async def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest item; waits until there is one, unless block=False. timeout: seconds.

        Where it is cancelled, nothing is taken. An item is done when its task asks for the next, or ends, other than by
        an exception: with wait_for() before Python 3.12, and gather(), which make tasks, at once. Raises what
        PutGet.get() does.
        """
        timeout_s = _timeout(block, timeout)
        item: T = await self._to_read().get(timeout_s)
        return item

    async def get_nowait(self) -> T:
        """get(block=False)"""
        return await self.get(False)

    async def qsize(self) -> int:
        """Items that nobody has got yet."""
        return await self._link.threads.ask(self._plain.qsize)

    async def empty(self) -> bool:
        """Whether no item waits; another may come, or go, at any moment."""
        return await self._link.threads.ask(self._plain.empty)

    async def full(self) -> bool:
        """Whether put() would wait now."""
        return await self._link.threads.ask(self._plain.full)

    async def producers(self) -> int:
        """Live producers: leases to put that were taken out and not given back."""
        return await self._link.threads.ask(lambda: self._plain.producers)

    async def shutdown(self, immediate: bool = False) -> None:
        """Take no more items: see PutGet.shutdown(). May be called again."""
        await self._link.threads.take(self._plain._shut_down, immediate)
        if self._own_hands is not None:
            await self._link.threads.take(self._own_hands.end)

    async def close(self) -> None:
        """This loop puts nothing more through this handle: its lease to put is given back. May be called again."""
        self._closed = True
        if self._own_hands is not None:
            await self._own_hands.leave()

    @property
    def _hands(self) -> AsyncHands:
        if self._own_hands is None:
            hands = self._own_hands = AsyncHands(self._link, self._plain)
            weakref.finalize(self, self._link.drop, hands.let_go).atexit = False
        return self._own_hands

    def _to_read(self) -> AsyncHands:
        if self._plain._closed_to_readers:
            self._check_open()
        if self._plain.function_name:
            raise QueueHasFunction(self._plain._ledger.shown, self._plain.function_name)
        return self._hands

    def _check_open(self) -> None:
        self._link.threads.check()
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
