"""A few threads, in which an AsyncClient asks the server; nothing that waits for long is done there."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

T = TypeVar("T")

_THREADS: Final = 4


class Threads:
    """One AsyncClient's."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="lastcall-aio")

    async def ask(self, function: Callable[..., T], *args: Any) -> T:
        """Run what takes nothing: who is cancelled meanwhile does not wait for it."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    async def take(self, function: Callable[..., T], *args: Any, undo: Callable[[T], Any] | None = None) -> T:
        """Run what takes something: who is cancelled meanwhile goes on when it is over, so as to know what is held.

        undo: gives back what was taken where nobody has it, in the background.
        """
        future = asyncio.get_running_loop().run_in_executor(self._pool, function, *args)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is None:
            return future.result()
        if future.exception() is None and undo is not None:
            self.aside(undo, future.result())
        raise cancelled

    def aside(self, function: Callable[..., Any], *args: Any) -> None:
        """Run something that nobody waits for, whose errors nobody is there to be told."""
        try:
            self._pool.submit(_quietly, function, *args)
        except RuntimeError:  # they are closed
            threading.Thread(target=_quietly, args=(function, *args), daemon=True).start()

    async def close(self) -> None:
        """Let what runs come to its end."""
        last: Future[None] = self._pool.submit(_nothing)
        self._pool.shutdown(wait=False)
        await asyncio.wrap_future(last)


def _nothing() -> None:
    pass


def _quietly(function: Callable[..., Any], *args: Any) -> None:
    with contextlib.suppress(Exception):  # leases that cannot be given back run out
        function(*args)
