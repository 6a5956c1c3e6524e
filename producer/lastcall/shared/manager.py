"""Manager: multiprocessing.Manager, whose things are shared by machines.

from lastcall import Manager

with Manager() as manager:
    seen, lock = manager.dict(), manager.Lock()
"""

from __future__ import annotations

import os
import threading
import time
import uuid
import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from lastcall.client import Client
from lastcall.errors import ClientClosed
from lastcall.queues import JoinableQueue, Queue
from lastcall.shared.barrier import Barrier
from lastcall.shared.event import Event
from lastcall.shared.lock import BoundedSemaphore, Lock, RLock, Semaphore
from lastcall.shared.mapping import Dict, Namespace, filled
from lastcall.shared.sequence import List
from lastcall.shared.thing import remove
from lastcall.shared.value import Counter, Value
from lastcall.state import keys
from lastcall.waiting import reaching

if TYPE_CHECKING:
    from lastcall.connection import Connection

Q = TypeVar("Q", bound=Queue[Any])


class Manager:
    """Makes things that functions on workers and other processes use, too: hand them over, they pickle.

    They are gone when it is shut down, at the end of its `with` block, or LASTCALL_TTL_S after this process has died.
    client: whose server to use; it is not closed. None: one of the manager's own, by LASTCALL_URL, or private.
    Other than multiprocessing's: a permit of a process that dies is free again; a lock is released in the process that
    took it; a Barrier has no action; keys of a dict are plain (Dict). Its queues are lastcall.Queue and JoinableQueue:
    the first one has no task_done(). There are no Array, Condition and Pool: for the last take lastcall's own.
    """

    def __init__(self, *, client: Client | None = None) -> None:
        self._own = client is None
        self._client = Client() if client is None else client
        self._at = self._client._open()
        self._id = uuid.uuid4().hex
        self._pid = os.getpid()
        self._names: list[str] = []
        self._queues: list[Queue[Any]] = []
        self._kept = time.monotonic()
        self._lock = threading.Lock()
        self._closed = False
        myself = weakref.ref(self)

        def beat() -> None:
            there = myself()
            if there is not None:
                there._keep()

        self._at.heart.keep(self._id.encode(), beat)
        self._end = weakref.finalize(self, self._at.heart.let_go, self._id.encode())

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.shutdown()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a manager cannot be pickled: hand over what it makes")

    @property
    def _connection(self) -> Connection:
        return self._at

    def Lock(self) -> Lock:
        return Lock(self._at, self._name())

    def RLock(self) -> RLock:
        return RLock(self._at, self._name())

    def Semaphore(self, value: int = 1) -> Semaphore:
        return Semaphore(self._at, self._name(), value)

    def BoundedSemaphore(self, value: int = 1) -> BoundedSemaphore:
        return BoundedSemaphore(self._at, self._name(), value)

    def Event(self) -> Event:
        return Event(self._at, self._name())

    def Barrier(self, parties: int, action: None = None, timeout: float | None = None) -> Barrier:
        if action is not None:
            raise TypeError("a barrier between machines has no action: have the party whose wait() gives 0 do it")
        return Barrier(self._at, self._name(), parties, timeout)

    def Value(self, typecode: str, value: Any, lock: bool = True) -> Value[Any]:
        """typecode, lock: of no effect, as in multiprocessing's."""
        return Value(self._at, self._name(), value)

    def Counter(self, start: int = 0) -> Counter:
        return Counter(self._at, self._name(), start)

    def Namespace(self, **attributes: Any) -> Namespace:
        return Namespace(filled(Dict(self._at, self._name()), (), attributes))

    def dict(self, *args: Any, **more: Any) -> Dict[Any, Any]:
        return filled(Dict(self._at, self._name()), args, more)

    def list(self, values: Iterable[Any] = ()) -> List[Any]:
        made: List[Any] = List(self._at, self._name())
        made.extend(values)
        return made

    def Queue(self, maxsize: int = 0) -> Queue[Any]:
        return self._made(Queue(maxsize, client=self._client))

    def JoinableQueue(self, maxsize: int = 0) -> JoinableQueue[Any]:
        return self._made(JoinableQueue(maxsize, client=self._client))

    @reaching
    def shutdown(self) -> None:
        """Remove all that it has made. May be called again; a fork's copy does nothing."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._end()
        try:
            remove(self._at, self._names)
            for queue in self._queues:
                queue.shutdown(immediate=True)
        finally:
            if self._own:
                self._client.close()

    def _made(self, queue: Q) -> Q:
        with self._lock:
            if not self._closed:
                self._queues.append(queue)
                return queue
        queue.shutdown(immediate=True)
        raise ClientClosed

    def _name(self) -> str:
        with self._lock:
            if self._closed:
                raise ClientClosed
            name = f"{self._id}-{uuid.uuid4().hex}"  # no numbers: a fork counts like its parent
            self._names.append(name)
            return name

    def _keep(self) -> None:
        """Nothing of a manager that lives expires."""
        ttl_s = self._at.settings.ttl_s
        if time.monotonic() - self._kept < ttl_s / 4:
            return
        self._kept = time.monotonic()
        with self._lock:
            names = [*self._names]
        for name in names:
            for key in keys.shared(name):
                self._at.asking.pexpire(key, int(ttl_s * 1000))
