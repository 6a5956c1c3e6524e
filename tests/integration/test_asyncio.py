"""AsyncClient: what Client does, awaited; cancelled anywhere, it holds nothing."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lastcall import AsyncClient, AsyncQueue, Client, errors
from tests.conftest import Cluster
from tests.coroutines import let_go, nap, until_cancelled, wait_for
from tests.functions import Gate, odd_only, plus_one, square

pytestmark = pytest.mark.integration

Test = Callable[..., Coroutine[Any, Any, None]]


def on_a_loop(test: Test) -> Callable[..., None]:
    """Run a test on an event loop of its own."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


def client_of(cluster: Cluster) -> AsyncClient:
    return AsyncClient(cluster.url, cluster.key)


async def until(condition: Callable[[], Awaitable[Any]], what: str) -> None:
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.02)


async def until_there(path: Path) -> None:
    await until(partial(asyncio.to_thread, path.exists), f"{path.name} to be there")


async def count(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


async def put(queue: AsyncQueue[Any], items: Any) -> None:
    async with queue.producer() as out:
        await out.put_many(items)


# Calls


@on_a_loop
async def test_submit_gives_a_future_to_await(cluster: Cluster) -> None:
    async with client_of(cluster) as client:
        future = client.submit(square, 7)
        assert isinstance(future, asyncio.Future)
        assert await future == 49
        assert await client.submit_to("io", nap, 5) == 25
        with pytest.raises(ValueError, match="4 is even") as raised:
            await client.submit(odd_only, 4)
        assert isinstance(raised.value.__cause__, errors.RemoteTraceback)


@on_a_loop
async def test_many_calls_are_gathered(cluster: Cluster) -> None:
    async with client_of(cluster) as client:
        got = await asyncio.gather(*(client.submit(square if n % 2 else nap, n) for n in range(1000)))
    assert got == [n * n for n in range(1000)]


@on_a_loop
async def test_what_cannot_be_sent_is_raised_where_it_is_awaited(cluster: Cluster) -> None:
    async with client_of(cluster) as client:
        with pytest.raises(errors.NotSerializable, match="argument 0"):
            await client.submit(square, threading.Lock())
        assert await client.submit(square, 3) == 9


@on_a_loop
async def test_a_call_that_is_cancelled_is_taken_back(cluster: Cluster) -> None:
    async with client_of(cluster) as client:

        async def call(n: int) -> None:
            await client.submit_to("nobody", square, n)

        tasks = [asyncio.create_task(call(n)) for n in range(20)]
        kept = client.submit_to("nobody", square, 99)

        async def status() -> Any:
            return next((one for one in await client.status() if one.workers == "nobody"), None)

        async def all_there() -> bool:
            return (found := await status()) is not None and found.ready == 21

        await until(all_there, "the calls to be put")
        for task in tasks:
            task.cancel()
        assert {type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)} == {asyncio.CancelledError}

        async def taken_back() -> bool:
            return ((found := await status()).ready, found.cancelled) == (1, 20)

        await until(taken_back, "the calls to be taken back")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await kept
        await until(lambda: _none_ready(status), "the last one to be taken back")


async def _none_ready(status: Callable[[], Awaitable[Any]]) -> bool:
    return bool((await status()).ready == 0)


# Maps


@on_a_loop
async def test_map_reads_iterables_and_async_iterables(cluster: Cluster) -> None:
    async with client_of(cluster) as client:
        assert [n async for n in client.map(square, range(5000))] == [n * n for n in range(5000)]
        assert [n async for n in client.map(square, count(5000))] == [n * n for n in range(5000)]
        assert [n async for n in client.map(pow, count(9), range(2, 5))] == [0, 1, 16]
        assert sorted([n async for n in client.map(nap, count(500), ordered=False)]) == [n * n for n in range(500)]
        assert [n async for n in client.map(square, [])] == []


