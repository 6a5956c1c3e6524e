"""AsyncFlowJob: one run of a flow, awaited; the work is FlowJob's."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from lastcall.aio.announced import wait_for_end
from lastcall.aio.helping import Waiting
from lastcall.aio.job import AsyncJob
from lastcall.aio.results import AsyncResults, FedReader
from lastcall.errors import WaitTimeout
from lastcall.flowresults import check_end, handed
from lastcall.waiting import Deadline, raise_for

if TYPE_CHECKING:
    from lastcall.aio.link import Link
    from lastcall.aio.source import Source
    from lastcall.flowjob import FlowJob
    from lastcall.letters import DeadLetter
    from lastcall.results import Entry
    from lastcall.state.records import Status

_LOOK_S: Final = 1.0


class AsyncFlowJob(AsyncJob):
    """One run of a flow; made by `await client.run()`. `async with` cancels what is left at the block's end.

    Where nobody refers to it, or to its results, any more what is left is cancelled, unless it was given an id or
    detach() was called.
    """

    def __init__(self, link: Link, job: FlowJob, source: Source | None) -> None:
        super().__init__(link, job)
        self._flow = job
        self._source = source

    def __repr__(self) -> str:
        return f"<AsyncFlowJob {self.id}>"

    async def __aenter__(self) -> AsyncFlowJob:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        flow = getattr(self, "_flow", None)
        if flow is None or flow._kept:
            return
        self._link.drop(partial(_close, flow, self._source, self._link))

    async def aclose(self) -> None:
        """Let go of it: what has not ended is cancelled, unless detach() was called. May be called again."""
        await self._link.threads.give(partial(_close, self._flow, self._source, self._link))

    def results(  # type: ignore[override]  # whether they come in order was said when it was run
        self, *, timeout: float | None = None, cursor: str = ""
    ) -> AsyncFlowResults:
        """What the last stage gives: see FlowJob.results()."""
        self._flow.check_readable()
        return AsyncFlowResults(self._link, self, self._flow, timeout, cursor)

    async def wait(self, timeout: float | None = None) -> list[Status]:
        """Until all its queues have ended: see FlowJob.wait()."""
        flow, threads = self._flow, self._link.threads
        flow.check_ends()
        deadline = Deadline(timeout)
        if flow._on_error == "stop":
            await self._look_for_errors(deadline)
        ledgers = await threads.ask(flow.ledgers)
        while True:
            try:
                statuses = await wait_for_end(self._link, ledgers, deadline.left(_LOOK_S))
                break
            except WaitTimeout:
                if deadline.passed:
                    raise
                await threads.ask(flow._check_read)
        for status in statuses:
            raise_for(status)
        flow.check_fed()
        flow.check_reduced(statuses)
        return statuses

    async def cancel(self) -> list[Status]:
        """Drop what is waiting in all its queues, refuse what is running, and read no more of the input."""
        statuses = await super().cancel()
        if self._source is not None:
            self._source.close()
        return statuses

    async def detach(self, timeout: float | None = None) -> str:
        """Until all of the input is put; see FlowJob.detach()."""
        flow = self._flow
        flow.check_ends()
        deadline = Deadline(timeout)
        while not flow.is_fed:
            if deadline.passed:
                raise WaitTimeout(f"the input of job {self.id} to be put", deadline.waited_s)
            await self._link.threads.ask(flow._check_read)
            await asyncio.sleep(deadline.left(0.05))
        return flow.detach(0.001)

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """The items of all its queues that were given up on, the first queue's first."""
        for queue in await self.queues():
            async for letter in queue.dead_letters():
                yield letter

    async def _look_for_errors(self, deadline: Deadline) -> None:
        """Read over results as they come, which stay where they are; raise the first error that is one."""
        flow, link = self._flow, self._link
        last = flow._made[-1]._ledger
        reader = FedReader(link.connection, last, once=False, upstream=flow._upstream)
        with reader.watching(), Waiting(last) as waiting:
            while not reader.ended:
                reply = await link.bells.entries(reader.key, reader.read_to, waiting.most(deadline.left(_LOOK_S)))
                entries = await link.threads.ask(reader.feed, reply)
                _, error = await link.threads.ask(handed, flow, entries)
                if error is not None:
                    await self.cancel()
                    raise error
                if not entries and deadline.passed:
                    raise WaitTimeout(f"results of {await link.threads.ask(reader.describe)}", deadline.waited_s)
                if not entries:
                    waiting.help()
                    await link.threads.ask(flow._check_read)


def _close(flow: FlowJob, source: Source | None, link: Link) -> None:
    """In a thread. First the queues are cancelled, then the input: one that ended before would be taken for whole."""
    detached = flow._detached
    flow.close()
    if source is not None and not detached:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            link.loop.call_soon_threadsafe(source.close)


class AsyncFlowResults(AsyncResults):
    """What a flow's job gives, `async for`; made by job.results(). cursor: where another call would go on."""

    def __init__(self, link: Link, owner: AsyncFlowJob, flow: FlowJob, timeout: float | None, cursor: str) -> None:
        last = flow._made[-1]._ledger
        reader = FedReader(
            link.connection, last, once=flow._results == "once", cursor=cursor, upstream=flow._upstream
        )  # fmt: skip
        self._set(link, last, reader, timeout)
        self._owner = owner  # who lets go of what is left when nobody refers to it
        self._flow = flow

    def _take_in(self, reply: list[Any]) -> bool:
        flow, reader = self._flow, self._reader
        for _, group in itertools.groupby(reader.feed(reply), key=lambda entry: entry.at):
            together: list[Entry] = list(group)
            values, error = handed(flow, together)
            self._hand(values, [] if error is not None else together)
            if error is not None:
                self._ended = True
                flow.cancel()
                self._handed.append((None, error, []))
                return True
        if self._handed or not reader.ended:
            return bool(self._handed)
        self._ended = True
        reader.confirm()
        check_end(flow, reader)
        return True

    def _hand(self, values: Sequence[Any], together: list[Entry]) -> None:
        if not values and together:
            self._reader.passed(together)
        for at, value in enumerate(values, 1):
            self._handed.append((value, None, together if at == len(values) else []))
