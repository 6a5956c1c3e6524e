"""async def functions: many at a time in a slot, each with its own outcome, on every pool of Celery's."""

from __future__ import annotations

import asyncio
import functools
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastcall import Client, Executor, Pool, errors, task
from tests import coroutines
from tests.conftest import Cluster, start_server
from tests.workers import Worker, until

pytestmark = pytest.mark.integration

KEY = "a key for coroutines"


@pytest.fixture(scope="module")
def one() -> Iterator[Cluster]:
    """A worker with one slot."""
    server = start_server(tcp=False)
    with Worker(server.unix_url, KEY, "one", queues="one", slots=1) as worker:
        worker.ready()
        yield Cluster(server, server.unix_url, KEY, (worker,))
    server.close()


@pytest.fixture
def client(one: Cluster) -> Iterator[Client]:
    with one.client() as client:
        yield client


def results(client: Client, function: Any, items: Any, **options: Any) -> list[Any]:
    return list(client.map(function, items, workers="one", timeout=60, **options))


def test_hundreds_of_items_of_a_map_run_in_one_slot_at_the_same_time(client: Client) -> None:
    assert len(set(results(client, coroutines.meet, [400] * 800))) == 1


def test_chunks_of_one_run_beside_one_another_too(client: Client) -> None:
    assert len(set(results(client, coroutines.meet, [100] * 200, chunksize=1))) == 1


def test_those_that_compute_too_are_shared_by_processes(cluster: Cluster) -> None:
    with cluster.client() as client:
        ran = list(client.map(coroutines.computes, range(200)))
    assert min(Counter(ran).values()) >= 50
    assert len(set(ran)) == 2


def test_a_thousand_come_in_the_order_of_the_input(client: Client) -> None:
    assert results(client, coroutines.nap, range(1000)) == [n * n for n in range(1000)]


def test_items_of_a_queue_run_at_the_same_time(client: Client, name: str) -> None:
    queue = client.queue(name, coroutines.meet, workers="one")
    with queue.producer() as out:
        out.put_many([90] * 180)
    assert queue.join(60).done == 180


def test_calls_run_at_the_same_time(client: Client) -> None:
    futures = [client.submit_to("one", coroutines.meet, 60) for _ in range(120)]
    assert len({future.result(60) for future in futures}) == 1


def test_a_call_is_begun_and_done_while_others_run(client: Client, name: str) -> None:
    waiting = [client.submit_to("one", coroutines.wait_for, name) for _ in range(5)]
    assert client.submit_to("one", coroutines.nap, 4).result(60) == 16
    assert not any(future.done() for future in waiting)
    client.submit_to("one", coroutines.let_go, name)
    assert [future.result(60) for future in waiting] == [name] * 5


@pytest.mark.parametrize("chunksize", [None, 1, 10])
def test_no_more_than_concurrency_says_run_at_a_time(client: Client, chunksize: int | None) -> None:
    assert max(results(client, coroutines.crowd, range(60), concurrency=3, chunksize=chunksize)) == 3


def test_task_says_how_many_calls_of_a_function_run_at_a_time(client: Client) -> None:
    futures = [client.submit_to("one", coroutines.few_at_a_time, n) for n in range(20)]
    assert max(future.result(60) for future in futures) == 2


def test_concurrency_is_of_coroutines_alone(client: Client) -> None:
    with pytest.raises(errors.ConfigError, match="concurrency must be given with an `async def` function"):
        client.map(len, ["abc"], concurrency=3)
    with pytest.raises(errors.ConfigError, match="concurrency must be"):
        task(concurrency=3)(len)
    with pytest.raises(errors.ConfigError, match="concurrency must be"):
        client.map(coroutines.nap, [1], concurrency=0)


