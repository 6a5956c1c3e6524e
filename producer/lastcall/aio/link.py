"""Link: what the objects of one AsyncClient work with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lastcall.aio.bells import Bells
from lastcall.errors import ConfigError

if TYPE_CHECKING:
    from lastcall.aio.threads import Threads
    from lastcall.connection import Connection


class Link:
    """A connection, threads that ask over it, and bells to wait at; of one event loop."""

    def __init__(self, connection: Connection, threads: Threads) -> None:
        self.connection = connection
        self.threads = threads
        self.loop = asyncio.get_running_loop()
        self.bells = Bells(connection.settings)


def check_loop(loop: asyncio.AbstractEventLoop | None) -> asyncio.AbstractEventLoop:
    """The running loop. Raises ConfigError where it is not the one that the client belongs to."""
    here = asyncio.get_running_loop()
    if loop is not None and loop is not here:
        raise ConfigError(
            "an AsyncClient", "used in the event loop in which it was used first", "another", "make one there"
        )
    return here