@on_a_loop
async def test_map_is_lazy_and_what_is_left_is_cancelled(cluster: Cluster) -> None:
    read = 0

    async def endless() -> AsyncIterator[int]:
        nonlocal read
        while True:
            yield read
            read += 1

    async with client_of(cluster) as client:
        results = client.map(square, endless(), chunksize=10)
        got = []
        async for value in results:
            got.append(value)
            if len(got) == 100:
                break
        assert got == [n * n for n in range(100)]
        assert read < 1000
        job = await client.job(results.job)
        del results

        async def ended() -> bool:
            return [one.state for one in await job.status()] == ["CANCELLED"]

        await until(ended, "the map to be cancelled")


@on_a_loop
async def test_results_come_while_the_input_waits(cluster: Cluster) -> None:
    more = asyncio.Event()

    async def slow() -> AsyncIterator[int]:
        yield 1
        await more.wait()
        yield 2

    async with client_of(cluster) as client:
        results = client.map(square, slow(), timeout=60)
        assert await anext(results) == 1
        more.set()
        assert [n async for n in results] == [4]


@on_a_loop
async def test_errors_of_a_map_come_behind_what_was_before_them(cluster: Cluster) -> None:
    async def breaks() -> AsyncIterator[int]:
        yield 1
        yield 3
        raise OSError("no more")

    async with client_of(cluster) as client:
        results = client.map(odd_only, [1, 3, 4, 5], chunksize=1)
        assert [await anext(results), await anext(results)] == [1, 3]
        with pytest.raises(ValueError, match="4 is even"):
            await anext(results)
        with pytest.raises(StopAsyncIteration):
            await anext(results)
        results = client.map(square, breaks())
        assert [await anext(results), await anext(results)] == [1, 9]
        with pytest.raises(OSError, match="no more"):
            await anext(results)
        with pytest.raises(errors.WaitTimeout, match="no worker serves"):
            await anext(client.map(square, [1], workers="nobody", timeout=0.2))
        with pytest.raises(errors.ConfigError, match="iterable"):
            client.map(square, 3)  # type: ignore[arg-type]


@on_a_loop
async def test_a_map_that_is_cancelled_ends(cluster: Cluster) -> None:
    async with client_of(cluster) as client:
        results = client.map(square, range(10), workers="nobody")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await anext(results)
        assert [one.state for one in await (await client.job(results.job)).status()] == ["CANCELLED"]


# Queues


@on_a_loop
async def test_a_queue_with_a_function(cluster: Cluster, name: str) -> None:
    async with client_of(cluster) as client:
        last = await client.queue(f"{name}-2", plus_one, job=name, maxsize=20)
        first = await client.queue(name, square, into=last, maxsize=20)
        await put(first, count(200))
        assert (await last.join(60)).done == 200
        assert sorted([n async for n in last.results()]) == sorted(n * n + 1 for n in range(200))
        job = await client.job(name)
        assert [one.name for one in await job.wait(60)] == [name, f"{name}-2"]
        assert [one.name for one in await job.queues()] == [name, f"{name}-2"]
        assert len([n async for n in job.results()]) == 200


@on_a_loop
async def test_results_that_are_read_once_make_room_and_have_a_cursor(cluster: Cluster, name: str) -> None:
    async with client_of(cluster) as client:
        queue = await client.queue(name, square, results="once", maxsize=8)
        putting = asyncio.create_task(put(queue, range(50)))
        assert sorted([n async for n in queue.results(timeout=60)]) == [n * n for n in range(50)]
        await putting
        kept = await client.queue(f"{name}-kept", square)
        async with kept.producer(chunk_items=1) as out:
            await out.put_many(range(4))
        await kept.join(60)
        results = kept.results()
        two = [await anext(results), await anext(results)]
        rest = [n async for n in kept.results(cursor=results.cursor)]  # what travelled with the second comes again
        assert {*two, *rest} == {0, 1, 4, 9}


