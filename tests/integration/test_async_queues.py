"""lastcall.Queue, JoinableQueue and StatusableQueue's put() and get(), awaited."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from lastcall import AsyncClient, AsyncManager, JoinableQueue, Queue, errors
from tests.conftest import Cluster
from tests.workers import environment

pytestmark = pytest.mark.integration


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


def client_of(cluster: Cluster, **options: Any) -> AsyncClient:
    return AsyncClient(cluster.url, cluster.key, **options)


@on_a_loop
async def test_a_queue_is_shared_with_programs_that_have_no_loop(lonely: Cluster, name: str) -> None:
    with lonely.client() as theirs:
        async with client_of(lonely) as client:
            queue = await client.plain_queue(2, name=name)
            other: Queue[Any] = await asyncio.to_thread(Queue, name=name, client=theirs)
            assert await queue.empty()
            with pytest.raises(errors.NotSerializable, match="hand over its `queue`"):
                await client.submit(type, queue)
            waiting = asyncio.create_task(queue.get())
            await asyncio.to_thread(other.put, "a")
            assert await waiting == "a"
            await queue.put("b")
            await queue.put("c")
            assert (await queue.qsize(), await queue.full(), await queue.producers()) == (2, True, 2)
            with pytest.raises(errors.Full):
                await queue.put_nowait("d")
            with pytest.raises(errors.Full):
                await queue.put("d", timeout=0.01)
            putting = asyncio.create_task(queue.put("d"))
            assert await asyncio.to_thread(other.get) == "b"
            await putting
            assert [await queue.get(), await queue.get_nowait()] == ["c", "d"]
            with pytest.raises(errors.Empty):
                await queue.get_nowait()
            with pytest.raises(errors.Empty):
                await queue.get(timeout=0.01)
            with pytest.raises(TypeError, match="timeout must be a number"):
                await queue.get(timeout="long")  # type: ignore[arg-type]
            await queue.close()
            with pytest.raises(ValueError, match="is closed"):
                await queue.put("e")
            assert await queue.producers() == 1


@on_a_loop
async def test_producers_and_consumers_are_tasks(lonely: Cluster) -> None:
    async with client_of(lonely) as client:
        queue, got = await client.joinable_queue(5), []

        async def produce(first: int) -> None:
            for number in range(first, first + 50):
                await queue.put(number)

        async def consume() -> None:
            while True:
                got.append(await queue.get())
                await queue.task_done()

        consumers = [asyncio.create_task(consume()) for _ in range(10)]
        await asyncio.gather(*(produce(first) for first in range(0, 200, 50)))
        await queue.join(30)
        assert sorted(got) == list(range(200))
        for consumer in consumers:
            consumer.cancel()
        await asyncio.wait(consumers)
        with pytest.raises(ValueError, match="called too many times"):
            await queue.task_done()


@on_a_loop
async def test_join_waits_for_what_is_not_marked_as_done(lonely: Cluster) -> None:
    async with client_of(lonely) as client:
        queue = await client.joinable_queue()
        await queue.put("a")
        assert await queue.get() == "a"
        with pytest.raises(errors.WaitTimeout, match="1 running"):
            await queue.join(0.05)
        joining = asyncio.create_task(queue.join())
        await asyncio.create_task(queue.task_done())  # another task's
        await joining


@on_a_loop
async def test_what_a_client_that_is_closed_has_not_done_goes_back(lonely: Cluster, name: str) -> None:
    async with client_of(lonely, lease_s=60) as mine, client_of(lonely) as other:
        queue = await other.joinable_queue(name=name)
        theirs = await mine.joinable_queue(name=name)
        await queue.put(1)
        await queue.put(2)
        assert [await theirs.get(), await theirs.get()] == [1, 2]
        await theirs.task_done()
        await mine.aclose()
        assert await queue.get(timeout=10) == 2
        assert await queue.qsize() == 0


@on_a_loop
async def test_what_a_handle_that_is_gone_has_not_done_goes_back(lonely: Cluster, name: str) -> None:
    async with client_of(lonely, lease_s=60) as mine, client_of(lonely) as other:
        queue = await other.joinable_queue(name=name)
        theirs = await mine.joinable_queue(name=name)
        await theirs.put(1)
        assert await theirs.get() == 1
        assert await queue.producers() == 1
        del theirs
        gc.collect()
        assert await queue.get(timeout=10) == 1
        async with asyncio.timeout(10):
            while await queue.producers():
                await asyncio.sleep(0.01)


@on_a_loop
async def test_an_item_is_done_when_its_task_asks_for_the_next_or_ends(lonely: Cluster, name: str) -> None:
    async with client_of(lonely, lease_s=60) as client:
        queue = (await client.plain_queue(name=name)).queue
        shared = client.twin(queue)

        async def get(then: BaseException | None = None) -> int:
            item: int = await shared.get()
            if then is not None:
                raise then
            return item

        async def held(many: int) -> None:
            async with asyncio.timeout(10):
                while queue._ledger.status().leased != many:
                    await asyncio.sleep(0.01)

        for number in range(4):
            await shared.put(number)
        assert await shared.get() == 0
        await held(1)
        assert await shared.get() == 1
        await held(1)
        assert await asyncio.create_task(get()) == 2
        await held(1)
        with pytest.raises(KeyError):
            await asyncio.create_task(get(KeyError()))
        assert await asyncio.wait_for(shared.get(), 10) == 3  # it came back


@on_a_loop
async def test_a_get_that_is_cancelled_at_any_time_keeps_nothing(lonely: Cluster, name: str) -> None:
    async with client_of(lonely, lease_s=60) as mine, client_of(lonely) as other:
        for kind in ("queue", "joinable_queue"):
            queue = await getattr(mine, kind)(name=f"{name}-{kind}")
            theirs = await getattr(other, kind)(name=f"{name}-{kind}")
            for delay_ms in (0, 1, 2, 3, 5, 8, 13):
                await theirs.put(delay_ms)
                got = None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_ms / 1000):
                        got = await queue.get()
                if got is None:
                    assert await theirs.get(timeout=10) == delay_ms
                    await theirs.task_done()
                else:
                    await queue.task_done()
                    assert await theirs.empty()


@on_a_loop
async def test_shutdown_ends_who_waits(lonely: Cluster) -> None:
    async with client_of(lonely) as client, AsyncManager(client=client) as manager:
        queue, joinable = await manager.Queue(), await manager.JoinableQueue(1)
        getting = [asyncio.create_task(queue.get()) for _ in range(3)]
        await asyncio.sleep(0.01)
        await queue.shutdown()
        for one in getting:
            with pytest.raises(errors.QueueFinished):
                await one
        with pytest.raises(errors.QueueFinished):
            await queue.put(1)
        await joinable.put(1)
        putting = asyncio.create_task(joinable.put(2))
        await asyncio.sleep(0.01)
        await joinable.shutdown(immediate=True)
        with pytest.raises(errors.QueueFinished):
            await putting


@on_a_loop
async def test_a_statusable_queue_is_read_to_its_end(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        queue = await client.queue(name, maxsize=5)

        async def produce() -> None:
            for number in range(20):
                await queue.put(number)
            await queue.close()

        async def consume() -> list[int]:
            got = []
            while not await queue.finished():
                got.append(await queue.get())
            return got

        got = await asyncio.gather(consume(), consume(), produce())
        assert sorted([*got[0], *got[1]]) == list(range(20))
        assert (await queue.join(10)).done == 20
        with pytest.raises(ValueError, match="called too many times"):
            await queue.task_done()


@on_a_loop
async def test_a_server_that_is_away_is_told(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        queue = await client.joinable_queue(name=name)
        lonely.server.kill()
        for use in (queue.put(1, timeout=0.01), queue.qsize(), queue.shutdown(), client.counter(name).add()):
            with pytest.raises(errors.ServerUnreachable):
                await use
        with pytest.raises(errors.Empty, match="away"):
            await queue.get(timeout=0.01)
        assert not await client.event(name).wait(0.01)


@on_a_loop
async def test_who_waits_for_what_it_has_itself_is_told(lonely: Cluster) -> None:
    async with client_of(lonely) as client:
        queue = await client.joinable_queue()
        await queue.put(1)
        assert await queue.get() == 1
        await queue.shutdown()
        with pytest.raises(errors.QueueFinished):
            await queue.get()


def test_what_a_program_that_is_killed_had_comes_back(lonely: Cluster, name: str) -> None:
    program = f"""
import asyncio
from lastcall import AsyncClient
async def main():
    async with AsyncClient() as client:
        queue = await client.joinable_queue(name={name!r})
        await queue.put("mine")
        print(await queue.get(), flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""
    told = {**environment(lonely.url, lonely.key), "LASTCALL_LEASE_S": "1"}
    with subprocess.Popen([sys.executable, "-c", program], env=told, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "mine\n"
        os.kill(killed.pid, signal.SIGKILL)
    with lonely.client(lease_s=1.0) as client:
        queue: JoinableQueue[str] = JoinableQueue(name=name, client=client)
        assert queue.get(timeout=30) == "mine"
        queue.task_done()
