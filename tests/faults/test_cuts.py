"""The connection is cut at a script: was it applied? Before it is passed on it was not; after that, and in the middle
of its reply, it was. The caller cannot know, asks again, and the ledger's answer is right either way.

Leases here are of a minute, so that what came back only with its lease would be missed.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import redis

from lastcall import Client
from lastcall.errors import ProducerLost
from lastcall.state import keys
from tests.faults.conftest import Service
from tests.functions import square
from tests.proxy import Command, How, Proxy, runs
from tests.workers import until

pytestmark = [pytest.mark.faults, pytest.mark.parametrize("how", ["before", "after", "middle"])]

SOON_S = 30.0  # half a lease

# Once is borne by the connection's own retries, five times by lastcall's waits.
often = pytest.mark.parametrize("times", [1, 5])


@pytest.fixture(scope="module")
def shared(services: Callable[..., Service]) -> Service:
    return services(lease_s=60.0, persistent=True)


@pytest.fixture
def proxy(shared: Service) -> Iterator[Proxy]:
    with Proxy(shared.server.port) as proxy:
        yield proxy


@pytest.fixture
def client(shared: Service, proxy: Proxy) -> Client:
    """A client by way of the proxy."""
    return shared.client(proxy.url(shared.url))


def test_create_makes_one_queue(shared: Service, proxy: Proxy, client: Client, name: str, how: How) -> None:
    cut = proxy.cut(runs("create"), how)
    queue = client.queue(name)
    assert cut.happened.wait(SOON_S)
    assert queue.status().epoch == 1
    admin = shared.server.client()
    assert admin.hget(keys.of_job(name, "job"), "open") == b"1"
    queue.producer("camera").close()
    assert list(queue) == []
    cut = proxy.cut(runs("create"), how)
    assert client.queue(name, reopen=True).status().epoch == 2
    assert cut.happened.wait(SOON_S)
    assert admin.hget(keys.of_job(name, "job"), "open") == b"1"
    queue.cancel()


def test_join_counts_a_producer_once(proxy: Proxy, client: Client, name: str, how: How) -> None:
    queue = client.queue(name, producers=2)
    cut = proxy.cut(runs("join"), how)
    with queue.producer("camera") as out:
        assert cut.happened.wait(SOON_S)
        status = queue.status()
        assert (status.live, [one.name for one in status.producers]) == (1, ["camera"])
        assert out.place == 1
        out.put("bun")  # the lease that it was told of is the one that counts
    assert queue.status().state == "OPEN"  # one of two has come
    with queue.producer("second") as second:
        assert second.place == 2
    assert list(queue) == ["bun"]


@often
def test_put_loses_no_item_and_doubles_none(proxy: Proxy, client: Client, name: str, how: How, times: int) -> None:
    queue = client.queue(name)
    with queue.producer("camera") as out:
        out.put("first")
        out.flush()
        cut = proxy.cut(runs("put"), how, times=times)
        out.put_many(range(100))
        out.flush(SOON_S)
        assert cut.happened.is_set()
        assert out.position == 101
    assert list(queue) == ["first", *range(100)]


@often
@pytest.mark.parametrize("part", ["claim", "complete"])
def test_next_forgets_no_chunk_and_completes_each_once(
    proxy: Proxy, client: Client, name: str, how: How, times: int, part: str
) -> None:
    queue = client.queue(name)
    with queue.producer("camera", chunk_items=1) as out:
        out.put_many(range(6))

    def is_it(argv: Command) -> bool:
        return (argv[7] != b"0") == (part == "complete")  # the number of completions

    cut = proxy.cut(runs("next", is_it), how, times=times)
    began = time.monotonic()
    assert list(queue) == list(range(6))
    assert cut.happened.is_set()
    assert time.monotonic() - began < SOON_S
    status = queue.status()
    assert (status.state, status.done, status.put) == ("DRAINED", 6, 6)


@often
def test_an_end_that_is_not_drained_is_told_all_the_same(
    proxy: Proxy, client: Client, name: str, how: How, times: int
) -> None:
    queue, numbers = client.queue(name), client.queue(f"{name}-numbers", square)
    for one in (queue, numbers):
        one.producer("camera").abandon()
    for read in (lambda: list(queue), lambda: list(numbers.results(timeout=SOON_S))):
        cut = proxy.cut(runs("status"), how, times=times)
        with pytest.raises(ProducerLost, match="camera"):
            read()
        assert cut.happened.wait(SOON_S)


def test_enroll_takes_out_one_ticket(proxy: Proxy, client: Client, name: str, how: How) -> None:
    queue = client.queue(name)
    with queue.producer() as out, queue.consumer() as consumer:
        out.put(1)
        cut = proxy.cut(runs("enroll"), how)
        assert consumer.get(SOON_S) == 1
        assert cut.happened.is_set()
        assert queue.status().tickets == 1


@often
def test_leave_counts_a_producer_out_once(proxy: Proxy, client: Client, name: str, how: How, times: int) -> None:
    queue = client.queue(name)
    first, second = queue.producer("first"), queue.producer("second")
    first.put(1)
    cut = proxy.cut(runs("leave"), how, times=times)
    first.close()
    assert cut.happened.wait(SOON_S)
    assert (queue.status().live, queue.status().state) == (1, "OPEN")
    cut = proxy.cut(runs("leave"), how)
    second.close()  # the last one, which seals it
    assert cut.happened.wait(SOON_S)
    assert queue.status().state == "SEALED"
    assert list(queue) == [1]


def test_release_gives_a_chunk_back_once(proxy: Proxy, client: Client, name: str, how: How) -> None:
    queue = client.queue(name)
    with queue.producer(chunk_items=4) as out:
        out.put_many(range(8))
    cut = proxy.cut(runs("release"), how)
    with queue.consumer() as consumer:
        assert [consumer.get(SOON_S) for _ in range(2)] == [0, 1]
    assert cut.happened.wait(SOON_S)
    assert (queue.status().ready, queue.status().done) == (6, 2)
    assert list(queue) == list(range(2, 8))


@often
def test_renew_keeps_the_leases(
    shared: Service, proxy: Proxy, name: str, how: How, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    client = shared.client(proxy.url(shared.url), lease_s=20.0, reap_s=0.2)  # it beats as often as it reaps
    queue = client.queue(name)
    with queue.producer("camera") as out, queue.consumer() as consumer:
        out.put(1)
        assert consumer.get(SOON_S) == 1
        cut = proxy.cut(runs("renew"), how, times=times)
        assert cut.happened.wait(SOON_S)
        client._connection.heart.beaten.clear()
        assert client._connection.heart.beaten.wait(SOON_S)
        assert [one.state for one in queue.status().producers] == ["live"]
        out.put(2)
        assert consumer.get(SOON_S) == 2


# With a worker


@pytest.fixture(scope="module")
def worker_proxy(shared: Service) -> Proxy:
    """What a worker goes through."""
    proxy = shared.proxy()
    shared.worker("cut", url=proxy.url(shared.url), slots=2)
    return proxy


@often
def test_ack_counts_what_was_read_once(
    shared: Service, worker_proxy: Proxy, proxy: Proxy, client: Client, name: str, how: How, times: int
) -> None:
    queue = client.queue(name, square, maxsize=20, results="once")
    cut = proxy.cut(runs("ack"), how, times=times)
    with queue.producer(chunk_items=2) as out:
        results = queue.results(timeout=SOON_S)
        for start in range(0, 100, 10):
            out.put_many(range(start, start + 10))
            for _ in range(10):
                next(results)
    assert cut.happened.wait(SOON_S)
    assert list(results) == []
    status = queue.status()
    assert (status.state, status.unread) == ("DRAINED", 0)


def count(redis_url: str, job: str, n: int) -> int:
    """Note that `n` was run."""
    with redis.Redis.from_url(redis_url) as server:
        server.hincrby(f"test:{job}", str(n), 1)
    return n


def test_slots_lose_nothing_and_run_nothing_twice(shared: Service, worker_proxy: Proxy, name: str, how: How) -> None:
    client = shared.client()
    began = time.monotonic()
    cut = worker_proxy.cut(runs("next"), how, nth=3, times=8)
    function = functools.partial(count, shared.server.unix_url, name)
    assert list(client.map(function, range(200), chunksize=2, timeout=SOON_S)) == list(range(200))
    until(lambda: cut.happened.is_set() or list(client.map(square, range(4))), "the cuts")
    assert time.monotonic() - began < SOON_S
    runs_of = shared.server.client().hgetall(f"test:{name}")
    assert Counter(int(n) for n in runs_of.values()) == {1: 200}
