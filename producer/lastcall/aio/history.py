"""AsyncHistory, AsyncWatch: what happened to a job's items, read and told on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from lastcall.aio.misuse import Awaited

if TYPE_CHECKING:
    from lastcall.aio.link import Link
    from lastcall.history import Event, History, Kind, Watch

_PAGE: Final = 200  # events that are read at once


class AsyncHistory(Awaited):
    """A job's events, the oldest first, `async for`. Reading raises UnknownJob, NotRecorded."""

    def __init__(self, link: Link, history: History) -> None:
        self._link, self._history, self.job = link, history, history.job

    def __repr__(self) -> str:
        return f"<AsyncHistory {self.job}>"

    def __aiter__(self) -> AsyncIterator[Event]:
        """All that is there now."""
        return self.events()

    async def events(self, *kinds: Kind) -> AsyncIterator[Event]:
        """Those of these kinds; without any, all."""
        events = self._history.events(*kinds)
        while page := await self._link.threads.ask(lambda: list(islice(events, _PAGE))):
            for event in page:
                yield event


class AsyncWatch:
    """What tells the callbacks of a job's on(): see Watch."""

    def __init__(self, link: Link, watch: Watch) -> None:
        self._link, self._watch = link, watch

    async def wait(self, timeout: float | None = None) -> bool:
        """Until the job has ended and everything was told; False at the timeout (seconds)."""
        self._link.threads.check()
        ended = asyncio.wrap_future(self._watch.ended)
        await asyncio.wait([ended], timeout=timeout)
        return ended.done()

    async def close(self) -> None:
        """Tell no more."""
        await self._link.threads.give(self._watch.close)
