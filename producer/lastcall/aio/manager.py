"""AsyncManager: a Manager whose things are awaited.

from lastcall import AsyncManager

async with AsyncManager() as manager:
    seen, lock = await manager.dict(), await manager.Lock()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from lastcall.aio.barrier import AsyncBarrier
from lastcall.aio.client import AsyncClient
from lastcall.aio.event import AsyncEvent
from lastcall.aio.lock import AsyncLock, AsyncRLock, AsyncSemaphore
from lastcall.aio.mapping import AsyncDict
from lastcall.aio.misuse import Awaited
from lastcall.aio.queues import AsyncJoinableQueue, AsyncPlainQueue
from lastcall.aio.sequence import AsyncList
from lastcall.aio.value import AsyncCounter, AsyncValue
from lastcall.shared.manager import Manager

if TYPE_CHECKING:
    from lastcall.aio.link import Link

R = TypeVar("R")
P = ParamSpec("P")


class AsyncManager(Awaited):
    """Makes things that tasks of this loop use, and, by `await thing()`, other programs and functions on workers; an
    async context manager.

    They are gone when it is shut down, at the end of its block, or LASTCALL_TTL_S after this process has died.
    client: whose server to use; it is not closed. None: one of the manager's own. Otherwise as Manager.
    """

    def __init__(self, *, client: AsyncClient | None = None) -> None:
        self._own = client is None
        self._client = AsyncClient() if client is None else client
        self._there: tuple[Link, Manager] | None = None

    async def __aenter__(self) -> AsyncManager:
        client, link = await self._client._open()
        self._there = link, await link.threads.take(lambda: Manager(client=client), undo=Manager.shutdown)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.shutdown()

    async def Lock(self) -> AsyncLock:
        return self._client.twin(await self._make(Manager.Lock))

    async def RLock(self) -> AsyncRLock:
        return self._client.twin(await self._make(Manager.RLock))

    async def Semaphore(self, value: int = 1) -> AsyncSemaphore:
        return self._client.twin(await self._make(Manager.Semaphore, value))

    async def BoundedSemaphore(self, value: int = 1) -> AsyncSemaphore:
        return self._client.twin(await self._make(Manager.BoundedSemaphore, value))

    async def Event(self) -> AsyncEvent:
        return self._client.twin(await self._make(Manager.Event))

    async def Barrier(self, parties: int, action: None = None, timeout: float | None = None) -> AsyncBarrier:
        return self._client.twin(await self._make(Manager.Barrier, parties, action, timeout))

    async def Value(self, typecode: str, value: Any, lock: bool = True) -> AsyncValue[Any]:
        """typecode, lock: of no effect, as in multiprocessing's."""
        return self._client.twin(await self._make(Manager.Value, typecode, value, lock))

    async def Counter(self, start: int = 0) -> AsyncCounter:
        return self._client.twin(await self._make(Manager.Counter, start))

    async def dict(self, *args: Any, **more: Any) -> AsyncDict[Any, Any]:
        return self._client.twin(await self._make(Manager.dict, *args, **more))

    async def list(self, values: Iterable[Any] = ()) -> AsyncList[Any]:
        return self._client.twin(await self._make(Manager.list, values))

    async def Queue(self, maxsize: int = 0) -> AsyncPlainQueue[Any]:
        return self._client.twin(await self._make(Manager.Queue, maxsize))

    async def JoinableQueue(self, maxsize: int = 0) -> AsyncJoinableQueue[Any]:
        twin: AsyncJoinableQueue[Any] = self._client.twin(await self._make(Manager.JoinableQueue, maxsize))
        return twin

    async def shutdown(self) -> None:
        """Remove all that it has made. May be called again."""
        try:
            if self._there is not None:
                link, manager = self._there
                await link.threads.give(manager.shutdown)
        finally:
            if self._own:
                await self._client.aclose()

    async def _make(self, method: Callable[Concatenate[Manager, P], R], *args: P.args, **named: P.kwargs) -> R:
        if self._there is None:
            raise RuntimeError("a manager makes things inside of its block: async with AsyncManager() as manager")
        link, manager = self._there
        return await link.threads.take(partial(method, manager, *args, **named))
