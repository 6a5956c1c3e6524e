"""AsyncBarrier: a barrier between machines, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import BrokenBarrierError
from typing import TYPE_CHECKING

from lastcall.aio import announced
from lastcall.aio.thing import AsyncThing, Opened
from lastcall.checks import positive
from lastcall.shared.barrier import Arrival, Barrier

if TYPE_CHECKING:
    from lastcall.connection import Connection


class AsyncBarrier(AsyncThing[Barrier]):
    """asyncio.Barrier, between machines; made by client.barrier(). parties: how many it waits for."""

    def __init__(self, opened: Opened, name: str, make: Callable[[Connection], Barrier], parties: int) -> None:
        positive("parties", parties)
        super().__init__(opened, name, make)
        self.parties = parties

    async def n_waiting(self) -> int:
        """How many wait."""
        return await self._ask(lambda barrier: barrier.n_waiting)

    async def broken(self) -> bool:
        """Whether it is broken: somebody's time was over, or it was aborted."""
        return await self._ask(lambda barrier: barrier.broken)

    async def wait(self, timeout: float | None = None) -> int:
        """Until all have come; gives a number from 0 to parties - 1, another to each.

        One that is cancelled has not come, and another is waited for. Raises threading.BrokenBarrierError at the
        timeout, in seconds, which breaks it for all, and if it is or becomes broken, or is reset. In a worker's
        coroutine other work is run meanwhile, which may be another party.
        """
        link, barrier = await self._at()
        arrival = Arrival(barrier)
        try:
            through = await announced.wait(link, arrival, barrier._limit(timeout))
        except BrokenBarrierError:
            raise
        except asyncio.CancelledError:
            await link.threads.give(arrival.leave)
            raise
        except BaseException:
            await link.threads.give(arrival.abort)
            raise
        return arrival.number if through else await link.threads.take(arrival.give_up)

    async def reset(self) -> None:
        """As it was at first. Those who wait get a BrokenBarrierError."""
        await self._do(Barrier.reset)

    async def abort(self) -> None:
        """Break it: those who wait, or come, get a BrokenBarrierError until it is reset."""
        await self._do(Barrier.abort)
