"""AsyncLock: a lock, or a semaphore's permit, between machines, awaited."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final

from lastcall.checks import plain_name
from lastcall.errors import HoldLost, NotHeld
from lastcall.shared.lock import _timeout
from lastcall.shared.permits import Held, Seeking
from lastcall.waiting import AWAY, Outage, unreachable

if TYPE_CHECKING:
    from lastcall.aio.link import Link
    from lastcall.shared.lock import Semaphore

_AWAY_S: Final = 0.2


class AsyncLock:
    """asyncio.Lock, or Semaphore, between machines; made by client.lock() and client.semaphore().

    What it takes is a lease: see lastcall.shared.Semaphore. release() gives back what was taken by this object; tasks
    of one loop may share it.
    """

    def __init__(self, opened: Callable[[], Awaitable[Link]], kind: type[Semaphore], name: str, *options: int) -> None:
        plain_name("name", name)
        self._opened = opened
        self._kind, self.name, self._options = kind, name, options
        self._held: list[tuple[Semaphore, Held]] = []

    def __repr__(self) -> str:
        return f"<AsyncLock {self.name}>"

    async def acquire(self, timeout: float | None = None) -> bool:
        """Take it. False at the timeout, in seconds (None: none). Where it is cancelled, nothing is held.

        In a coroutine on a worker, without a timeout: raises WaitTimeout, which says who has it, where that has not
        changed for worker_wait_s (60 s).
        """
        timeout_s = _timeout(True, timeout)
        link = await self._opened()
        thing = self._kind(link.connection, self.name, *self._options)
        seeking, outage = Seeking(thing, timeout_s, owner=(0, self)), Outage(link.connection)

        def look() -> Held | float:
            try:
                found = seeking.look(waits=not passed)
            except AWAY as error:
                outage.bear(error, seeking.deadline.left(_AWAY_S))
                return 0.001
            outage.over()
            return found

        def undo(found: Held | float) -> None:
            if isinstance(found, Held):
                link.connection.permits.give(thing, found)

        while True:
            passed = seeking.deadline.passed
            found = await link.threads.take(look, undo=undo)
            if isinstance(found, Held):
                self._held.append((thing, found))
                return True
            if passed:
                return False
            await link.bells.rung(thing._key("bell"), found)

    async def release(self) -> None:
        """Give it back. Raises NotHeld; HoldLost if it was lost before."""
        thing, held = self._newest()
        self._held.remove((thing, held))
        link = await self._opened()

        def give() -> None:
            try:
                link.connection.permits.give(thing, held)
            except AWAY as error:
                raise unreachable(link.connection, error) from error

        await link.threads.take(give)

    async def __aenter__(self) -> bool:
        return await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            await self.release()
        except HoldLost:
            if kind is None:  # else what went wrong first is what is told
                raise

    @property
    def token(self) -> int:
        """Grows with every permit that is given out: see lastcall.shared.Semaphore. Raises NotHeld."""
        return self._newest()[1].token

    def _newest(self) -> tuple[Semaphore, Held]:
        if not self._held:
            raise NotHeld(self._kind.kind, self.name)
        return self._held[-1]
