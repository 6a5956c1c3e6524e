"""Turn: a loop that need not wait lets the event loop's others run now and then."""

from __future__ import annotations

import asyncio
import time
from typing import Final

_TURN_S: Final = 0.005  # that it may take


class Turn:
    """Begins when it is made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def take(self) -> None:
        """To be awaited at each step: gives others a turn if this one has been long."""
        if time.monotonic() - self._began > _TURN_S:
            await asyncio.sleep(0)
            self._began = time.monotonic()
