"""AsyncProducer: puts into a queue from an event loop. Its carrier is a task, where a Producer's is a thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lastcall.aio.helping import Waiting
from lastcall.aio.misuse import Awaited
from lastcall.aio.turn import Turn
from lastcall.errors import Full, LastcallError, LeaseLost, WaitTimeout
from lastcall.producer import Producer
from lastcall.queue import StatusableQueue
from lastcall.waiting import AWAY, Deadline

if TYPE_CHECKING:
    from lastcall.aio.link import Link

T = TypeVar("T")

_ROOM_S = 1.0
_LONG_S = 3600.0
_HASTE_S = 1.0  # that one which is cancelled takes to have what it put sent


class _Bell:
    """Stands for a Producer's conditions: rung by any thread, waited at on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiters: set[asyncio.Future[None]] = set()

    def notify_all(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._ring)

    notify = notify_all

    def _ring(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, timeout_s: float) -> None:
        """Until it is rung next."""
        waiter = self._loop.create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)


class _Carried(Producer[T]):
    """A producer whose items a task carries. What is public here is called on the loop."""

    link: Link
    bell: _Bell
    task: asyncio.Task[None] | None = None

    def adopt(self, link: Link) -> None:
        self.link, self.bell = link, _Bell(link.loop)
        self._work: Any = self.bell
        self._moved: Any = self.bell

    def offer(self, dumped: bytes) -> bool:
        """Put, if that fits. Raises what put() raises."""
        with self._lock:
            self._check()
            if not self._fits():
                return False
            self._items.append(dumped)
            self._bytes += len(dumped)
            self._wake()
            return True

    async def offer_again(self, dumped: bytes, deadline: Deadline) -> None:
        """Put as soon as that fits."""
        self._blocked += 1
        try:
            with Waiting(self._ledger) as waiting:
                while not self.offer(dumped):
                    if deadline.passed:
                        raise Full(self._ledger.shown, self._maxsize, deadline.waited_s)
                    if self._alone is not None:
                        raise self._alone
                    self._wake()
                    await self.bell.wait(waiting.most(deadline.left(_LONG_S)))
                    waiting.help()
        finally:
            self._blocked -= 1

    async def sent(self, deadline: Deadline) -> None:
        """Until all that was put is in the queue."""
        with Waiting(self._ledger) as waiting:
            while self._items or self._under_way:
                self._check()
                if self._alone is not None:
                    raise self._alone
                if deadline.passed:
                    many = len(self._items) + self._under_way
                    raise WaitTimeout(f"room for {many} items in queue {self._ledger.shown}", deadline.waited_s)
                await self.bell.wait(waiting.most(deadline.left(_LONG_S)))
                waiting.help()
        if self._error is not None:
            raise self._error

    @property
    def left(self) -> bool:
        return self._left

    def stop(self) -> None:
        """Nothing more is put."""
        self._left = True
        self.bell.notify()

    def give_back(self, lost: bool) -> None:
        """In a thread."""
        self._give_back(lost=lost, patient=not lost)

    def _wake(self) -> None:
        if self.task is None:
            self.task = self.link.loop.create_task(self._carried())
        elif not self._under_way:
            self.bell.notify()

    async def _carried(self) -> None:
        try:
            await self._carry_on()
        except asyncio.CancelledError:  # the loop ends
            self._fail(LeaseLost(self._ledger.shown, self.name))
            raise
        except Exception as error:  # whatever it is, nobody may wait for this task for ever
            self._fail(error)

    async def _carry_on(self) -> None:
        batch: list[list[bytes]] = []
        while True:
            with self._lock:
                if self._left or self._error:
                    return
                if not batch and self._items:
                    batch = self._take()
            if not batch and not self._blocked:
                await self.bell.wait(_LONG_S)
            elif await self.link.threads.take(self._send, batch):
                if not await self.link.bells.rung(self._ledger.room_key, _ROOM_S):
                    await self.link.threads.ask(self._look_for_workers)
                batch = self._smaller(batch)

    def _send(self, batch: list[list[bytes]]) -> bool:
        """In a thread: send chunks. True if some did not fit."""
        try:
            full = self._put(batch)
        except AWAY as error:
            self._outage.bear(error)
            return False
        self._outage.over()
        return full


class AsyncProducer(Awaited, Generic[T]):
    """A live producer of a queue, while its `async with` block is not left; made by queue.producer().

    Leaving the block sends what was put and leaves the queue; leaving it by an exception, a cancellation among them,
    counts as lost. Tasks of one loop may share one.
    """

    def __init__(self, link: Link, queue: StatusableQueue[T], name: str | None, chunk_items: int | None) -> None:
        self._link, self._queue = link, queue
        self._asked = name, chunk_items
        self._producer: _Carried[T] | None = None

    async def __aenter__(self) -> AsyncProducer[T]:
        name, chunk_items = self._asked
        self._producer = await self._link.threads.take(self._join, name, chunk_items, undo=_withdraw)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None:
            await self.aclose()
        else:
            lease_s = self._link.connection.settings.lease_s
            await self._leave(_HASTE_S if issubclass(kind, asyncio.CancelledError) else lease_s, lost=True)

    def __repr__(self) -> str:
        return f"<AsyncProducer of {self._queue.name}>"

    @property
    def name(self) -> str:
        return self._live.name

    @property
    def position(self) -> int:
        """Items of this producer that the queue has accepted, in all its lives: where to go on."""
        return self._live.position

    async def put(self, item: T, *, timeout: float | None = None) -> None:
        """Add one item; waits while `maxsize` items are outstanding.

        It is in the queue when flush() or the block is through; where this is cancelled, it was not put. Raises what a
        Producer's put() raises.
        """
        producer = self._live
        self._link.threads.check()
        dumped = producer.dump(item)
        if not producer.offer(dumped):
            await producer.offer_again(dumped, Deadline(timeout))

    async def put_many(self, items: Iterable[T] | AsyncIterable[T]) -> None:
        """Add items, one after the other, as put() does."""
        turn = Turn()
        if isinstance(items, AsyncIterable):
            async for item in items:
                await self.put(item)
                await turn.take()
        else:
            for item in items:
                await self.put(item)
                await turn.take()

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was put is in the queue. Raises what put() raises, WaitTimeout."""
        await self._live.sent(Deadline(timeout))

    async def aclose(self) -> None:
        """Flush, and leave the queue. May be called again. Raises what flush() raises."""
        await self._leave(None, lost=False)

    async def _leave(self, timeout_s: float | None, *, lost: bool) -> None:
        producer = self._live
        if producer.left:
            return
        try:
            try:
                await producer.sent(Deadline(timeout_s))
            finally:
                producer.stop()
        except BaseException as error:
            await self._link.threads.give(producer.give_back, True)
            if not lost or not isinstance(error, LastcallError):
                raise
        else:
            await self._link.threads.give(producer.give_back, lost)

    def _join(self, name: str | None, chunk_items: int | None) -> _Carried[T]:
        producer = self._queue.producer(name, chunk_items=chunk_items, kind=_Carried)
        assert isinstance(producer, _Carried)
        producer.adopt(self._link)
        return producer

    @property
    def _live(self) -> _Carried[T]:
        if self._producer is None:
            raise RuntimeError("a producer is live inside of its block: async with queue.producer() as out")
        return self._producer


def _withdraw(producer: _Carried[Any]) -> None:
    producer.stop()
    producer.give_back(False)
