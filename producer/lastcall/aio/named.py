"""AsyncNamed: what an AsyncClient shares with other programs by name, and the twins of handles that it is given."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from lastcall.aio.barrier import AsyncBarrier
from lastcall.aio.event import AsyncEvent
from lastcall.aio.lock import AsyncLock, AsyncRLock, AsyncSemaphore
from lastcall.aio.mapping import AsyncDict
from lastcall.aio.queue import AsyncQueue
from lastcall.aio.queues import AsyncJoinableQueue, AsyncPlainQueue
from lastcall.aio.sequence import AsyncList
from lastcall.aio.value import AsyncCounter, AsyncValue
from lastcall.checks import natural
from lastcall.errors import ConfigError
from lastcall.queue import StatusableQueue
from lastcall.queues import JoinableQueue, Queue
from lastcall.shared.barrier import Barrier
from lastcall.shared.event import Event
from lastcall.shared.lock import BoundedSemaphore, Lock, RLock, Semaphore
from lastcall.shared.mapping import Dict
from lastcall.shared.sequence import List
from lastcall.shared.thing import Thing
from lastcall.shared.value import Counter, Value

if TYPE_CHECKING:
    from lastcall.aio.link import Link
    from lastcall.aio.thing import Opened
    from lastcall.client import Client
    from lastcall.connection import Connection

T = TypeVar("T")

_TWINS: dict[type[Thing], Any] = {
    Lock: AsyncLock, RLock: AsyncRLock, Semaphore: AsyncSemaphore, BoundedSemaphore: AsyncSemaphore, Event: AsyncEvent,
    Counter: AsyncCounter, Value: AsyncValue, Dict: AsyncDict, List: AsyncList,
}  # fmt: skip


class AsyncNamed:
    """Things that are the same for all programs on this server that say the same name: see Client. None of these
    methods is awaited, but all of what they give."""

    async def _open(self) -> tuple[Client, Link]:
        raise NotImplementedError

    def _opener(self) -> Opened:
        raise NotImplementedError

    def _link_of(self, connection: Connection) -> Link:
        raise NotImplementedError

    def lock(self, name: str) -> AsyncLock:
        """asyncio.Lock, free again when its holder dies. `token` fences off who lost it."""
        return AsyncLock(self._opener(), name, partial(Lock, name=name))

    def rlock(self, name: str) -> AsyncRLock:
        """A lock that the task which has it may take again; likewise."""
        return AsyncRLock(self._opener(), name, partial(RLock, name=name))

    def semaphore(self, name: str, value: int = 1) -> AsyncSemaphore:
        """asyncio.Semaphore; likewise."""
        natural("value", value)
        return AsyncSemaphore(self._opener(), name, partial(Semaphore, name=name, value=value))

    def event(self, name: str) -> AsyncEvent:
        """asyncio.Event."""
        return AsyncEvent(self._opener(), name, partial(Event, name=name))

    def barrier(self, name: str, parties: int, timeout: float | None = None) -> AsyncBarrier:
        """asyncio.Barrier. timeout: of wait(), where that does not say; seconds."""
        make = partial(Barrier, name=name, parties=parties, timeout=timeout)
        return AsyncBarrier(self._opener(), name, make, parties)

    def counter(self, name: str, start: int = 0) -> AsyncCounter:
        """An int with an atomic add(). start: where nobody has counted yet."""
        return AsyncCounter(self._opener(), name, partial(Counter, name=name, start=start))

    def value(self, name: str, first: Any = None) -> AsyncValue[Any]:
        """A value with an atomic update(). first: where there is none yet."""
        return AsyncValue(self._opener(), name, partial(Value, name=name, first=first))

    def shared_dict(self, name: str) -> AsyncDict[Any, Any]:
        """A dict."""
        return AsyncDict(self._opener(), name, partial(Dict, name=name))

    def shared_list(self, name: str) -> AsyncList[Any]:
        """A list."""
        return AsyncList(self._opener(), name, partial(List, name=name))

    async def forget(self, name: str) -> None:
        """Remove a shared thing, whatever it is."""
        client, link = await self._open()
        await link.threads.take(client.forget, name)

    @overload
    def twin(self, handle: RLock) -> AsyncRLock: ...
    @overload
    def twin(self, handle: Lock) -> AsyncLock: ...
    @overload
    def twin(self, handle: Semaphore) -> AsyncSemaphore: ...
    @overload
    def twin(self, handle: Event) -> AsyncEvent: ...
    @overload
    def twin(self, handle: Barrier) -> AsyncBarrier: ...
    @overload
    def twin(self, handle: Counter) -> AsyncCounter: ...
    @overload
    def twin(self, handle: Value[T]) -> AsyncValue[T]: ...
    @overload
    def twin(self, handle: Dict[Any, Any]) -> AsyncDict[Any, Any]: ...
    @overload
    def twin(self, handle: List[T]) -> AsyncList[T]: ...
    @overload
    def twin(self, handle: StatusableQueue[T]) -> AsyncQueue[T]: ...
    @overload
    def twin(self, handle: JoinableQueue[T]) -> AsyncJoinableQueue[T]: ...
    @overload
    def twin(self, handle: Queue[T]) -> AsyncPlainQueue[T]: ...
    def twin(self, handle: Any) -> Any:
        """The awaitable twin of what is for programs without an event loop: of a shared thing or a queue that was
        handed to a coroutine, say. It uses the handle's own server. Raises ConfigError."""
        self._opener()  # which says what is wrong
        if isinstance(handle, StatusableQueue):
            return AsyncQueue(self._link_of(handle._connection), handle)
        if isinstance(handle, JoinableQueue):
            return AsyncJoinableQueue(self._link_of(handle._connection), handle)
        if isinstance(handle, Queue):
            return AsyncPlainQueue(self._link_of(handle._connection), handle)
        if not isinstance(handle, Barrier) and type(handle) not in _TWINS:
            raise ConfigError("a handle", "a queue, or a shared thing such as a lock", repr(handle))
        link = self._link_of(handle._connection)

        async def opened() -> Link:
            return link

        def make(_: Connection) -> Any:
            return handle

        if isinstance(handle, Barrier):
            return AsyncBarrier(opened, handle.name, make, handle.parties)
        return _TWINS[type(handle)](opened, handle.name, make)
