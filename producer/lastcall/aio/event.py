"""AsyncEvent: an event between machines, awaited."""

from __future__ import annotations

from lastcall.aio import announced
from lastcall.aio.thing import AsyncThing
from lastcall.shared.event import Event


class AsyncEvent(AsyncThing[Event]):
    """asyncio.Event, between machines; made by client.event()."""

    async def is_set(self) -> bool:
        """Whether it is set."""
        return await self._ask(Event.is_set)

    async def set(self) -> None:
        """Set it, and wake all who wait."""
        await self._do(Event.set)

    async def clear(self) -> None:
        """Who waits from now on waits until it is set again."""
        await self._do(Event.clear)

    async def wait(self, timeout: float | None = None) -> bool:
        """Until it is set; False at the timeout, in seconds. In a worker's coroutine other work is run meanwhile."""
        link, event = await self._at()
        return await announced.wait(link, event._until_set(), timeout)
