"""Locks and semaphores that are awaited; and those that are not, in coroutines."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from lastcall import AsyncClient, Client, errors
from tests import coroutines
from tests.conftest import Cluster

pytestmark = pytest.mark.integration


def client_of(cluster: Cluster) -> AsyncClient:
    return AsyncClient(cluster.url, cluster.key)


def test_it_is_the_lock_that_others_have_by_its_name(client: Client, cluster: Cluster, name: str) -> None:
    async def main() -> None:
        async with client_of(cluster) as mine:
            theirs, lock = client.lock(name), mine.lock(name)
            assert theirs.acquire()
            assert not await lock.acquire(timeout=0.05)
            with pytest.raises(errors.NotHeld):
                await lock.release()
            waiting = asyncio.create_task(lock.acquire())
            token = theirs.token
            await asyncio.sleep(0)
            theirs.release()
            assert await waiting
            assert lock.token > token
            assert not theirs.acquire(blocking=False)
            await lock.release()
            assert not theirs.locked()

    asyncio.run(main())


def test_no_more_tasks_than_permits_hold_one(cluster: Cluster, name: str) -> None:
    holding = most = 0

    async def main() -> None:
        async with client_of(cluster) as client:
            semaphore = client.semaphore(name, 3)

            async def one() -> None:
                nonlocal holding, most
                async with semaphore:
                    holding += 1
                    most = max(most, holding)
                    await asyncio.sleep(0.001)
                    holding -= 1

            await asyncio.gather(*(one() for _ in range(30)))

    asyncio.run(main())
    assert most == 3


def test_one_that_is_cancelled_at_any_time_holds_nothing(client: Client, cluster: Cluster, name: str) -> None:
    async def main() -> None:
        async with client_of(cluster) as mine:

            async def one() -> None:
                async with mine.lock(name):
                    await asyncio.sleep(0.001)

            tasks = [asyncio.create_task(one()) for _ in range(30)]
            for task in tasks:
                await asyncio.sleep(0.002)
                task.cancel()
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            assert await mine.lock(name).acquire(timeout=30)

    asyncio.run(main())


def test_one_that_was_lost_is_told_at_the_end(client: Client, cluster: Cluster, name: str) -> None:
    async def main() -> None:
        async with client_of(cluster) as mine:
            with pytest.raises(errors.HoldLost):
                async with mine.lock(name):
                    client.forget(name)

    asyncio.run(main())


def test_coroutines_of_one_slot_may_hold_it_one_after_the_other(client: Client, name: str) -> None:
    lock, count = client.lock(name), client.value(f"{name}-count", 0)
    futures = [client.submit_to("io", coroutines.with_lock, lock, count, n) for n in range(10)]
    assert [future.result(60) for future in futures] == list(range(10))
    assert count.get() == 10


def test_one_that_blocks_is_refused_in_a_coroutine(client: Client, name: str) -> None:
    lock = client.lock(name)
    with pytest.raises(errors.BlocksLoop, match=f"lock {name} by a call that blocks"):
        client.submit_to("io", coroutines.with_a_lock_that_blocks, lock).result(60)
    event, barrier = client.event(f"{name}-event"), client.barrier(f"{name}-barrier", 2)
    for thing in (event, barrier):
        with pytest.raises(errors.BlocksLoop, match=f"{thing.kind} {thing.name} by a call that blocks"):
            client.submit_to("io", coroutines.waits, thing).result(60)
    assert not barrier.broken
    assert client.submit_to("io", coroutines.waits_in_a_thread, event).result(60) is False


def test_one_that_blocks_a_callers_loop_is_told(client: Client, name: str) -> None:
    async def main() -> None:
        with client.lock(name), pytest.warns(RuntimeWarning, match="blocks the event loop"):
            assert not client.lock(name).acquire(timeout=0.01)
        with pytest.warns(RuntimeWarning, match="blocks the event loop"):
            assert not client.event(f"{name}-event").wait(0.01)

    asyncio.run(main())
