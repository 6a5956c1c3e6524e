"""The server, and workers, go away while calls with large arguments are under way."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from joblib import Parallel, delayed

from lastcall.joblib import LastcallBackend
from tests.arrays import first, first_slowly
from tests.faults.conftest import Service

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
