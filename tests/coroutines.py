"""Coroutines that tests have workers run."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from lastcall import AsyncClient, Client, current, task
from tests.functions import odd_only, square

_barriers: dict[int, asyncio.Barrier] = {}
_events: dict[str, asyncio.Event] = {}
_running = 0


async def nap(n: int) -> int:
    await asyncio.sleep(0.01)
    return n * n


async def meet(parties: int) -> int:
    """Ends when as many run here at the same time."""
    await _barriers.setdefault(parties, asyncio.Barrier(parties)).wait()
    return os.getpid()


async def crowd(n: int) -> int:
    """How many ran here when it began."""
    global _running
    _running += 1
    try:
        seen = _running
        await asyncio.sleep(0.005)
        return seen
    finally:
        _running -= 1


@task(concurrency=2)
async def few_at_a_time(n: int) -> int:
    return await crowd(n)


async def wait_for(name: str) -> str:
    await _events.setdefault(name, asyncio.Event()).wait()
    return name


async def let_go(name: str) -> None:
    _events.setdefault(name, asyncio.Event()).set()


async def which(n: int) -> tuple[str, int]:
    before = current.item
    await asyncio.sleep(0.001 * (n % 7))
    assert current.item == before
    return current.item, current.attempt


async def odd(n: int) -> int:
    await asyncio.sleep(0.001)
    return odd_only(n)


async def third_time_lucky(n: int) -> int:
    await asyncio.sleep(0)
    if n == 3 and current.attempt < 3:
        raise ConnectionError(f"attempt {current.attempt}")
    return current.attempt


async def too_long(n: int) -> int:
    if n == 3:
        await asyncio.sleep(600)
    return n


async def blocks_the_loop(n: int) -> int:
    await asyncio.sleep(0.01)
    if n == 3:
        time.sleep(600)
    return n


async def deaf(n: int) -> int:
    """Does not end when it is cancelled."""
    while n == 3:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            continue
    return n


async def killed_once(n: int) -> int:
    await asyncio.sleep(0.01)
    if n == 7 and current.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


async def exits(n: int) -> int:
    if n == 3:
        raise SystemExit(n)
    return n


async def until_cancelled(path: str) -> None:
    Path(path, "began").touch()
    try:
        await asyncio.sleep(600)
    finally:
        Path(path, "cancelled").touch()


async def a_second(n: int) -> int:
    await asyncio.sleep(1)
    return n


async def same_loop(n: int) -> int:
    return id(asyncio.get_running_loop())


class Scaled:
    def __init__(self, by: int) -> None:
        self.by = by

    async def __call__(self, n: int) -> int:
        await asyncio.sleep(0)
        return n * self.by

    async def method(self, n: int) -> int:
        return await self(n)


async def tower(n: int, workers: str) -> int:
    if n == 0:
        return 0
    async with AsyncClient() as client:
        return 1 + await client.submit_to(workers, tower, n - 1, workers)


async def squares_of(n: int, workers: str) -> int:
    async with AsyncClient() as client:
        return sum([value async for value in client.map(square, range(n), workers=workers)])


async def joined(n: int, workers: str) -> int:
    async with AsyncClient() as client:
        queue = await client.queue(f"inside-{n}", nap, workers=workers, maxsize=2)
        async with queue.producer() as out:
            await out.put_many(range(n))
        return (await queue.join(60)).done


async def waits_by_blocking(n: int, workers: str) -> int:
    with Client() as client:
        return client.submit_to(workers, square, n).result(60)