@pytest.mark.parametrize(
    "function",
    [coroutines.Scaled(3), coroutines.Scaled(3).method, functools.partial(coroutines.Scaled(3)), None],
    ids=["an object", "a method", "a partial", "by value"],
)
def test_whatever_is_called_may_be_a_coroutine(client: Client, function: Any) -> None:
    async def local(n: int) -> int:
        return n * 3

    assert results(client, function or local, range(5)) == [0, 3, 6, 9, 12]
    assert client.submit_to("one", function or local, 7).result(60) == 21


def test_several_iterables_are_arguments(client: Client) -> None:
    async def power(base: int, exponent: int) -> int:
        return int(base**exponent)

    assert list(client.map(power, [2, 3], [4, 2], workers="one", timeout=60)) == [16, 9]


def test_current_is_of_each_coroutine(client: Client) -> None:
    got = results(client, coroutines.which, range(100), chunksize=25)
    assert got == [(f"1-{1 + n // 25}#{n % 25}", 1) for n in range(100)]


def test_errors_are_of_their_items(client: Client, name: str) -> None:
    queue = client.queue(name, coroutines.odd, workers="one")
    with queue.producer() as out:
        out.put_many(range(20))
    with pytest.raises(errors.DeadLetters):
        queue.join(60)
    assert sorted(queue.results()) == list(range(1, 20, 2))
    assert sorted(letter.value for letter in queue.dead_letters()) == list(range(0, 20, 2))
    assert {type(letter.error) for letter in queue.dead_letters()} == {ValueError}


def test_an_item_that_raises_is_tried_again_alone(client: Client) -> None:
    got = results(client, coroutines.third_time_lucky, range(6), retries=2, backoff_s=0.01)
    assert got == [1, 1, 1, 3, 1, 1]


@pytest.mark.parametrize("function", [coroutines.too_long, coroutines.blocks_the_loop, coroutines.deaf])
def test_an_item_that_takes_too_long_ends_alone(client: Client, name: str, function: Any) -> None:
    queue = client.queue(name, function, workers="one", timeout=0.5)
    with queue.producer(chunk_items=3) as out:
        out.put_many(range(12))
    with pytest.raises(errors.DeadLetters):
        queue.join(60)
    (letter,) = queue.dead_letters()
    assert letter.value == 3
    assert isinstance(letter.error, errors.ItemTimeout)
    assert sorted(queue.results()) == [n for n in range(12) if n != 3]


def test_a_call_that_takes_too_long_raises(client: Client) -> None:
    assert task(timeout=0.2)(coroutines.too_long) is coroutines.too_long
    futures = [client.submit_to("one", coroutines.too_long, n) for n in range(5)]
    assert [future.result(60) for future in futures if future is not futures[3]] == [0, 1, 2, 4]
    assert isinstance(futures[3].exception(60), errors.ItemTimeout)


def test_what_ran_in_a_process_that_is_killed_runs_again(client: Client) -> None:
    assert results(client, coroutines.killed_once, range(40), chunksize=4) == list(range(40))


def test_a_coroutine_does_not_end_its_process(client: Client, name: str) -> None:
    queue = client.queue(name, coroutines.exits, workers="one", on_error="return")
    with queue.producer() as out:
        out.put_many(range(5))
    queue.join(60)
    with pytest.raises(RuntimeError, match="ended its event loop"):
        list(queue.results())


def test_a_queue_that_is_cancelled_cancels_its_coroutines(client: Client, name: str, tmp_path: Path) -> None:
    queue = client.queue(name, coroutines.until_cancelled, workers="one")
    with queue.producer() as out:
        out.put(str(tmp_path))
    until((tmp_path / "began").exists, "it to begin")
    queue.cancel()
    until((tmp_path / "cancelled").exists, "it to be cancelled")


def test_the_loop_is_kept(client: Client) -> None:
    assert len({*results(client, coroutines.same_loop, [1, 2]), *results(client, coroutines.same_loop, [3])}) == 1


