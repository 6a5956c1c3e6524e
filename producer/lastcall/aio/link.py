"""Link: what the objects of one AsyncClient work with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakSet

from lastcall.aio.bells import Bells
from lastcall.aio.threads import quietly
from lastcall.errors import LastcallError

if TYPE_CHECKING:
    from lastcall.aio.hands import AsyncHands
    from lastcall.aio.threads import Threads
    from lastcall.connection import Connection


class Link:
    """A connection, threads that ask over it, and bells to wait at; of one event loop."""

    def __init__(self, connection: Connection, threads: Threads) -> None:
        self.connection = connection
        self.threads = threads
        self.loop = asyncio.get_running_loop()
        self.bells = Bells(connection.settings)
        self.hands: WeakSet[AsyncHands] = WeakSet()  # to be given back when the client is closed

    def drop(self, function: Callable[[], object]) -> None:
        """Run what gives back what nobody refers to any more, for a finalizer: the garbage collector may be at work
        while this very thread holds any lock, that of the threads' work among them, so this takes none."""
        if self.loop.is_running():
            with contextlib.suppress(RuntimeError):  # it is closed
                self.loop.call_soon_threadsafe(self.threads.aside, function)
                return
        self.connection.heart.later(partial(quietly, function))

    async def close(self) -> None:
        for hands in tuple(self.hands):
            with contextlib.suppress(LastcallError):  # leases run out
                await hands.aclose()
        await self.bells.close()
