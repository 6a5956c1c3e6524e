"""Source: an async iterable, read on its event loop, as an iterator for a thread."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, Iterator
from queue import SimpleQueue
from typing import Any, Final

_AHEAD: Final = 10_000  # items that are read ahead of the thread, at most
_TURN_S: Final = 0.005  # that it may take before others on the loop have their turn
_END: Final = object()


class Source(Iterator[Any]):
    """The items, from another thread than the loop's.

    A loop that ends before the input does leaves who asks waiting: as a client that dies, it has not put all.
    """

    def __init__(self, items: AsyncIterable[Any]) -> None:
        self._items = items
        self._loop = asyncio.get_running_loop()
        self._came: SimpleQueue[Any] = SimpleQueue()
        self._hungry = asyncio.Event()
        self._full = False
        self._error: Exception | None = None
        self._task: asyncio.Task[None] | None = None

    def __next__(self) -> Any:
        item = self._came.get()
        if self._full and self._came.qsize() < _AHEAD // 2:
            self._full = False
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._hungry.set)
        if item is _END:
            self._came.put(_END)
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            raise StopIteration
        return item

    def begin(self) -> None:
        """Read, on the loop."""
        self._task = self._loop.create_task(self._read())

    def close(self) -> None:
        """Read no more; called on the loop."""
        if self._task is not None:
            self._task.cancel()
        self._came.put(_END)

    async def _read(self) -> None:
        began = time.monotonic()
        try:
            async for item in self._items:
                self._came.put(item)
                while self._came.qsize() >= _AHEAD:
                    self._hungry.clear()
                    self._full = True  # before it is looked once more: who takes one from now on wakes it
                    if self._came.qsize() >= _AHEAD:
                        await self._hungry.wait()
                if time.monotonic() - began > _TURN_S:
                    await asyncio.sleep(0)
                    began = time.monotonic()
        except Exception as error:  # whatever the input raises comes when the results of what came before it are read
            self._error = error
        self._came.put(_END)
