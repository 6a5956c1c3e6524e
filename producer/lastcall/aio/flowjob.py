"""AsyncFlowJob: a run of a flow, awaited."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lastcall.aio.helping import Waiting
from lastcall.aio.job import AsyncJob
from lastcall.aio.raising import raisable
from lastcall.aio.results import FedReader
from lastcall.errors import ConfigError, WaitTimeout
from lastcall.flowresults import check_end, taken
from lastcall.serial import endless
from lastcall.waiting import Deadline

if TYPE_CHECKING:
    from lastcall.aio.link import Link
    from lastcall.flowjob import FlowJob
    from lastcall.results import Entry
    from lastcall.state.ledger import Status

_LOOK_S = 1.0


class AsyncFlowJob(AsyncJob):
    """One run of a flow; `await client.run(flow, items)`. `async with` cancels what is left at the block's end."""

    def __init__(self, link: Link, job: FlowJob) -> None:
        super().__init__(link, job.id)
        self._run = job

    async def __aenter__(self) -> AsyncFlowJob:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def results(  # type: ignore[override]  # whether they come in order was said when it was run
        self, *, timeout: float | None = None, cursor: str = ""
    ) -> AsyncIterator[Any]:
        """What the last stage gives, lazily, until the job has ended, `async for`: see FlowJob.results()."""
        job = self._run
        if job._results == "discard":
            raise ConfigError("results()", "called on a job that keeps results", 'results="discard"', "leave that out")
        reader = self._reader(once=job._results == "once", cursor=cursor)
        async for together in self._groups(reader, timeout):
            values, error = taken(job, together)
            for value in values:
                yield value
            if error is not None:
                await self.cancel()
                raise raisable(error)
            reader.passed(together)
        await self._link.threads.take(check_end, job, reader)

    async def wait(self, timeout: float | None = None) -> list[Status]:
        """Until all its queues have ended: see FlowJob.wait()."""
        job, deadline = self._run, Deadline(timeout)
        if job._endless:
            raise endless(job._endless)
        if job._on_error == "stop":
            async for together in self._groups(self._reader(once=False), timeout):
                _, error = taken(job, together)
                if error is not None:
                    await self.cancel()
                    raise raisable(error)
        statuses = await super().wait(None if timeout is None else deadline.left(timeout))
        job._check_end(statuses)
        return statuses

    def _reader(self, *, once: bool, cursor: str = "") -> FedReader:
        last = self._run._made[-1]._ledger
        return FedReader(self._link.connection, last, once=once, cursor=cursor, upstream=self._run._upstream)

    async def _groups(self, reader: FedReader, timeout: float | None) -> AsyncIterator[list[Entry]]:
        """Entries that came together, until the last queue has ended."""
        link, ledger, deadline = self._link, self._run._made[-1]._ledger, Deadline(timeout)

        def read(reply: list[Any]) -> list[list[Entry]]:
            return [list(entries) for _, entries in itertools.groupby(reader.feed(reply), key=lambda entry: entry.at)]

        with link.connection.heart.watching(ledger), Waiting(ledger) as waiting:
            while not reader.ended:
                wait_s = waiting.most(deadline.left(_LOOK_S))
                reply = await link.bells.entries(reader.key, reader.read_to, wait_s)
                groups = await link.threads.take(read, reply)
                for together in groups:
                    yield together
                if reader.owes:
                    await link.threads.take(reader.confirm)
                if groups:
                    deadline = Deadline(timeout)
                elif deadline.passed and not reader.ended:
                    raise WaitTimeout(f"results of {await link.threads.ask(reader.describe)}", deadline.waited_s)
                if not reply:
                    waiting.help()

    async def cancel(self) -> list[Status]:
        """Drop what is waiting in all its queues, refuse what is running, and read no more of the input."""
        return await self._link.threads.take(self._run.cancel)

    async def detach(self, timeout: float | None = None) -> str:
        """Until all of the input is put: see FlowJob.detach()."""
        return await self._link.threads.take(lambda: self._run.detach(timeout))

    async def aclose(self) -> None:
        """Let go of it: what has not ended is cancelled, unless detach() was called."""
        await self._link.threads.take(self._run.close)
