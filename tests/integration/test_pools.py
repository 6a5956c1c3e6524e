"""The four pools, each by both commands: a map and a queue run through; and workers that come and go."""

from __future__ import annotations

import importlib.util
import itertools
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

import lastcall
from lastcall import Client
from tests import functions
from tests.conftest import Cluster, start_server
from tests.functions import Gate, produce, square
from tests.workers import CELERY, LASTCALL, Worker, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

KEY = "a key for the pools 0123456789"
COMMANDS = {"celery": CELERY, "lastcall": (*LASTCALL, "worker")}
POOLS = {"prefork": 2, "threads": 3, "solo": 1, "gevent": 5}
HAS_GEVENT = importlib.util.find_spec("gevent") is not None


@pytest.fixture(scope="module")
def pools() -> Iterator[Cluster]:
    """A worker for each pool and command, each with a Celery queue of its own; all are started at once."""
    server = start_server(tcp=False)
    workers = []
    try:
        for (pool, slots), (by, command) in itertools.product(POOLS.items(), COMMANDS.items()):
            if pool != "gevent" or HAS_GEVENT:
                node = f"{pool}-{by}"
                workers.append(Worker(server.unix_url, KEY, node, queues=node, pool=pool, slots=slots, command=command))
        for worker in workers:
            info = worker.ready()
            assert info.queues == (worker.node.removesuffix("@test"),)
            assert info.slots == POOLS[info.queues[0].partition("-")[0]]
        yield Cluster(server, server.unix_url, KEY, tuple(workers))
    finally:
        for worker in workers:
            worker.kill()
        server.close()


@pytest.fixture
def client(pools: Cluster) -> Iterator[Client]:
    with pools.client() as client:
        yield client


@pytest.fixture(params=[f"{pool}-{by}" for pool, by in itertools.product(POOLS, COMMANDS)])
def celery_queue(request: pytest.FixtureRequest) -> str:
    queue = str(request.param)
    if queue.startswith("gevent") and not HAS_GEVENT:
        pytest.skip("gevent is not installed: pip install 'lastcall[gevent]'")
    return queue


def test_each_pool_maps(client: Client, celery_queue: str) -> None:
    assert list(client.map(square, range(2_000), workers=celery_queue)) == [n * n for n in range(2_000)]


def test_each_pool_runs_a_queue_until_it_is_drained(client: Client, celery_queue: str) -> None:
    queue = client.queue(celery_queue, square, workers=celery_queue, maxsize=50)
    produce(queue, "counter", list(range(300)))
    assert queue.join(60).done == 300
    assert sorted(queue.results()) == [n * n for n in range(300)]


def test_each_pool_answers_calls_and_errors(client: Client, celery_queue: str) -> None:
    futures = [client.submit_to(celery_queue, functions.odd_only, n) for n in (1, 2)]
    assert futures[0].result(30) == 1
    with pytest.raises(ValueError, match="2 is even"):
        futures[1].result(30)


def test_each_pool_runs_an_initializer_once_in_each_process_or_thread(client: Client, celery_queue: str) -> None:
    class Here(lastcall.Pool):
        _workers = celery_queue

    with Here(None, functions.set_up, (celery_queue,), client=client) as pool:
        seen = dict(pool.map(functions.times_set_up, [celery_queue] * 40, 1))
    kind = celery_queue.partition("-")[0]
    most = POOLS[kind] if kind == "threads" else 1
    assert all(1 <= times <= most for times in seen.values())
    assert len(seen) <= (POOLS[kind] if kind == "prefork" else 1)


def test_each_pool_replaces_its_processes_or_warns(client: Client, celery_queue: str) -> None:
    class Here(lastcall.Pool):
        _workers = celery_queue

    prefork = celery_queue.startswith("prefork")
    with nullcontext() if prefork else pytest.warns(UserWarning, match="maxtasksperchild=2 is of no effect"):
        pool = Here(None, maxtasksperchild=2, client=client)
    with pool:
        runs = Counter(pid for pid, _ in pool.map(functions.where, range(8), 1))
    assert sum(runs.values()) == 8
    assert (max(runs.values()) <= 2) == prefork


def test_each_pool_fills_its_slots(client: Client, pools: Cluster, celery_queue: str) -> None:
    slots, gate = POOLS[celery_queue.partition("-")[0]], Gate(pools.url, celery_queue)
    results = client.map(gate, range(slots + 2), workers=celery_queue, chunksize=1)
    gate.begun(slots)
    (status,) = client.job(results.job).status()
    assert status.leased == slots
    gate.open(slots + 2)
    assert list(results) == list(range(slots + 2))


def test_a_worker_that_joins_in_the_middle_gets_work(client: Client, pools: Cluster) -> None:
    gate = Gate(pools.url, "joins")
    first = Worker(pools.url, KEY, "joins-1", queues="joins", pool="solo", slots=1)
    with first:
        first.ready()
        results = client.map(gate, range(6), workers="joins", chunksize=1)
        gate.begun(1)
        with Worker(pools.url, KEY, "joins-2", queues="joins", pool="threads", slots=2) as second:
            second.ready()
            gate.begun(2)  # those of the second, while the first is held
            got: list[int] = []
            reading = threading.Thread(target=lambda: got.extend(results))
            reading.start()
            gate.open(6)
            reading.join(60)
            assert got == list(range(6))


def test_a_queue_may_be_there_before_its_worker(client: Client, pools: Cluster) -> None:
    queue = client.queue("early", square, workers="early")
    produce(queue, None, list(range(20)))
    assert queue.status().ready == 20
    with Worker(pools.url, KEY, "early", queues="early", pool="solo", slots=1):
        assert queue.join(60).done == 20


def test_a_worker_that_leaves_finishes_what_it_runs_and_the_rest_goes_to_others(client: Client, pools: Cluster) -> None:
    gate = Gate(pools.url, "leaves")
    queue = client.queue("leaves", gate, workers="leaves")
    short = {"LASTCALL_SLICE_S": "0.01"}  # a slot goes on until its time slice is over
    with Worker(pools.url, KEY, "leaves-1", queues="leaves", pool="threads", slots=1, more=short) as leaving:
        leaving.ready()
        with queue.producer(chunk_items=1) as out:
            out.put_many(range(3))
        gate.begun(1)
        leaving.tell(signal.SIGTERM)
        until(lambda: leaving.info() is None, "it to take no more")
        gate.open(1)
        assert leaving.wait() == 0
        assert queue.status().done == 1
        gate.open(2)
        with Worker(pools.url, KEY, "leaves-2", queues="leaves", pool="solo", slots=1):
            assert queue.join(60).done == 3
