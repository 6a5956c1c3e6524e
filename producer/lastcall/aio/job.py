"""AsyncJob: the queues of one run, looked at and ended as one."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lastcall.aio.announced import wait_for_end
from lastcall.aio.history import AsyncHistory, AsyncWatch
from lastcall.aio.misuse import Awaited
from lastcall.aio.queue import AsyncQueue
from lastcall.errors import ConfigError
from lastcall.progress import Progress
from lastcall.waiting import raise_for

if TYPE_CHECKING:
    from lastcall.aio.link import Link
    from lastcall.history import Event, Kind
    from lastcall.job import Job
    from lastcall.state.records import Status
    from lastcall.trace import Trace


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

    async def progress(self, timeout: float | None = None, *, total: int | None = None) -> list[Status]:
        """wait(), showing its queues meanwhile, by a thread: see Job.progress()."""
        shown = Progress(self._job.status, total=total)
        await self._link.threads.take(shown.__enter__)
        try:
            return await self.wait(timeout)
        finally:
            await self._link.threads.give(shown.__exit__, None, None, None)

    @property
    def history(self) -> AsyncHistory:
        """What happened to its items, as far as it was recorded; `async for`."""
        return AsyncHistory(self._link, self._job.history)

    async def on(self, kind: Kind, callback: Callable[[Event], object]) -> None:
        """Have callback(event) called, on the loop, for each event of a kind: see Job.on(). A plain function."""
        if inspect.iscoroutinefunction(callback):
            expected, hint = "a plain function, which may make a task", "lambda event: group.create_task(...)"
            raise ConfigError("callback", expected, f"the async {callback!r}", hint)
        loop = self._link.loop

        def tell(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(callback, event)

        await self._link.threads.take(self._job.on, kind, tell)

    @property
    def watch(self) -> AsyncWatch:
        """What tells the callbacks of on(): wait() for it, or close() it. Raises ConfigError where there are none."""
        return AsyncWatch(self._link, self._job.watch)

    async def trace(self, item: int | str) -> Trace:
        """An item's way through its queues: see Job.trace()."""
        return await self._link.threads.ask(self._job.trace, item)

    async def gantt(self, path: str | os.PathLike[str], *, title: str | None = None) -> Path:
        """Draw what ran into a file: see Job.gantt()."""
        return await self._link.threads.ask(partial(self._job.gantt, path, title=title))

    async def cancel(self) -> list[Status]:
        """Drop what is waiting in all its queues and refuse what is running."""
        return await self._link.threads.take(self._job.cancel)
