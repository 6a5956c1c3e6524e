"""Link: what the objects of one AsyncClient work with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lastcall.aio.bells import Bells

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
