"""Things that machines share, awaited: events, barriers, values, dicts, lists, and a manager's."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from threading import BrokenBarrierError
from typing import Any

import pytest

from lastcall import AsyncClient, AsyncManager, Client, JoinableQueue, errors
from lastcall.shared.mapping import Dict
from tests import coroutines
from tests.conftest import Cluster
from tests.workers import Worker

pytestmark = pytest.mark.integration


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


def client_of(cluster: Cluster, **options: Any) -> AsyncClient:
    return AsyncClient(cluster.url, cluster.key, **options)


async def waits_at(cluster: Cluster, key: bytes, many: int) -> None:
    """Until as many listen there."""
    redis = cluster.server.client()
    while dict(redis.pubsub_numsub(key))[key] != many:
        await asyncio.sleep(0.005)


@on_a_loop
async def test_an_event_wakes_who_awaits_it(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        event = client.event(name)
        with lonely.client() as theirs:
            assert not await event.is_set()
            assert not await event.wait(0.01)
            waiting = [asyncio.create_task(event.wait()) for _ in range(10)]
            await waits_at(lonely, theirs.event(name)._key("meta"), 10)
            await asyncio.to_thread(theirs.event(name).set)
            assert await asyncio.gather(*waiting) == [True] * 10
            assert await event.is_set()
            await event.clear()
            assert not theirs.event(name).is_set()


@on_a_loop
async def test_a_barrier_lets_all_pass_with_a_number_each(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        barrier = client.barrier(name, 3)
        assert barrier.parties == 3
        with lonely.client() as theirs:
            for _ in range(3):
                two = [barrier.wait(), barrier.wait()]
                one = asyncio.to_thread(theirs.barrier(name, 3).wait, 60)
                assert sorted(await asyncio.gather(*two, one)) == [0, 1, 2]
        assert await barrier.n_waiting() == 0


@on_a_loop
async def test_one_that_is_cancelled_at_a_barrier_has_not_come(lonely: Cluster, name: str) -> None:
    async with client_of(lonely, lease_s=60) as client:
        barrier = client.barrier(name, 2)
        for delay_ms in (0, 1, 3, 10):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(delay_ms / 1000):
                    await barrier.wait()
        while await barrier.n_waiting():  # well below its lease
            await asyncio.sleep(0.005)
        assert not await barrier.broken()
        assert sorted(await asyncio.gather(barrier.wait(), barrier.wait())) == [0, 1]


@on_a_loop
async def test_a_barrier_is_broken_by_a_timeout_and_by_abort(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        barrier = client.barrier(name, 2, timeout=0.01)
        with pytest.raises(BrokenBarrierError, match="not all 2 parties came in time"):
            await barrier.wait()
        assert await barrier.broken()
        with pytest.raises(BrokenBarrierError, match="is broken"):
            await barrier.wait()
        await barrier.reset()
        waiting = asyncio.create_task(barrier.wait(60))
        while await barrier.n_waiting() != 1:
            await asyncio.sleep(0.001)
        await barrier.abort()
        with pytest.raises(BrokenBarrierError):
            await waiting


@on_a_loop
async def test_a_counter_and_a_value(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        counter, value = client.counter(name, 5), client.value(f"{name}-value", [1])
        assert sorted(await asyncio.gather(*(counter.add() for _ in range(20)))) == list(range(6, 26))
        await counter.set(3)
        assert await counter.get() == 3
        assert await value.get() == [1]
        await asyncio.gather(*(value.update(lambda before: [*before, len(before)]) for _ in range(10)))
        assert await value.get() == [1, *range(1, 11)]
        await value.set("other")
        with lonely.client() as theirs:
            assert theirs.value(f"{name}-value").get() == "other"
        with pytest.raises(errors.ConfigError, match="use another name"):
            await client.event(name).set()


@on_a_loop
async def test_a_dict(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        shared = client.shared_dict(name)
        await shared.set("a", 1)
        await shared.update({"b": 2}, c=3)
        assert await shared["a"] == await shared.get("a") == 1
        assert await shared.get("none") is None
        assert await shared.get("none", 7) == 7
        with pytest.raises(KeyError):
            await shared["none"]
        assert await shared.contains("b")
        assert not await shared.contains("none")
        assert await shared.len() == 3
        assert [key async for key in shared] == await shared.keys() == ["a", "b", "c"]
        assert await shared.values() == [1, 2, 3]
        assert dict(await shared.items()) == await shared.copy() == {"a": 1, "b": 2, "c": 3}
        assert await shared.setdefault("a", 9) == 1
        assert await shared.setdefault("d", 4) == 4
        assert await shared.popitem() == ("d", 4)
        assert await shared.pop("c") == 3
        assert await shared.pop("c", None) is None
        with pytest.raises(KeyError):
            await shared.pop("c")
        await shared.delete("a")
        with pytest.raises(KeyError):
            await shared.delete("a")
        assert await shared.copy() == {"b": 2}
        await shared.clear()
        assert await shared.len() == 0


@on_a_loop
async def test_a_list(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        shared = client.shared_list(name)
        await shared.extend([3, 1])
        await shared.append(2)
        assert await shared[0] == await shared.get(0) == 3
        assert await shared[1:] == [1, 2]
        with pytest.raises(IndexError):
            await shared[7]
        await shared.set(0, 30)
        await shared.insert(1, 4)
        assert [value async for value in shared] == await shared.copy() == [30, 4, 1, 2]
        await shared.sort(key=lambda value: -value)
        await shared.reverse()
        assert await shared.copy() == [1, 2, 4, 30]
        assert await shared.contains(4)
        assert (await shared.index(4), await shared.count(4), await shared.len()) == (2, 1, 4)
        assert (await shared.pop(), await shared.pop(0), await shared.pop(1)) == (30, 1, 4)
        await shared.remove(2)
        with pytest.raises(ValueError, match="not in list"):
            await shared.remove(2)
        await shared.set(slice(0, 0), [1, 2, 3])
        await shared.delete(1)
        assert await shared.copy() == [1, 3]
        await shared.clear()
        with pytest.raises(IndexError):
            await shared.pop()


@pytest.mark.parametrize("index", [-1, 0, 1, -2])
def test_a_pop_that_is_cancelled_puts_back_what_it_took(
    lonely: Cluster, name: str, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    @on_a_loop
    async def main() -> None:
        async with client_of(lonely) as client:
            shared, keyed = client.shared_list(name), client.shared_dict(f"{name}-dict")
            await shared.extend("abc")
            await keyed.update(a=1)
            for pop in (shared.pop(index), keyed.pop("a"), keyed.popitem()):
                await cancelled_when_it_has_run(client, pop)
                await client._threads.rest()
            assert await shared.copy() == ["a", "b", "c"]
            assert await keyed.copy() == {"a": 1}

    async def cancelled_when_it_has_run(client: AsyncClient, pop: Awaitable[Any]) -> None:
        took = asyncio.Event()
        loop = asyncio.get_running_loop()
        give = client._threads.give

        async def telling(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
            def run() -> Any:
                result = function(*args)
                loop.call_soon_threadsafe(took.set)
                asyncio.run_coroutine_threadsafe(cancelled.wait(), loop).result()
                return result

            return await give(run, **named)

        cancelled = asyncio.Event()
        with monkeypatch.context() as patch:
            patch.setattr(client._threads, "give", telling)
            task = asyncio.ensure_future(pop)
            await took.wait()
            task.cancel()
            await asyncio.sleep(0)
            cancelled.set()
            with pytest.raises(asyncio.CancelledError):
                await task

    main()


@on_a_loop
async def test_a_lock_that_a_task_has_it_may_take_again(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        lock = client.rlock(name)
        async with lock:
            async with lock:
                assert await lock.locked()
                assert not await asyncio.create_task(lock.acquire(blocking=False))
                with pytest.raises(errors.NotHeld):
                    await asyncio.create_task(lock.release())
            await lock.check()
            assert len(await lock.holders()) == 1
        assert not await lock.locked()
        with pytest.raises(errors.NotHeld):
            await lock.release()


@on_a_loop
async def test_a_semaphore_that_is_released_without_a_permit_has_one_more(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client, AsyncManager(client=client) as manager:
        semaphore, bounded = client.semaphore(name, 0), await manager.BoundedSemaphore(1)
        assert not await semaphore.acquire(blocking=False)
        await semaphore.release()
        assert await semaphore.acquire(blocking=False)
        with pytest.raises(errors.NotHeld):
            await bounded.release()


@on_a_loop
async def test_a_managers_things_are_gone_with_it(lonely: Cluster) -> None:
    with pytest.raises(RuntimeError, match="async with AsyncManager"):
        await AsyncManager().dict()
    async with client_of(lonely) as client:
        async with AsyncManager(client=client) as manager:
            shared, listed = await manager.dict({"a": 1}, b=2), await manager.list("xy")
            counter, value = await manager.Counter(7), await manager.Value("i", 8)
            assert await shared.copy() == {"a": 1, "b": 2}
            assert await listed.copy() == ["x", "y"]
            assert (await counter.get(), await value.get()) == (7, 8)
            async with await manager.Lock(), await manager.RLock(), await manager.Semaphore(2):
                await (await manager.Event()).set()
            with pytest.raises(BrokenBarrierError):
                await (await manager.Barrier(2, timeout=0.01)).wait()
        assert await shared.copy() == {}
        with pytest.raises(LookupError):
            await value.get()


@on_a_loop
async def test_what_is_handed_over_is_the_thing(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        shared = client.shared_dict(name)
        with pytest.raises(TypeError, match=r"hand over `await thing\(\)`"):
            pickle.dumps(shared)
        there = pickle.loads(pickle.dumps(await shared.thing()))
        assert isinstance(there, Dict)
        there["a"] = 1
        assert await client.twin(there)["a"] == 1
        queue = await client.queue(f"{name}-queue")
        assert (await client.twin(queue.queue).status()).name == f"{name}-queue"
        with pytest.raises(errors.ConfigError, match="a queue, or a shared thing"):
            client.twin({})  # type: ignore[call-overload]


def test_coroutines_use_the_twins_of_what_they_are_given(client: Client, name: str) -> None:
    lock, shared = client.lock(name), client.shared_dict(f"{name}-dict")
    futures = [client.submit_to("io", coroutines.add_under_lock, lock, shared, "n") for _ in range(10)]
    for future in futures:
        future.result(60)
    assert shared["n"] == 10


def test_coroutines_in_the_only_slot_may_wait_for_others_of_their_queue(lonely: Cluster, name: str) -> None:
    with Worker(lonely.url, lonely.key, "one", queues="cpu", pool="prefork", slots=1) as worker:
        worker.ready()
        with lonely.client() as client:
            event, barrier = client.event(name), client.barrier(f"{name}-barrier", 3)
            # One at a time: what sets it comes when others wait.
            options: dict[str, Any] = {"concurrency": 1, "chunksize": 1}
            assert all(client.map(coroutines.sets_or_waits, [event] * 3, [False, False, True], **options))
            assert sorted(client.map(coroutines.meets, [barrier] * 3, **options)) == [0, 1, 2]
            queue: JoinableQueue[int] = JoinableQueue(3, name=name, client=client)
            assert sum(client.map(coroutines.puts_or_gets, [queue] * 6, [True, False] * 3, **options)) == 30


def test_one_that_waits_by_blocking_is_told_of_the_twin(client: Client, name: str) -> None:
    event = client.event(name)
    with pytest.raises(errors.BlocksLoop, match=rf"event {name} .* await client.twin\(event\).wait\(\)"):
        client.submit_to("io", coroutines.waits_for_an_event_by_blocking, event).result(60)

    async def main() -> None:
        with pytest.warns(RuntimeWarning, match=rf"event {name} blocks .* await client.twin") as told:
            assert not event.wait(0.01)
        assert told[0].filename == __file__

    asyncio.run(main())
