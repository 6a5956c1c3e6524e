"""Tasks that are cancelled at random, whatever they wait for: then nothing is held, and nothing is lost, or twice."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lastcall import AsyncClient, Flow, errors
from tests.conftest import Cluster
from tests.coroutines import nap
from tests.functions import plus_one, square

pytestmark = pytest.mark.integration

_CANCELLED = 200
_AT_ONCE = 12
_TOKENS = 20


class Tasks:
    """What tasks do, and what came of it."""

    def __init__(self, client: AsyncClient, name: str) -> None:
        self.client, self.name = client, name
        self.numbers = itertools.count()
        self.put: set[int] = set()  # that are in the queue for certain
        self.got: list[int] = []
        self.popped: list[int] = []
        self.inside = 0

    async def begin(self) -> None:
        client, name = self.client, self.name
        self.others = {queue.job for queue in await client.status()}
        lasting: Any = {"producers": 1_000_000, "on_lost": "ignore"}  # it does not end when all who put have left
        self.queue = await client.queue(f"{name}-queue", maxsize=10, **lasting)
        self.joinable = await client.joinable_queue(5, name=f"{name}-joinable")
        self.full = await client.queue(f"{name}-full", maxsize=1, **lasting)
        self.lock, self.semaphore = client.lock(name), client.semaphore(f"{name}-semaphore", 2)
        self.event, self.barrier = client.event(f"{name}-event"), client.barrier(f"{name}-barrier", 2)
        self.tokens = client.shared_list(f"{name}-tokens")
        await self.tokens.extend(range(_TOKENS))

    async def produces(self) -> None:
        async with self.queue.producer() as out:
            while True:
                number = next(self.numbers)
                await out.put(number)
                await out.flush()
                self.put.add(number)

    async def consumes(self) -> None:
        async with self.queue.consumer() as consumer:
            while True:
                number = await consumer.get()
                self.got.append(number)
                await consumer.done()

    async def puts(self) -> None:
        while True:
            number = next(self.numbers)
            await self.joinable.put(number)
            self.put.add(number)

    async def gets(self) -> None:
        while True:
            self.got.append(await self.joinable.get())
            await self.joinable.task_done()

    async def puts_into_what_is_full(self) -> None:
        async with self.full.producer() as out:
            await out.put_many(range(3))

    async def joins(self) -> None:
        await self.queue.join()

    async def locks(self) -> None:
        while True:
            async with self.lock:
                assert not self.inside
                self.inside += 1
                try:
                    await asyncio.sleep(0.001)
                finally:
                    self.inside -= 1

    async def takes_a_permit(self) -> None:
        while True:
            async with self.semaphore:
                await asyncio.sleep(0.001)

    async def waits_at_the_barrier(self) -> None:
        while True:
            await self.barrier.wait()

    async def waits_for_the_event(self) -> None:
        await self.event.wait()

    async def pops(self) -> None:
        while len(self.popped) < _TOKENS // 2:
            self.popped.append(await self.tokens.pop(0))

    async def calls(self) -> None:
        while True:
            assert await asyncio.gather(*(self.client.submit(nap, n) for n in range(5))) == [n * n for n in range(5)]

    async def maps(self) -> None:
        assert [value async for value in self.client.map(square, range(2000))] == [n * n for n in range(2000)]

    async def runs_a_flow(self) -> None:
        async with await self.client.run(Flow(square) | plus_one, range(2000)) as job:
            assert [value async for value in job.results()] == [n * n + 1 for n in range(2000)]

    async def end(self) -> None:
        """Nothing is held, and what was put comes once."""
        async with self.queue.consumer() as consumer:
            with contextlib.suppress(errors.Empty):
                while True:
                    self.got.append(await consumer.get(timeout=1))
                    await consumer.done()
        with contextlib.suppress(errors.Empty):
            while True:
                self.got.append(await self.joinable.get(timeout=1))
                await self.joinable.task_done()
        await self.joinable.join(30)
        await self.joinable.shutdown(immediate=True)
        assert len(set(self.got)) == len(self.got)
        assert self.put <= set(self.got) <= set(range(next(self.numbers)))
        assert sorted([*self.popped, *await self.tokens.copy()]) == list(range(_TOKENS))
        assert not await self.lock.locked()
        assert not await self.semaphore.locked()
        assert await self.barrier.n_waiting() == 0
        assert not await self.barrier.broken()
        await self.queue.cancel()
        await self.full.cancel()

        async def over() -> bool:
            left = [queue for queue in await self.client.status() if queue.job not in self.others]
            return all(queue.name == "calls" and not queue.leased + queue.ready for queue in left)

        async with asyncio.timeout(30):
            while not await over():
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_is_cancelled_holds_nothing(cluster: Cluster, name: str, seed: int) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        async with AsyncClient(cluster.url, cluster.key, lease_s=60) as client:  # what is held is so for long
            tasks = Tasks(client, name)
            await tasks.begin()
            kinds: list[Callable[[], Awaitable[None]]] = [
                tasks.produces, tasks.consumes, tasks.puts_into_what_is_full, tasks.joins, tasks.locks,
                tasks.takes_a_permit, tasks.waits_at_the_barrier, tasks.waits_for_the_event, tasks.pops, tasks.calls,
                tasks.maps, tasks.runs_a_flow, tasks.puts, tasks.gets,
            ]  # fmt: skip

            async def cancelled(kind: Callable[[], Awaitable[None]], after_s: float) -> None:
                task = asyncio.ensure_future(kind())
                await asyncio.wait([task], timeout=after_s)
                task.cancel()
                await asyncio.wait([task], timeout=30)
                assert task.done(), kind
                with contextlib.suppress(asyncio.CancelledError):
                    task.result()

            some = asyncio.Semaphore(_AT_ONCE)

            async def one(number: int) -> None:
                async with some:
                    await cancelled(kinds[number % len(kinds)], chance.random() ** 2 * 0.2)

            await asyncio.gather(*(one(number) for number in range(_CANCELLED)))
            await tasks.end()

    asyncio.run(main())