@pytest.mark.parametrize("function", [coroutines.squares_of, coroutines.joined])
def test_coroutines_in_the_only_slot_may_wait_for_work(client: Client, function: Any) -> None:
    got = [client.submit_to("one", function, n, "one") for n in range(10, 15)]
    expected = [sum(k * k for k in range(n)) if function is coroutines.squares_of else n for n in range(10, 15)]
    assert [future.result(100) for future in got] == expected


def test_coroutines_that_wait_for_coroutines_end_however_deep(client: Client) -> None:
    assert client.submit_to("one", coroutines.tower, 6, "one").result(100) == 6


def test_a_coroutine_that_waits_by_blocking_is_told(client: Client) -> None:
    with pytest.raises(errors.BlocksLoop, match="use AsyncClient"):
        client.submit_to("one", coroutines.waits_by_blocking, 3, "one").result(60)


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_other_pools_run_coroutines_at_the_same_time(one: Cluster, pool: str) -> None:
    slots = 1 if pool == "solo" else 2
    with Worker(one.url, KEY, pool, queues=pool, pool=pool, slots=slots) as worker, one.client() as client:
        worker.ready()
        got = list(client.map(coroutines.meet, [60] * 120, workers=pool, max_workers=1, timeout=60))
        assert len(set(got)) == 1
        futures = [client.submit_to(pool, coroutines.nap, n) for n in range(50)]
        assert [future.result(60) for future in futures] == [n * n for n in range(50)]
        assert len(set(client.map(coroutines.same_loop, range(40), chunksize=1, workers=pool, timeout=60))) == 1
        # What both use, plain functions beside coroutines, each reaches by a connection that it may use.
        counter = client.counter(f"of-{pool}")
        kinds = [coroutines.counts, coroutines.counts_in_a_loop] * 60
        futures = [client.submit_to(pool, kind, counter) for kind in kinds]
        assert sorted(future.result(60) for future in futures) == list(range(1, 121))


def test_a_worker_that_is_told_to_leave_finishes_what_runs(one: Cluster, name: str) -> None:
    with Worker(one.url, KEY, "leaving", queues="leaving", slots=1) as worker, one.client() as client:
        worker.ready()
        queue = client.queue(name, coroutines.a_second, workers="leaving")
        with queue.producer() as out:
            out.put_many(range(30))
        until(lambda: queue.status().leased == 30, "the items to run")
        worker.tell(signal.SIGTERM)
        assert worker.wait() == 0
        assert queue.join(10).done == 30


@pytest.mark.parametrize("chunksize", [1, 3])
def test_calls_in_an_executor_may_be_coroutines(client: Client, chunksize: int) -> None:
    with Executor(client=client, workers="one") as executor:
        assert list(executor.map(coroutines.nap, range(5), chunksize=chunksize)) == [0, 1, 4, 9, 16]


def test_calls_in_a_pool_may_be_coroutines(cluster: Cluster) -> None:
    with cluster.client() as client, Pool(2, client=client) as pool:
        assert pool.map(coroutines.nap, range(5)) == [0, 1, 4, 9, 16]
        assert pool.apply(coroutines.nap, (7,)) == 49
        assert pool.starmap(coroutines.nap, [(2,), (3,)]) == [4, 9]


def test_the_callers_own_loop_does_not_matter(one: Cluster) -> None:
    async def main() -> list[int]:
        with one.client() as client, pytest.warns(RuntimeWarning, match="blocks the event loop"):
            return results(client, coroutines.a_second, range(3))  # so that there is a wait

    assert asyncio.run(main()) == [0, 1, 2]


def test_without_a_key_tasks_may_be_coroutines() -> None:
    server = start_server(tcp=False)
    options = ("-I", "tests.coroutines")
    with Worker(server.unix_url, None, "open", queues="open", slots=1, options=options) as worker:
        worker.ready()
        with Client(server.unix_url) as client:
            futures = [client.submit_to("open", coroutines.few_at_a_time, n) for n in range(10)]
            assert max(future.result(60) for future in futures) == 2
            assert max(client.map(coroutines.few_at_a_time, range(10), workers="open", timeout=60)) == 2
    server.close()
