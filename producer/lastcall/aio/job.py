"""AsyncJob: the queues of one run, looked at and ended as one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from lastcall.aio.announced import wait_for_end
from lastcall.aio.misuse import Awaited
from lastcall.aio.queue import AsyncQueue
from lastcall.waiting import raise_for

if TYPE_CHECKING:
    from lastcall.aio.link import Link
    from lastcall.job import Job
    from lastcall.state.records import Status


class AsyncJob(Awaited):
    """One run of a map, a flow or linked queues; `await client.job(id)`. Each method is Job's, awaited."""

    def __init__(self, link: Link, job: Job) -> None:
        self.id = job.id
        self._link = link
        self._job = job

    def __repr__(self) -> str:
        return f"<AsyncJob {self.id}>"

    async def queues(self) -> list[AsyncQueue[Any]]:
        """Its queues, upstream before downstream. Raises UnknownJob."""
        queues = await self._link.threads.ask(lambda: self._job.queues)
        return [AsyncQueue(self._link, queue) for queue in queues]

    async def status(self) -> list[Status]:
        """One moment of each of its queues, upstream before downstream. Raises UnknownJob."""
        return await self._link.threads.ask(self._job.status)

    async def results(
        self, *, timeout: float | None = None, cursor: str = "", ordered: bool = False
    ) -> AsyncIterator[Any]:
        """The results of its last queue, as they come (ordered: of its input): see Job.results()."""
        last, unsorted = await self._link.threads.ask(self._job.last, cursor, ordered)
        queue = AsyncQueue(self._link, last)
        async for result in queue._results(timeout=timeout, cursor=cursor, ordered=unsorted):
            yield result

    async def wait(self, timeout: float | None = None) -> list[Status]:
        """Until all its queues have ended. Raises what went wrong, the first queue first, as Job.wait() does."""
        statuses = await wait_for_end(self._link, await self._link.threads.ask(self._job.ledgers), timeout)
        for status in statuses:
            raise_for(status)
        return statuses

    async def cancel(self) -> list[Status]:
        """Drop what is waiting in all its queues and refuse what is running."""
        return await self._link.threads.take(self._job.cancel)
