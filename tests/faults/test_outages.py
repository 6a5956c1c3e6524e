"""The server goes away and comes back, its append-only file with it: everything comes back by itself.

One worker lives through all of these, so that each also shows that it takes tickets after the one before.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable

import pytest

from lastcall.errors import LeaseLost
from tests.faults.conftest import Service
from tests.faults.workload import Workload
from tests.functions import square
from tests.workers import Worker

pytestmark = pytest.mark.faults

LEASE_S = 2.0


@pytest.fixture(scope="module")
def durable(services: Callable[..., Service]) -> Service:
    return services(lease_s=LEASE_S, persistent=True)


@pytest.fixture(scope="module")
def worker(durable: Service) -> Worker:
    return durable.worker("survivor", slots=2)


def stays_away(seconds: float) -> None:
    threading.Event().wait(seconds)


def serves_still(service: Service, worker: Worker) -> None:
    """The same worker process takes new tickets."""
    assert worker.process.poll() is None
    client = service.client()
    assert client.submit(square, 12).result(30) == 144
    assert worker.ready().pid == worker.process.pid


def restarted(service: Service) -> None:
    service.server.stop()
    service.server.start()


def killed(service: Service) -> None:
    service.server.kill()
    service.server.start()


def killed_for_longer_than_a_lease(service: Service) -> None:
    service.server.kill()
    stays_away(2.5 * LEASE_S)
    service.server.start()


@pytest.mark.parametrize("outage", [restarted, killed, killed_for_longer_than_a_lease])
def test_all_work_comes_back_by_itself_and_is_done_once(
    durable: Service, worker: Worker, name: str, outage: Callable[[Service], None]
) -> None:
    with Workload(durable.client(), name) as work:
        work.moves()
        assert work.under_way
        outage(durable)
        work.moves()
        work.check()
    serves_still(durable, worker)


def test_a_server_that_stands_still_for_half_a_minute_costs_nobody_a_lease(
    services: Callable[..., Service], name: str
) -> None:
    service = services(lease_s=10.0, persistent=True)
    worker = service.worker("patient", slots=2)
    with Workload(service.client(), name) as work:
        work.moves()
        assert work.under_way
        with service.server.paused():
            stays_away(30)
        work.moves()
        work.check()
    serves_still(service, worker)


def test_a_producer_is_told_that_the_server_has_lost_what_it_acknowledged(service: Service, name: str) -> None:
    kept = service.server.folder / "appendonlydir"
    client = service.client()
    queue = client.queue(name)
    out = queue.producer("camera", chunk_items=1)
    out.put_many(range(3))
    out.flush()
    shutil.copytree(kept, service.server.folder / "a second ago")
    out.put_many(range(3, 6))
    out.flush()
    assert out.position == 6
    service.server.kill()
    shutil.rmtree(kept)
    (service.server.folder / "a second ago").rename(kept)
    service.server.start()
    out.put(6)
    with pytest.raises(LeaseLost, match="camera"):
        out.flush(30)
    with queue.producer("camera") as again:
        assert again.position == 3
        again.put_many(range(3, 7))
    assert list(queue) == list(range(7))