@on_a_loop
async def test_consumers_share_and_stop_by_themselves(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        queue: AsyncQueue[int] = await client.queue(name, maxsize=10)

        async def read() -> list[int]:
            return [n async for n in queue]

        _, *got = await asyncio.gather(put(queue, count(100)), read(), read(), read())
        assert sorted(n for some in got for n in some) == list(range(100))
        assert (await queue.status()).state == "DRAINED"


@on_a_loop
async def test_a_consumer_that_is_cancelled_gives_back_what_it_has_in_hand(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        queue: AsyncQueue[int] = await client.queue(name)
        async with queue.producer(chunk_items=5) as out:
            await out.put_many(range(10))
        reached = asyncio.Event()

        async def read() -> None:
            async with queue.consumer() as consumer:
                async for n in consumer:
                    if n == 3:
                        reached.set()
                        await asyncio.sleep(600)

        task = asyncio.create_task(read())
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        status = await queue.status()
        assert (status.leased, status.started, status.done) == (0, 0, 3)
        assert [n async for n in queue] == list(range(3, 10))


@on_a_loop
async def test_a_consumer_may_say_that_an_item_is_done_before_it_asks_for_the_next(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        queue: AsyncQueue[int] = await client.queue(name)
        async with queue.producer(chunk_items=1) as out:
            await out.put_many([1, 2])
        with contextlib.suppress(ZeroDivisionError):
            async with queue.consumer() as consumer:
                assert await consumer.get(timeout=30) == 1
                await consumer.done()
                await consumer.done()  # it is
                assert (await queue.status()).done == 1
                assert await consumer.get() == 2
                raise ZeroDivisionError
        assert [n async for n in queue] == [2]


@on_a_loop
async def test_a_loop_that_is_cancelled_while_it_waits_holds_nothing(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        queue: AsyncQueue[int] = await client.queue(name)

        async def read() -> None:
            async for _ in queue:
                pass

        tasks = [asyncio.create_task(read()) for _ in range(5)]

        async def there() -> bool:
            return (await queue.status()).started == 5

        await until(there, "the consumers")
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

        async def gone() -> bool:
            return (await queue.status()).started == 0

        await until(gone, "the consumers' tickets to be given back")
        with pytest.raises(errors.Empty):
            await queue.consumer().get(timeout=0.05)


@on_a_loop
async def test_the_garbage_collector_may_find_one_while_other_work_is_handed_in(
    lonely: Cluster, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(lonely) as client:
        queue = await client.queue(name)
        async with queue.producer() as out:
            await out.put_many([1, 2])
            await out.flush()
            left: Any = queue.consumer()
            assert await left.get() == 1
            cycle = [left]
            cycle.append(cycle)
            del left, cycle
            made = Future.__init__

            def collecting(future: Future[Any]) -> None:
                monkeypatch.undo()
                gc.collect()
                made(future)

            monkeypatch.setattr(Future, "__init__", collecting)
            await queue.status()  # in whose way it was: handing in work holds a lock

            async def is_left() -> bool:
                return not (await queue.status()).leased

            await until(is_left, "the consumer to be closed")


@on_a_loop
async def test_a_loop_that_is_cancelled_at_an_item_gives_back_what_is_behind_it(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        queue: AsyncQueue[int] = await client.queue(name)
        async with queue.producer(chunk_items=5) as out:
            await out.put_many(range(5))
        reached = asyncio.Event()

        async def read() -> None:
            async for n in queue:
                if n == 2:
                    reached.set()
                    await asyncio.sleep(600)

        task = asyncio.create_task(read())
        await reached.wait()
        task.cancel()
        await asyncio.wait([task])
        assert [n async for n in queue] == [3, 4]


@pytest.mark.parametrize("delay_ms", [0, 1, 2, 3, 5, 8])
@on_a_loop
async def test_a_get_that_is_cancelled_at_any_time_loses_nothing(lonely: Cluster, name: str, delay_ms: int) -> None:
    async with client_of(lonely) as client:
        queue: AsyncQueue[int] = await client.queue(name)
        async with queue.producer(chunk_items=1) as out:
            await out.put_many(range(20))
        got: list[int] = []
        async with queue.consumer() as consumer:
            while True:
                task = asyncio.ensure_future(consumer.get())
                await asyncio.sleep(delay_ms / 1000)
                task.cancel()
                try:
                    got.append(await task)
                except asyncio.CancelledError:
                    try:
                        got.append(await consumer.get())
                    except StopAsyncIteration:
                        break
                except StopAsyncIteration:
                    break
        assert got == list(range(20))


@on_a_loop
async def test_a_put_waits_for_room_and_puts_nothing_where_it_is_cancelled(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        queue: AsyncQueue[int] = await client.queue(name, maxsize=3)
        async with queue.producer() as out:
            await out.put_many(range(3))
            await out.flush()
            with pytest.raises(errors.Full):
                await out.put(3, timeout=0.05)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await out.put(4)
            waiting = asyncio.create_task(out.put(5))
            async with queue.consumer() as consumer:
                assert [await consumer.get() for _ in range(3)] == [0, 1, 2]
                got = asyncio.create_task(consumer.get())
                await waiting
                assert await got == 5
            assert out.position == 4


@on_a_loop
async def test_putting_many_leaves_turns_to_others(lonely: Cluster, name: str) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with client_of(lonely) as client:
        queue = await client.queue(name)
        async with queue.producer() as out:
            task = asyncio.create_task(other())
            await out.put_many(range(20_000))
            during = turns
            task.cancel()
        assert during > 1


@on_a_loop
async def test_a_producer_that_is_cancelled_was_lost(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        queue: AsyncQueue[int] = await client.queue(name)
        began = asyncio.Event()

        async def work() -> None:
            async with queue.producer("camera") as out:
                await out.put(1)
                began.set()
                await asyncio.sleep(600)

        task = asyncio.create_task(work())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await queue.status()).put == 1
        items = aiter(queue)
        assert await anext(items) == 1
        with pytest.raises(errors.ProducerLost, match="camera"):
            await anext(items)


@on_a_loop
async def test_waits_hold_no_threads(lonely: Cluster, names: Callable[[], str]) -> None:
    async with client_of(lonely) as client:
        queues = [await client.queue(names()) for _ in range(30)]
        before = threading.active_count()
        joins = [asyncio.create_task(queue.join(60)) for queue in queues for _ in range(5)]
        reads = [asyncio.create_task(anext(aiter(queue), None)) for queue in queues]  # type: ignore[arg-type]
        calls = [client.submit_to("nobody", square, n) for n in range(500)]

        async def all_wait() -> bool:
            return [(await queue.status()).started for queue in queues] == [1] * 30

        await until(all_wait, "the consumers")
        assert threading.active_count() - before < 10
        for queue in queues:
            await queue.seal()
        assert {status.state for status in await asyncio.gather(*joins)} == {"DRAINED"}
        assert await asyncio.gather(*reads) == [None] * 30
        for call in calls:
            call.cancel()


@on_a_loop
async def test_a_wait_that_is_cancelled_at_any_time_ends(lonely: Cluster, name: str) -> None:
    delays = random.Random(4)
    async with client_of(lonely) as client:
        queue = await client.queue(name)
        for _ in range(200):
            waiting = asyncio.create_task(queue.join())
            await asyncio.sleep(delays.random() * 0.012)
            waiting.cancel()
            await asyncio.wait([waiting], timeout=30)
            assert waiting.cancelled()


@on_a_loop
async def test_dead_letters(cluster: Cluster, name: str) -> None:
    async with client_of(cluster) as client:
        queue = await client.queue(name, odd_only)
        await put(queue, [1, 2, 3, 4])
        with pytest.raises(errors.DeadLetters):
            await queue.join(60)
        letters = [letter async for letter in queue.dead_letters()]
        assert sorted(letter.value for letter in letters) == [2, 4]
        assert await queue.dead_items() == sorted(letter.item for letter in letters)
        assert (await queue.dead_letter(letters[0].item)).value == letters[0].value
        assert await queue.drop_dead(letters[0]) == 1
        assert await queue.retry_dead() == 1
        with pytest.raises(errors.DeadLetters):
            await queue.join(60)


@on_a_loop
async def test_waits_say_what_they_wait_for(lonely: Cluster, name: str) -> None:
    async with client_of(lonely) as client:
        queue = await client.queue(name, square)
        with pytest.raises(errors.WaitTimeout, match="no producer has come yet"):
            await queue.join(0.05)
        with pytest.raises(errors.WaitTimeout, match="no producer has come yet"):
            await anext(queue.results(timeout=0.05))
        assert (await queue.cancel()).state == "CANCELLED"
        with pytest.raises(errors.QueueCancelled):
            await queue.join(5)
        with pytest.raises(errors.QueueHasFunction):
            queue.consumer()
        token = await (await client.queue(f"{name}-2")).producer_token()
        assert token.startswith("token-")
        with pytest.raises(errors.UnknownJob):
            await (await client.job("no such job")).wait()


# The client


@on_a_loop
async def test_a_private_server_and_workers() -> None:
    async with AsyncClient(slots=1) as client:
        assert await client.submit(square, 3) == 9
        assert sum(worker.slots for worker in await client.workers()) == 1


def test_a_client_is_of_one_loop(cluster: Cluster) -> None:
    client = client_of(cluster)

    async def use() -> int:
        return int(await client.submit(square, 3))

    async def close() -> None:
        await client.aclose()

    async def main() -> None:
        assert await use() == 9
        with pytest.raises(errors.ConfigError, match="event loop"):
            await asyncio.to_thread(asyncio.run, use())
        await close()
        with pytest.raises(errors.ClientClosed):
            await use()

    asyncio.run(main())


@on_a_loop
async def test_leaving_the_client_waits_for_calls_that_are_out(cluster: Cluster) -> None:
    async with client_of(cluster) as client:
        futures = [client.submit(nap, n) for n in range(20)]
    assert [future.result() for future in futures] == [n * n for n in range(20)]


@on_a_loop
async def test_leaving_the_client_does_not_wait_for_calls_that_were_cancelled(
    cluster: Cluster, name: str, tmp_path: Path
) -> None:
    gate = Gate(cluster.url, name)
    async with asyncio.timeout(30):
        async with client_of(cluster) as client:
            running = client.submit(gate, 1), client.submit_to("io", until_cancelled, str(tmp_path))
            await asyncio.to_thread(gate.begun)
            await until_there(tmp_path / "began")
            for future in running:
                future.cancel()
        gate.open()  # until now it runs
        await until_there(tmp_path / "cancelled")


@on_a_loop
async def test_leaving_the_client_waits_for_those_beside_them(cluster: Cluster, name: str, tmp_path: Path) -> None:
    async with asyncio.timeout(30), client_of(cluster) as other:
        async with client_of(cluster) as client:
            kept = client.submit_to("io", wait_for, name)
            cancelled = client.submit_to("io", until_cancelled, str(tmp_path))
            await until_there(tmp_path / "began")
            cancelled.cancel()
            closing = asyncio.create_task(client.aclose())
            await other.submit_to("io", let_go, name)
            await closing
        assert kept.result() == name
        await until_there(tmp_path / "cancelled")


@on_a_loop
async def test_an_error_in_its_block_cancels_them(cluster: Cluster) -> None:
    with contextlib.suppress(KeyError):
        async with client_of(cluster) as client:
            future = client.submit_to("nobody", square, 3)
            await asyncio.sleep(0.05)
            raise KeyError
    with pytest.raises((asyncio.CancelledError, errors.QueueCancelled)):
        await future


@on_a_loop
async def test_no_server_is_told() -> None:
    with pytest.raises(errors.ServerUnreachable):
        async with AsyncClient("redis://127.0.0.1:1/0", "some key of sixteen bytes"):
            pass


@on_a_loop
async def test_a_wait_that_blocks_the_loop_is_told(cluster: Cluster) -> None:
    with Client(cluster.url, cluster.key) as client:
        queue = client.queue("blocking", reopen=True)
        queue.seal()
        with pytest.warns(RuntimeWarning, match="blocks the event loop that it is called in: use AsyncClient"):
            queue.join(5)
