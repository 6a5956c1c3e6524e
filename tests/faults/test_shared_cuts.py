"""The connection is cut at a script of a shared thing: it is sent again, and takes effect once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lastcall import Client
from tests.faults.conftest import Service
from tests.proxy import How, Proxy, runs

pytestmark = [pytest.mark.faults, pytest.mark.parametrize("how", ["before", "after", "middle"])]

SOON_S = 30.0


@pytest.fixture(scope="module")
def service(services: Callable[..., Service]) -> Service:
    return services(lease_s=60.0)


@pytest.fixture
def proxy(service: Service) -> Iterator[Proxy]:
    with Proxy(service.server.port) as proxy:
        yield proxy


@pytest.fixture
def client(service: Service, proxy: Proxy) -> Client:
    """A client by way of the proxy."""
    return service.client(proxy.url(service.url))


def counted(client: Client, name: str) -> Any:
    counter = client.counter(name, 1)
    return "count", lambda: counter.add(4), 5, lambda: counter.value, 5


def appended(client: Client, name: str) -> Any:
    items = client.shared_list(name)
    return "edit", lambda: items.extend([1, 2]), None, items.copy, [1, 2]


def inserted(client: Client, name: str) -> Any:
    items = client.shared_list(name)
    items.append(2)
    return "edit", lambda: items.insert(0, 1), None, items.copy, [1, 2]


def popped(client: Client, name: str) -> Any:
    d = client.shared_dict(name)
    d.update(a=1, b=2)
    return "take", d.popitem, ("b", 2), d.copy, {"a": 1}


def put_by_default(client: Client, name: str) -> Any:
    d = client.shared_dict(name)
    return "store", lambda: d.setdefault("a", 1), 1, d.copy, {"a": 1}


def updated(client: Client, name: str) -> Any:
    value = client.value(name, 1)
    return "swap", lambda: value.update(lambda n: n + 1), 2, value.get, 2


def acquired(client: Client, name: str) -> Any:
    semaphore = client.semaphore(name, 2)
    return "hold", semaphore.acquire, True, lambda: len(semaphore.holders()), 1


def released(client: Client, name: str) -> Any:
    lock = client.lock(name)
    lock.acquire()
    return "letgo", lock.release, None, lock.locked, False


def raised(client: Client, name: str) -> Any:
    semaphore = client.semaphore(name, 0)
    return "letgo", semaphore.release, None, lambda: [semaphore.acquire(False) for _ in range(2)], [True, False]


def kept(client: Client, name: str) -> Any:
    lock = client.lock(name)
    lock.acquire()
    return "keep", lock.check, None, lock.locked, True


def marked(client: Client, name: str) -> Any:
    event = client.event(name)
    return "mark", event.set, None, event.is_set, True


def broken(client: Client, name: str) -> Any:
    barrier = client.barrier(name, 2)
    return "disband", barrier.abort, None, lambda: barrier.broken, True


@pytest.mark.parametrize(
    "made",
    [counted, appended, inserted, popped, put_by_default, updated, acquired, released, raised, kept, marked, broken],
)
def test_a_change_is_made_once_and_answered(proxy: Proxy, client: Client, name: str, how: How, made: Any) -> None:
    script, change, expected, look, left = made(client, name)
    cut = proxy.cut(runs(script), how)
    assert change() == expected
    assert cut.happened.is_set()
    assert look() == left


def test_two_parties_pass_a_barrier_once(proxy: Proxy, client: Client, name: str, how: How) -> None:
    barrier = client.barrier(name, 2)
    cut = proxy.cut(runs("arrive"), how, nth=2, times=2)
    numbers: list[int] = []
    threads = [threading.Thread(target=lambda: numbers.append(barrier.wait(SOON_S))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cut.happened.is_set()
    assert sorted(numbers) == [0, 1]
    assert barrier.n_waiting == 0


def test_a_lock_that_is_waited_for_through_cuts_is_held_once(proxy: Proxy, client: Client, name: str, how: How) -> None:
    lock = client.lock(name)
    lock.acquire()
    got: list[bool] = []
    waiting = threading.Thread(target=lambda: got.append(lock.acquire(timeout=SOON_S)))
    cut = proxy.cut(runs("hold"), how, times=5)  # more than the connection's own retries
    waiting.start()
    assert cut.happened.wait(SOON_S)
    lock.release()
    waiting.join()
    assert got == [True]
    assert len(lock.holders()) == 1
