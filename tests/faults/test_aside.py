"""The server, and workers, go away while calls with large arguments are under way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from joblib import Parallel, delayed

from lastcall.joblib import LastcallBackend
from tests.arrays import first, first_slowly
from tests.faults.conftest import Service
from tests.workers import until

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def durable(services: Callable[..., Service]) -> Service:
    return services(lease_s=2.0, persistent=True)


def test_what_was_sent_aside_outlives_the_server_and_what_is_sent_meanwhile_waits(durable: Service) -> None:
    data, later = np.full(200_000, 5.0), np.full(200_000, 6.0)
    client = durable.client()
    sent = [client.submit(first, data, n) for n in range(3)]
    client._calls["cpu"]._producer.flush(30)
    durable.server.kill()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(client.submit, first, later)
        durable.server.start()
        assert waiting.result(60).done() is False
    worker = durable.worker("late", pool="solo", slots=1)
    assert [future.result(60) for future in sent] == [5.0, 6.0, 7.0]
    assert waiting.result().result(60) == 6.0
    worker.kill()


def test_parallel_goes_on_where_a_worker_dies_and_the_server_is_killed_on_the_way(durable: Service, name: str) -> None:
    workers = [durable.worker(f"{name}-{n}", slots=1) for n in range(2)]
    data = np.full(100_000, 1.0)
    jobs = Parallel(n_jobs=2, backend=LastcallBackend(client=durable.client()), batch_size=1, return_as="generator")
    results = jobs(delayed(first_slowly)(data, n) for n in range(100))
    got = [next(results), next(results)]
    workers[0].kill()
    durable.server.kill()
    durable.server.start()
    assert [*got, *results] == [1.0 + n for n in range(100)]


def test_a_server_that_is_full_of_what_no_call_needs_is_given_room(services: Callable[..., Service]) -> None:
    service = services(lease_s=10.0, options={"maxmemory": "24mb"})
    service.worker("eater", pool="solo", slots=1)
    client = service.client()
    arrays = (np.full(500_000, float(n)) for n in range(10))  # 40 MB, one after the other
    assert [client.submit(first, one).result(60) for one in arrays] == [float(n) for n in range(10)]


def test_calls_with_more_large_arguments_than_the_server_has_room_for_wait_for_those_before_them(
    services: Callable[..., Service], caplog: pytest.LogCaptureFixture
) -> None:
    service = services(lease_s=10.0, options={"maxmemory": "24mb"})
    client = service.client(aside_cache_bytes=0)

    def send() -> list[Future[float]]:  # 60 MB, at once
        return [client.submit(first_slowly, np.full(250_000, float(n)), n) for n in range(30)]

    with caplog.at_level(logging.WARNING, "lastcall"), ThreadPoolExecutor(1) as thread:
        sending = thread.submit(send)
        until(lambda: "refuses: " in caplog.text, "the server to be full", 60)
        service.worker("eater", pool="solo", slots=1)
        futures = sending.result(60)
    assert [future.result(60) for future in futures] == [2.0 * n for n in range(30)]
