"""AsyncClient: where programs with an event loop hand in work."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from lastcall.aio import calls
from lastcall.aio.calls import AsyncCalls
from lastcall.aio.flowjob import AsyncFlowJob
from lastcall.aio.job import AsyncJob
from lastcall.aio.link import Link
from lastcall.aio.map import AsyncMapResults, _Steps
from lastcall.aio.misuse import Awaited, awaited
from lastcall.aio.named import AsyncNamed
from lastcall.aio.queue import AsyncQueue
from lastcall.aio.queues import AsyncJoinableQueue, AsyncPlainQueue
from lastcall.aio.source import Source
from lastcall.aio.threads import Threads
from lastcall.celerytask import workers_of
from lastcall.client import Client
from lastcall.coroutine import is_async
from lastcall.errors import ClientClosed, ConfigError
from lastcall.flowjob import FlowJob
from lastcall.job import Job
from lastcall.plan import AUTO, SERIAL
from lastcall.policy import RetryOn, told
from lastcall.queues import JoinableQueue, Queue

if TYPE_CHECKING:
    from lastcall.aio.thing import Opened
    from lastcall.connection import Connection
    from lastcall.flow import Flow, Stage
    from lastcall.registry import WorkerInfo
    from lastcall.state.records import Status

T = TypeVar("T")


class AsyncClient(Awaited, AsyncNamed):
    """A Client whose calls are awaited: same arguments, same errors. Of one event loop.

    It connects (without a server's URL: starts a private one) when it is first used, or its block is entered.
    """

    def __init__(
        self, url: str | None = None, key: str | bytes | None = None, *, slots: int | None = None, **options: Any
    ) -> None:
        self._arguments = (url, key), {"slots": slots, **options}
        self._threads = Threads()
        self._opening: asyncio.Task[tuple[Client, Link]] | None = None
        self._links: dict[Connection, Link] = {}
        self._calls: dict[tuple[str, bool], AsyncCalls] = {}
        self._closed = False

    async def __aenter__(self) -> AsyncClient:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose(wait=kind is None)

    @overload
    def submit(
        self, function: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any
    ) -> asyncio.Future[T]: ...
    @overload
    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> asyncio.Future[T]: ...
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Call function(*args, **kwargs) on a worker of the Celery queue "cpu" (a Celery task: its own).

        Gives, at once, a future to await.

        Where it, or who awaits it, is cancelled, the call is taken back if no slot has it yet. Whatever is wrong with
        the call is raised when the future is awaited.
        """
        return self.submit_to(workers_of(function), function, *args, **kwargs)

    @overload
    def submit_to(
        self, workers: str, function: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any
    ) -> asyncio.Future[T]: ...
    @overload
    def submit_to(
        self, workers: str, function: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> asyncio.Future[T]: ...
    def submit_to(
        self, workers: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> asyncio.Future[Any]:
        """Call function(*args, **kwargs) on a worker of the Celery queue `workers`."""
        self._check()
        kind = workers, is_async(function)
        calls = self._calls.get(kind)
        if calls is None:
            calls = self._calls[kind] = AsyncCalls(*kind, self._open)
        return calls.submit(function, args, kwargs)

    async def submit_telling(
        self, notify: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> asyncio.Future[Any]:
        """submit(), of which a worker tells the URL `notify` when it has ended, though this process may be gone.

        The call is on the server when this gives its future, `await (await client.submit_telling(...))`. Raises what
        Client.submit_telling() does.
        """
        client, link = await self._open()
        answer: Any = await self._threads.take(partial(client.submit_telling, notify, function, *args, **kwargs))
        return calls.awaited(answer, link)

    def map(
        self, function: Callable[..., Any], *iterables: Iterable[Any] | AsyncIterable[Any], ordered: bool = True,
        chunksize: int | None = None, workers: str | None = None, max_workers: int | None = None,
        timeout: float | None = None, retries: int | None = None, backoff_s: float | None = None,
        retry_on: RetryOn | None = None, item_timeout: float | None = None, crash_limit: int | None = None,
        concurrency: int | None = None, job: str | None = None, notify: str | None = None,
    ) -> AsyncMapResults:  # fmt: skip
        """Apply a function to every item, `async for`: see Client.map(). The input is read on the event loop."""
        self._check()
        policy = told(
            retries=retries, backoff_s=backoff_s, retry_on=retry_on, timeout=item_timeout, crash_limit=crash_limit,
            concurrency=concurrency, timeout_name="item_timeout",
        )  # fmt: skip
        named = job or f"map-{uuid.uuid4().hex}"

        def make(link: Link, feed: Iterator[Any], several: bool) -> _Steps:
            return _Steps(
                link.connection, function, [feed], named, ordered=ordered, chunksize=chunksize, workers=workers,
                max_workers=max_workers, timeout=timeout, policy=policy, keep=job is not None, star=several,
                goes_on=False, numbered=False, starter=None, notify=notify,
            )  # fmt: skip

        return AsyncMapResults(self._linked, make, iterables, named, timeout)

    @awaited
    async def queue(
        self, name: str, function: Callable[..., Any] | None = None, *, into: AsyncQueue[Any] | None = None,
        **options: Any,
    ) -> AsyncQueue[Any]:  # fmt: skip
        """A queue of this name: the one that is there, or a new one; options are those of Client.queue()."""
        client, link = await self._open()
        downstream = None if into is None else into.queue
        queue = await self._threads.take(lambda: client.queue(name, function, into=downstream, **options))
        return AsyncQueue(link, queue)

    @awaited
    async def plain_queue(
        self, maxsize: int = 0, *, name: str | None = None, reopen: bool = False
    ) -> AsyncPlainQueue[Any]:
        """lastcall.Queue(maxsize, name=name, reopen=reopen), awaited."""
        client, link = await self._open()
        make = partial(Queue, maxsize, name=name, client=client, reopen=reopen)
        return AsyncPlainQueue(link, await self._threads.take(make))

    @awaited
    async def joinable_queue(
        self, maxsize: int = 0, *, name: str | None = None, reopen: bool = False
    ) -> AsyncJoinableQueue[Any]:
        """lastcall.JoinableQueue(maxsize, name=name, reopen=reopen), awaited."""
        client, link = await self._open()
        make = partial(JoinableQueue, maxsize, name=name, client=client, reopen=reopen)
        return AsyncJoinableQueue(link, await self._threads.take(make))

    @awaited
    async def run(
        self, flow: Flow | Stage | Callable[..., Any], items: Iterable[Any] | AsyncIterable[Any] | None = None, *,
        mode: str = AUTO, **options: Any,
    ) -> AsyncFlowJob:  # fmt: skip
        """Run a flow: see Client.run(). An async iterable is read on the event loop, any other by a thread.

        Raises ConfigError for mode="serial", too, which has nothing to await: that is flow.run(items).
        """
        if mode == SERIAL:
            raise ConfigError("mode", "one that has workers", repr(mode), "flow.run(items) runs it here")
        client, link = await self._open()
        source = Source(items) if isinstance(items, AsyncIterable) else None
        given: Any = items if source is None else source

        def make() -> FlowJob:
            made = client.run(flow, given, mode=mode, **options)
            assert isinstance(made, FlowJob)
            return made

        try:
            made = await self._threads.take(make, undo=FlowJob.close)
        except BaseException:
            if source is not None:
                source.close()
            raise
        if source is not None:
            source.begin()
        return AsyncFlowJob(link, made, source)

    @awaited
    async def job(self, job: str) -> AsyncJob:
        """A job by its id. Its methods raise UnknownJob if there is none."""
        link = await self._linked()
        return AsyncJob(link, Job(link.connection, job))

    async def status(self) -> list[Status]:
        """One moment of every queue that has not ended."""
        client, _ = await self._open()
        return await self._threads.ask(client.status)

    async def workers(self) -> list[WorkerInfo]:
        """The worker nodes that live, with the Celery queues and slots of each."""
        client, _ = await self._open()
        return await self._threads.ask(client.workers)

    async def aclose(self, *, wait: bool = True) -> None:
        """Wait for calls that are out (or, wait=False, cancel them), and let go of everything.

        Calls that were cancelled where they were awaited are not waited for: what still runs of them is dropped.
        """
        if self._closed:
            return
        self._threads.check()
        self._closed = True
        try:
            while wait and (out := [future for calls in self._calls.values() for future in calls.out]):
                await asyncio.wait(out)
        except asyncio.CancelledError:
            wait = False
            raise
        finally:
            try:
                if self._opening is not None:
                    opening = self._opening
                    await asyncio.wait([opening])
                    if not opening.cancelled() and opening.exception() is None:
                        client, _ = opening.result()
                        await self._threads.give(lambda: client.close(wait=wait))
            finally:
                self._threads.closed = True
                for link in self._links.values():
                    await link.close()
                await self._threads.rest()

    async def _open(self) -> tuple[Client, Link]:
        self._check(closing=True)
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = asyncio.create_task(self._connect())
        return await asyncio.shield(self._opening)

    async def _linked(self) -> Link:
        return (await self._open())[1]

    async def _connect(self) -> tuple[Client, Link]:
        places, options = self._arguments
        client = await self._threads.take(lambda: Client(*places, **options), undo=Client.close)
        return client, self._link_of(client._connection)

    def _link_of(self, connection: Connection) -> Link:
        if connection not in self._links:
            self._links[connection] = Link(connection, self._threads)
        return self._links[connection]

    def _opener(self) -> Opened:
        self._check()
        return self._linked

    def _check(self, *, closing: bool = False) -> None:
        self._threads.check()
        if self._closed and not closing:
            raise ClientClosed
