"""AsyncClient and coroutines while processes and the server die."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable

import pytest

from lastcall import AsyncClient, AsyncQueue
from tests.coroutines import nap
from tests.faults.conftest import Service
from tests.functions import square
from tests.workers import ROOT, environment, until

pytestmark = pytest.mark.faults

HOLDS = """
import asyncio, sys
from lastcall import AsyncClient

async def main():
    async with AsyncClient() as client:
        queue = await client.queue("shared")
        async with queue.consumer() as consumer:
            assert await consumer.get() == 0
            print("got", flush=True)
            await asyncio.sleep(600)

asyncio.run(main())
"""


def test_waits_bear_a_server_that_is_started_again(services: Callable[..., Service]) -> None:
    service = services(lease_s=2.0, persistent=True)
    service.worker("away", slots=1)

    async def main() -> None:
        async with AsyncClient(service.server.url, service.key, lease_s=2.0) as client:
            plain: AsyncQueue[int] = await client.queue("plain", maxsize=4)
            work = await client.queue("work", nap)
            reading = asyncio.create_task(_all(plain))
            joining = asyncio.create_task(work.join(60))
            mapped = client.map(nap, range(300), timeout=60)
            assert await anext(mapped) == 0
            call = client.submit(nap, 9)
            lock = client.lock("held")
            await lock.acquire()
            locking = asyncio.create_task(client.lock("held").acquire(60))
            event, barrier = client.event("set"), client.barrier("met", 2)
            empty, full = await client.joinable_queue(name="empty"), await client.joinable_queue(1, name="full")
            await full.put("a")
            shared = [
                asyncio.create_task(wait) for wait in (event.wait(60), barrier.wait(60), empty.get(), full.put("b"))
            ]
            joining_full = asyncio.create_task(full.join(60))
            async with plain.producer() as out, work.producer() as other:
                await out.put_many(range(10))
                await other.put_many(range(100))
                await asyncio.to_thread(service.server.kill)
                calls = [client.submit(square, n) for n in range(20)]
                putting = asyncio.create_task(out.put_many(range(10, 40)))
                await asyncio.to_thread(service.server.start)
                await putting
            assert await reading == list(range(40))
            assert (await joining).done == 100
            assert [n async for n in mapped] == [n * n for n in range(1, 300)]
            assert await call == 81
            await event.set()
            await empty.put("c")
            assert await full.get() == "a"
            await full.task_done()
            assert await full.get() == "b"
            assert not joining_full.done()
            await full.task_done()
            await joining_full
            met = await barrier.wait(60)
            assert await asyncio.gather(*shared) == [True, 1 - met, "c", None]
            assert not locking.done()
            await lock.release()
            assert await locking
            assert await asyncio.gather(*calls) == [n * n for n in range(20)]

    asyncio.run(main())


async def _all(queue: AsyncQueue[int]) -> list[int]:
    return [n async for n in queue]


def test_what_a_killed_consumer_had_comes_back(services: Callable[..., Service]) -> None:
    service = services(lease_s=1.0)

    async def fill(client: AsyncClient) -> AsyncQueue[int]:
        queue: AsyncQueue[int] = await client.queue("shared")
        async with queue.producer() as out:
            await out.put_many(range(5))
        return queue

    async def main() -> None:
        async with AsyncClient(service.server.url, service.key, lease_s=1.0) as client:
            queue = await fill(client)
            env = environment(service.server.url, service.key, {"LASTCALL_LEASE_S": "1"})
            holder = subprocess.Popen([sys.executable, "-c", HOLDS], env=env, stdout=subprocess.PIPE, cwd=ROOT)
            assert holder.stdout is not None
            with holder.stdout as said:
                assert await asyncio.to_thread(said.readline) == b"got\n"
            holder.kill()
            holder.wait()
            assert await _all(queue) == list(range(5))

    asyncio.run(main())


def test_a_worker_that_is_killed_loses_no_coroutine(services: Callable[..., Service]) -> None:
    service = services(lease_s=1.0)
    first = service.worker("first", slots=1)
    client = service.client()
    queue = client.queue("naps", nap)
    with queue.producer(chunk_items=1) as out:
        out.put_many(range(3000))
    until(lambda: queue.status().done > 100, "some to be done")
    first.kill()
    service.worker("second", slots=1)
    assert queue.join(60).done == 3000
    assert sorted(queue.results()) == [n * n for n in range(3000)]
