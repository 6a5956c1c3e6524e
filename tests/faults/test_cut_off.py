"""A network that is slow, and one that cuts a worker's machine off and lets it back."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lastcall import Client
from tests.faults.conftest import Service
from tests.functions import Gate, same, square, who, work
from tests.workers import until

pytestmark = pytest.mark.faults

LEASE_S = 2.0


@pytest.fixture(scope="module")
def service(services: Callable[..., Service]) -> Service:
    return services(lease_s=LEASE_S, persistent=True)


def test_leases_hold_and_everything_works_on_a_slow_server(service: Service, name: str) -> None:
    proxy = service.proxy()
    worker = service.worker("slow", url=proxy.url(service.url), queues="slow", slots=2)
    client = service.client(proxy.url(service.url))
    proxy.delay_s = 0.3
    # A function and a producer that take longer than a lease.
    queue = client.queue(name, work, workers="slow", max_workers=1)
    with queue.producer("camera") as out:
        out.put(LEASE_S * 1500)
        out.flush()
        until(lambda: queue.status().done, "the function to return")
        out.put(1)
    assert list(queue.results(timeout=30)) == [LEASE_S * 1500, 1]
    worker.kill()


@pytest.mark.parametrize("forget", [False, True], ids=["what was held comes late", "its connections are gone"])
def test_a_worker_that_is_cut_off_loses_its_chunk_and_works_on_afterwards(
    service: Service, name: str, forget: bool
) -> None:
    proxy = service.proxy()
    far = service.worker(f"far-{forget}", url=proxy.url(service.url), queues=f"both-{forget},far-{forget}", slots=1)
    client = service.client()
    gate = Gate(service.server.unix_url, name)  # which is not cut
    queue = client.queue(name, gate, workers=f"both-{forget}")
    with queue.producer() as out:
        out.put("item")
    gate.begun()
    with proxy.stalled(forget=forget):
        near = service.worker(f"near-{forget}", queues=f"both-{forget}", slots=1)
        gate.begun()  # it runs once more, elsewhere
        gate.open(2)
        assert list(queue.results(timeout=30)) == ["item"]
    status = queue.join(30)
    assert (status.done, status.put) == (1, 1)
    assert list(queue.results(timeout=30)) == ["item"]  # and no more
    assert client.submit_to(f"far-{forget}", square, 12).result(30) == 144
    assert far.process.poll() is None
    near.kill()
    far.kill()


def test_a_late_completion_is_refused_while_the_queue_goes_on(service: Service, name: str) -> None:
    proxy = service.proxy()
    far = service.worker("late", url=proxy.url(service.url), queues="late", slots=1)
    client = service.client()
    gate = Gate(service.server.unix_url, name)
    queue = client.queue(name, gate, workers="late")
    out = queue.producer()
    out.put("item")
    out.flush()
    gate.begun()
    with proxy.stalled():
        # Nobody else serves the queue: its chunk is ready again.
        with client._connection.heart.watching(queue._ledger):
            until(lambda: queue.status().ready == 1, "the chunk to come back")
        gate.open(2)
    out.close()
    gate.begun()  # it is run anew: what the first run came to was refused
    assert list(queue.results(timeout=30)) == ["item"]
    assert queue.join(30).done == 1
    far.kill()


def test_a_client_that_is_cut_off_for_less_than_a_lease_goes_on(service: Service, name: str) -> None:
    proxy = service.proxy()
    client: Client = service.client(proxy.url(service.url), lease_s=20.0)
    queue = client.queue(name, same, workers="nobody")
    table = client.queue(f"{name}-table")
    with queue.producer() as out, table.producer() as food:
        out.put(1)
        with proxy.away():
            out.put(2)
            food.put("bun")
        out.flush(30)
        with proxy.stalled(forget=True):
            out.put(3)
            food.put("mantou")
        out.flush(60)
        assert out.position == 3
    assert list(table) == ["bun", "mantou"]
    assert queue.status().put == 3
    queue.cancel()


def test_a_worker_says_once_an_outage_that_its_leases_cannot_be_renewed(service: Service) -> None:
    proxy = service.proxy()
    worker = service.worker("teller", url=proxy.url(service.url), queues="teller", slots=1)
    said = "this worker's leases cannot be renewed now"
    for outage in (1, 2):
        with proxy.away():
            until(lambda n=outage: worker.log.count(said) == n, "the worker to say so")
            if outage == 1:
                time.sleep(2.5)  # it tries each second: nothing tells how often
        until(lambda: worker.info() is not None, "the worker to be back")
        assert service.client().submit_to("teller", who).result(30)
        assert worker.log.count(said) == outage
    worker.kill()
