"""A few threads of the process, in which AsyncClients ask the server; nothing that waits for long is done there."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from lastcall.errors import ClientClosed, ConfigError

T = TypeVar("T")

_THREADS: Final = 4


class Threads:
    """The process's threads, as one AsyncClient uses them, in one event loop, until it is closed."""

    def __init__(self) -> None:
        self.closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._aside: set[Future[None]] = set()

    def check(self) -> None:
        """Whether the client may be used here. Raises ConfigError where it is another loop's, or there is none;
        ClientClosed."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            hint = "asyncio.run(main()), or take Client, which needs none"
            raise ConfigError("an AsyncClient", "used in a running event loop", "none", hint) from None
        if self._loop is not None and self._loop is not here:
            expected = "used in the event loop in which it was used first"
            raise ConfigError("an AsyncClient", expected, "another", "make one there")
        self._loop = here
        if self.closed:
            raise ClientClosed

    async def ask(self, function: Callable[..., T], *args: Any) -> T:
        """Run what takes nothing: who is cancelled meanwhile does not wait for it."""
        self.check()
        return await asyncio.get_running_loop().run_in_executor(_pool(), function, *args)

    async def take(self, function: Callable[..., T], *args: Any, undo: Callable[[T], Any] | None = None) -> T:
        """Run what takes something: who is cancelled meanwhile goes on when it is over, so as to know what is held.

        undo: gives back what was taken where nobody has it, in the background.
        """
        self.check()
        return await self.give(function, *args, undo=undo)

    async def give(self, function: Callable[..., T], *args: Any, undo: Callable[[T], Any] | None = None) -> T:
        """take(), also of a client that is closed: for what gives back."""
        future = asyncio.get_running_loop().run_in_executor(_pool(), function, *args)
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
        with contextlib.suppress(RuntimeError):  # the interpreter ends: leases run out
            future = _pool().submit(quietly, function, *args)
            self._aside.add(future)
            future.add_done_callback(self._aside.discard)

    async def rest(self) -> None:
        """Until what was run aside is over."""
        await asyncio.sleep(0)  # what was dropped comes by the loop
        while self._aside:
            await asyncio.gather(*map(asyncio.wrap_future, tuple(self._aside)))


_pools: dict[int, ThreadPoolExecutor] = {}  # by process: a fork has none of its parent's threads


def _pool() -> ThreadPoolExecutor:
    pool = _pools.get(os.getpid())
    if pool is None:
        pool = _pools.setdefault(os.getpid(), ThreadPoolExecutor(_THREADS, thread_name_prefix="lastcall-aio"))
    return pool


def quietly(function: Callable[..., Any], *args: Any) -> None:
    """Run what nobody is there to be told of."""
    with contextlib.suppress(Exception):  # leases that cannot be given back run out
        function(*args)
