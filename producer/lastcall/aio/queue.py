"""AsyncQueue: a StatusableQueue whose methods are awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, TypeVar

from lastcall.aio.announced import wait_for_end
from lastcall.aio.consumer import AsyncConsumer
from lastcall.aio.producer import AsyncProducer
from lastcall.aio.putget import AsyncPutGet
from lastcall.aio.results import AsyncResults
from lastcall.errors import QueueFinished
from lastcall.waiting import raise_for

if TYPE_CHECKING:
    from lastcall.aio.link import Link
    from lastcall.letters import DeadLetter
    from lastcall.queue import StatusableQueue
    from lastcall.state.records import Status

T = TypeVar("T")


class AsyncQueue(AsyncPutGet[T]):
    """A queue in Redis; made by `await client.queue()`. Besides queue.Queue's methods there are producers' leases, and
    consumers, by hand.

    queue: the same handle for programs without an event loop, which may be pickled and used anywhere.
    """

    def __init__(self, link: Link, queue: StatusableQueue[T]) -> None:
        super().__init__(link, queue)
        self.queue = queue
        self.job, self.workers, self.function_name = queue.job, queue.workers, queue.function_name

    # Putting

    def producer(self, name: str | None = None, *, chunk_items: int | None = None) -> AsyncProducer[T]:
        """A producer, for `async with`: one live producer more, until the block is left."""
        return AsyncProducer(self._link, self.queue, name, chunk_items)

    async def producer_token(self, *, lease_s: float = 60.0) -> str:
        """Take out a lease on behalf of a producer that starts elsewhere, later."""
        return await self._link.threads.take(lambda: self.queue.producer_token(lease_s=lease_s))

    async def seal(self) -> None:
        """Nothing more is put, whoever is still there: the queue ends when what it has is done."""
        await self._link.threads.take(self.queue.seal)

    # Reading

    def consumer(self) -> AsyncConsumer[T]:
        """A consumer of this queue's items. Raises QueueHasFunction."""
        return self._consumer(of_loop=False)

    def __aiter__(self) -> AsyncIterator[T]:
        """The items, shared with the other consumers, until the queue has ended. A loop that is left, or cancelled,
        gives back what it has not got; what it was at counts as done (a consumer() gives that back, too)."""
        return self._consumer(of_loop=True)

    def _consumer(self, *, of_loop: bool) -> AsyncConsumer[T]:
        self.queue.consumer()  # which says what is wrong
        return AsyncConsumer(self._link, self.queue._ledger, of_loop=of_loop)

    async def finished(self, timeout: float | None = None) -> bool:
        """Whether this task will get no item any more; if not, one is in its hand for get(): see
        StatusableQueue.finished()."""
        try:
            await self._to_read().get(timeout, take=False)
        except QueueFinished:
            return True
        return False

    async def task_done(self) -> None:
        """The item that this task got last is done: it says so itself when it gets the next. Raises ValueError if it
        has got none since."""
        if not await self._hands.done():
            raise ValueError("task_done() called too many times: this task has got no item that is not done")

    def results(self, *, timeout: float | None = None, cursor: str = "") -> AsyncResults:
        """What the function returned, as it comes, until the queue has ended: see StatusableQueue.results()."""
        return self._results(timeout=timeout, cursor=cursor, ordered=False)

    def _results(self, *, timeout: float | None, cursor: str, ordered: bool) -> AsyncResults:
        once, returns_errors = self.queue.check_results(cursor)
        return AsyncResults(
            self._link, self.queue._ledger, once=once, returns_errors=returns_errors, timeout=timeout, cursor=cursor,
            ordered=ordered,
        )  # fmt: skip

    # Looking

    async def status(self) -> Status:
        """One moment's picture: state, counters, producers."""
        return await self._link.threads.ask(self.queue.status)

    async def join(self, timeout: float | None = None) -> Status:
        """Until the queue is drained. timeout: seconds. Raises what went wrong: see StatusableQueue.join()."""
        if self._own_hands is not None:
            await self._own_hands.leave()  # who waits for that puts nothing more, nor does it hold up itself
        (status,) = await wait_for_end(self._link, [self.queue._ledger], timeout)
        raise_for(status)
        return status

    async def cancel(self) -> Status:
        """Drop what is waiting and refuse what is running."""
        return await self._link.threads.take(self.queue.cancel)

    async def reopen(self) -> None:
        """If the queue has ended, begin a new epoch with the same options."""
        await self._link.threads.take(self.queue.reopen)

    # Dead letters

    async def retry_dead(self, *items: str | DeadLetter) -> int:
        """Run dead letters again, themselves or by their `item`; without any, all. Gives how many."""
        return await self._link.threads.take(self.queue.retry_dead, *items)

    async def drop_dead(self, *items: str | DeadLetter) -> int:
        """Forget dead letters, themselves or by their `item`; without any, all. Gives how many."""
        return await self._link.threads.take(self.queue.drop_dead, *items)

    async def dead_letter(self, item: str) -> DeadLetter:
        """One of the items that were given up on. Raises UnknownLetter, BadEnvelope."""
        return await self._link.threads.ask(self.queue.dead_letter, item)

    async def dead_items(self) -> list[str]:
        """The items that were given up on, by their `item`, in the order in which they were put."""
        return await self._link.threads.ask(self.queue.dead_items)

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """The items that were given up on, in no order. Raises BadEnvelope."""
        letters = self.queue.dead_letters()
        while letter := await self._link.threads.ask(next, letters, None):
            yield letter
