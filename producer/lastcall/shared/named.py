"""Named: what a Client shares with other programs by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lastcall.checks import plain_name
from lastcall.shared.barrier import Barrier
from lastcall.shared.event import Event
from lastcall.shared.lock import Lock, RLock, Semaphore
from lastcall.shared.mapping import Dict
from lastcall.shared.sequence import List
from lastcall.shared.thing import remove
from lastcall.shared.value import Counter, Value
from lastcall.waiting import reaching

if TYPE_CHECKING:
    from lastcall.connection import Connection


class Named:
    """Things that are the same for all programs on this server that say the same name, which is of one kind of thing.

    Kept until nobody has changed them for LASTCALL_TTL_S; a Manager's are gone with it.
    """

    _connection: Connection

    def _open(self) -> Connection:
        raise NotImplementedError

    def lock(self, name: str) -> Lock:
        """threading.Lock; free again when its holder dies. `token` fences off who lost it."""
        return Lock(self._open(), name)

    def rlock(self, name: str) -> RLock:
        """threading.RLock; likewise."""
        return RLock(self._open(), name)

    def semaphore(self, name: str, value: int = 1) -> Semaphore:
        """threading.Semaphore; likewise."""
        return Semaphore(self._open(), name, value)

    def event(self, name: str) -> Event:
        """threading.Event."""
        return Event(self._open(), name)

    def barrier(self, name: str, parties: int, timeout: float | None = None) -> Barrier:
        """threading.Barrier, without an action."""
        return Barrier(self._open(), name, parties, timeout)

    def counter(self, name: str, start: int = 0) -> Counter:
        """An int with an atomic add(). start: where nobody has counted yet."""
        return Counter(self._open(), name, start)

    def value(self, name: str, first: Any = None) -> Value[Any]:
        """A value with an atomic update(). first: where there is none yet."""
        return Value(self._open(), name, first)

    def shared_dict(self, name: str) -> Dict[Any, Any]:
        """A dict."""
        return Dict(self._open(), name)

    def shared_list(self, name: str) -> List[Any]:
        """A list."""
        return List(self._open(), name)

    @reaching
    def forget(self, name: str) -> None:
        """Remove a shared thing, whatever it is."""
        plain_name("name", name)
        remove(self._open(), [name])
