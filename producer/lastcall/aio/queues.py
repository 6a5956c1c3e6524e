"""AsyncPlainQueue, AsyncJoinableQueue: lastcall.Queue and JoinableQueue, awaited."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from lastcall.aio.announced import wait_until_idle
from lastcall.aio.putget import AsyncPutGet
from lastcall.queues import Queue

if TYPE_CHECKING:
    from lastcall.aio.link import Link

T = TypeVar("T")


class AsyncPlainQueue(AsyncPutGet[T]):
    """asyncio.Queue, between machines; made by `await client.plain_queue()`.

    queue: the same handle for programs without an event loop, which may be pickled and used anywhere.
    """

    def __init__(self, link: Link, queue: Queue[T]) -> None:
        super().__init__(link, queue)
        self.queue = queue


class AsyncJoinableQueue(AsyncPlainQueue[T]):
    """Such a queue whose items are done when task_done() says so; made by `await client.joinable_queue()`.

    What was got and not marked as done goes back when the client is closed, and when the program dies.
    """

    async def task_done(self) -> None:
        """The item that this task got first, of those that are not done yet, is done; if it has none, of those that
        others got by this handle. Raises ValueError if there is none."""
        if not await self._hands.done():
            raise ValueError("task_done() called too many times: this handle has got no item that is not done")

    async def join(self, timeout: float | None = None) -> None:
        """Until every item that was put is done. timeout: seconds. Raises WaitTimeout, ServerUnreachable."""
        await wait_until_idle(self._link, self._plain._ledger, timeout)
