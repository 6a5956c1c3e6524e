"""AsyncLock, AsyncRLock, AsyncSemaphore: locks, and a semaphore's permits, between machines, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final

from lastcall.aio.thing import AsyncThing, Opened
from lastcall.errors import HoldLost, NotHeld
from lastcall.shared.lock import Semaphore, _timeout
from lastcall.shared.permits import Held, Seeking
from lastcall.waiting import AWAY, Outage

if TYPE_CHECKING:
    from lastcall.connection import Connection

_AWAY_S: Final = 0.2


class AsyncSemaphore(AsyncThing[Semaphore]):
    """asyncio.Semaphore, between machines; made by client.semaphore().

    What it takes is a lease: see lastcall.shared.Semaphore. release() gives back what was taken by this object, which
    tasks of one loop may share.
    """

    _kind = "semaphore"

    def __init__(self, opened: Opened, name: str, make: Callable[[Connection], Semaphore]) -> None:
        super().__init__(opened, name, make)
        self._held: list[tuple[Held, object]] = []  # and who has it

    async def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take it. False at the timeout, in seconds (None, -1: none), or if it is not free and blocking is false. Where
        it is cancelled, nothing is held.

        In a coroutine on a worker, without a timeout: raises WaitTimeout, which says who has it, where that has not
        changed for worker_wait_s (60 s).
        """
        timeout_s = _timeout(blocking, timeout)
        link, thing = await self._at()
        owner = self._owner()
        seeking, outage = Seeking(thing, timeout_s, owner=(id(owner), owner)), Outage(link.connection)

        def look() -> Held | float:
            try:
                found = seeking.look(waits=waits)
            except AWAY as error:
                outage.bear(error, seeking.deadline.left(_AWAY_S))
                return 0.001
            outage.over()
            return found

        def undo(found: Held | float) -> None:
            if isinstance(found, Held):
                thing._give(found)

        while True:
            waits = blocking and not seeking.deadline.passed
            found = await link.threads.take(look, undo=undo)
            if isinstance(found, Held):
                self._held.append((found, owner))
                return True
            if not waits:
                return False
            await link.bells.rung(thing._key("bell"), found)

    async def release(self) -> None:
        """Give it back: what was taken last. A semaphore of which nothing is held has a permit more then, others raise
        NotHeld. Raises HoldLost if it was lost before."""
        link, thing = await self._at()
        held = self._newest()
        if held is None:
            await link.threads.take(thing._release_none)
        else:
            self._held = [one for one in self._held if one[0] is not held]
            await link.threads.give(thing._give, held)

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
        return self._mine().token

    async def check(self) -> None:
        """Ask the server whether it is still held. Raises HoldLost, NotHeld."""
        held = self._mine()
        await self._ask(lambda thing: thing._check(held))

    async def holders(self) -> list[str]:
        """Who holds it, in words."""
        return await self._ask(Semaphore.holders)

    async def locked(self) -> bool:
        """Whether it is held (a semaphore: by anybody)."""
        return await self._ask(Semaphore.locked)

    def _owner(self) -> object:
        """Who takes it and gives it back: whoever has this object."""
        return self

    def _newest(self) -> Held | None:
        owner = self._owner()
        return next((held for held, by in reversed(self._held) if by is owner), None)

    def _mine(self) -> Held:
        held = self._newest()
        if held is None:
            raise NotHeld(self._kind, self.name)
        return held


class AsyncLock(AsyncSemaphore):
    """asyncio.Lock, between machines; made by client.lock(). Otherwise as AsyncSemaphore."""

    _kind = "lock"


class AsyncRLock(AsyncLock):
    """A lock that the task which has it may take again, and gives back as often; made by client.rlock().

    Raises HoldLost when taken again after it was lost.
    """

    _kind = "reentrant lock"

    async def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take it, once more where this task has it: see AsyncSemaphore.acquire()."""
        held = self._newest()
        if held is None:
            return await super().acquire(blocking, timeout)
        _timeout(blocking, timeout)
        if held.lost:
            raise HoldLost(self._kind, self.name, held.token)
        held.times += 1
        return True

    async def release(self) -> None:
        """Give it back, once. Raises NotHeld where this task does not have it."""
        held = self._mine()
        if held.times > 1:
            held.times -= 1
        else:
            await super().release()

    def _owner(self) -> object:
        return asyncio.current_task()
