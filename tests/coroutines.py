"""Coroutines that tests have workers run."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from lastcall import AsyncClient, Client, current, resource, task
from tests.functions import odd_only, square

_barriers: dict[int, asyncio.Barrier] = {}
_events: dict[str, asyncio.Event] = {}
_running = 0


async def agenerate(n: int) -> AsyncIterator[int]:
    yield n


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


async def computes(n: int) -> int:
    """Which process it ran in."""
    end = time.thread_time() + 0.01
    while time.thread_time() < end:
        n += 1
    await asyncio.sleep(0.01)
    return os.getpid()


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
        await asyncio.sleep(60)
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


async def stops_the_loop(n: int) -> int:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)
    return n


async def with_lock(lock: Any, shared: Any, n: int) -> int:
    """Holds a lock while it awaits, by the awaitable one of its name."""
    async with AsyncClient() as client, client.lock(lock.name):
        before = shared.get()
        await asyncio.sleep(0.01)
        shared.set(before + 1)
    return n


async def add_under_lock(lock: Any, shared: Any, key: str) -> None:
    """With the twins of what it is given."""
    async with AsyncClient() as client:
        mine = client.twin(shared)
        async with client.twin(lock):
            await mine.set(key, await mine.get(key, 0) + 1)


async def sets_or_waits(event: Any, sets: bool) -> bool:
    async with AsyncClient() as client:
        mine = client.twin(event)
        if sets:
            await mine.set()
        return await mine.wait(60)


async def puts_or_gets(queue: Any, gets: bool) -> int:
    async with AsyncClient() as client:
        mine = client.twin(queue)
        if not gets:
            for n in range(5):
                await mine.put(n)
            return 0
        got = 0
        for _ in range(5):
            got += await mine.get(timeout=60)
            await mine.task_done()
        return got


async def meets(barrier: Any) -> int:
    async with AsyncClient() as client:
        return await client.twin(barrier).wait(60)


async def waits_for_an_event_by_blocking(event: Any) -> None:
    event.wait(60)


async def with_a_lock_that_blocks(lock: Any) -> None:
    with lock:
        await asyncio.sleep(600)


class Session:
    """As an HTTP client's: of one event loop, and closed by a coroutine."""

    def __init__(self) -> None:
        self.loop, self.thread = asyncio.get_running_loop(), threading.get_ident()

    async def close(self) -> None:
        await asyncio.sleep(0)
        where = "on its loop" if asyncio.get_running_loop() is self.loop else "elsewhere"
        Path(os.environ["TEST_CLOSED"]).write_text(where)


session = resource(Session)


@resource
def thread() -> Iterator[int]:
    made_in = threading.get_ident()
    yield made_in
    closed = "where it was made" if threading.get_ident() == made_in else "elsewhere"
    with Path(os.environ["TEST_CLOSED"] + "-plain").open("a") as file:
        print(closed, file=file)


async def session_of(n: int) -> int:
    assert session().loop is asyncio.get_running_loop()
    await asyncio.sleep(0.001)
    assert thread() == threading.get_ident()
    return id(session())


def thread_is_mine(n: int) -> bool:
    return thread() == threading.get_ident()


async def cancels_all(n: int) -> int:
    """As one that believes that the loop is its own."""
    if n == 0:
        for task in asyncio.all_tasks():
            task.cancel()
    await asyncio.sleep(0.01)
    return n


def counts(counter: Any) -> int:
    return int(counter.add())


async def counts_in_a_loop(counter: Any) -> int:
    return int(counter.add())


async def waits(thing: Any) -> Any:
    return thing.wait()


async def waits_in_a_thread(thing: Any) -> Any:
    return await asyncio.to_thread(thing.wait, 0.1)
