"""Cancelling calls: what no slot has is taken back, wherever it is."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from lastcall import Client, Executor
from lastcall.calls import Calls
from lastcall.state.ledger import Ledger
from tests import functions
from tests.conftest import Cluster
from tests.functions import Counted, Gate, square
from tests.workers import until

pytestmark = pytest.mark.integration


class Held:
    """What is put waits on its way until it is let go."""

    def __init__(self, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self._put = calls._producer._put
        monkeypatch.setattr(calls._producer, "_put", self)

    def __call__(self, batch: list[list[bytes]]) -> bool:
        self.entered.set()
        assert self.go_on.wait(30)
        return self._put(batch)


def test_a_call_of_a_client_can_be_cancelled(lonely: Cluster) -> None:
    with lonely.client() as client:
        one, other = client.submit(square, 1), client.submit(square, 2)
        client._calls["cpu"]._producer.flush(30)
        assert one.cancel()
        assert (one.cancelled(), other.done()) == (True, False)
        status = client._calls["cpu"].ledger.status()
        assert (status.put, status.ready, status.cancelled) == (2, 1, 1)
        assert other.cancel()


def test_thousands_that_nobody_has_begun_are_cancelled_together(lonely: Cluster) -> None:
    with lonely.client() as client:
        executor = Executor(client=client)
        futures = [executor.submit(square, n) for n in range(3_000)]
        ledger = executor._work._calls[-1].ledger
        executor.shutdown(cancel_futures=True)
        assert all(future.cancelled() for future in futures)
        status = ledger.status()
        assert (status.state, status.put, status.done) == ("DRAINED", status.cancelled, 0)


def test_what_is_not_sent_yet_is_dropped_here(
    client: Client, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.submit(square, 1).result(30) == 1
    calls = client._calls["cpu"]
    held = Held(calls, monkeypatch)
    first = client.submit(square, 2)
    assert held.entered.wait(30)
    futures = [client.submit(square, n) for n in range(10)]
    for n in (9, 4, 0):
        assert futures[n].cancel()  # without the server, which is not asked
    futures.append(client.submit(square, 10))
    held.go_on.set()
    assert first.result(30) == 4
    left = [n for n in range(11) if n not in (9, 4, 0)]
    assert [futures[n].result(30) for n in left] == [n * n for n in left]
    status = calls.ledger.status()
    assert (status.put, status.done, status.cancelled) == (10, 10, 0)


def test_what_is_on_its_way_is_cancelled_when_it_is_there(lonely: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with lonely.client() as client:
        assert client.submit(square, 1).cancel()
        calls = client._calls["cpu"]
        held = Held(calls, monkeypatch)
        future = client.submit(square, 2)
        assert held.entered.wait(30)
        with ThreadPoolExecutor() as threads:
            cancelled = threads.submit(future.cancel)
            held.go_on.set()
        assert cancelled.result()


def test_a_call_that_waits_for_its_next_attempt_is_not_tried_again(client: Client) -> None:
    future = client.submit(functions.patient, 1)
    ledger = client._calls["cpu"].ledger
    until(lambda: ledger.status().delayed, "the first attempt to fail")
    before = ledger.status().cancelled
    assert future.cancel()
    assert ledger.status().cancelled == before + 1


def test_running_tells_what_the_last_cancel_found(client: Client, cluster: Cluster, name: str) -> None:
    gate = Gate(cluster.url, name)
    future = client.submit(gate, 1)
    gate.begun()
    assert not future.running()  # nobody has asked
    assert not future.cancel()
    assert future.running()
    gate.open()
    assert future.result(30) == 1
    assert not future.running()


def test_a_call_whose_cancelling_was_not_answered_is_cancelled_all_the_same(
    lonely: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    withdraw = Ledger.withdraw

    def unanswered(ledger: Ledger, chunks: Any) -> list[str]:
        withdraw(ledger, chunks)
        raise RedisConnectionError("the cable")

    with lonely.client() as client:
        future = client.submit(square, 1)
        client._calls["cpu"]._producer.flush(30)
        monkeypatch.setattr(Ledger, "withdraw", unanswered)
        future.cancel()  # False, or True if word of it came by the results meanwhile
        assert list(concurrent.futures.as_completed([future], timeout=30)) == [future]
        assert future.cancelled()


def test_a_task_that_awaits_a_call_cancels_it(lonely: Cluster) -> None:
    with lonely.client() as client:
        future = client.submit(square, 1)

        async def main() -> None:
            waiting = asyncio.wrap_future(future)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

        asyncio.run(main())
        assert future.cancelled()


def test_cancelling_from_many_threads_counts_once(lonely: Cluster) -> None:
    with lonely.client() as client:
        futures = [client.submit(square, n) for n in range(50)]
        told: list[Future[int]] = []
        for future in futures:
            future.add_done_callback(told.append)
        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(lambda future: future.cancel(), futures * 4))
        assert sorted(map(id, told)) == sorted(map(id, futures))


def test_a_call_is_either_cancelled_or_run(client: Client, cluster: Cluster, name: str) -> None:
    """While slots are at work on them."""
    counted = Counted(cluster.url, name)
    futures = [client.submit(counted, n) for n in range(400)]
    said = [future.cancel() for future in futures[::-1]][::-1]
    concurrent.futures.wait(futures, timeout=30)
    assert [future.cancelled() for future in futures] == said
    assert sorted(counted.runs()) == [n for n, cancelled in enumerate(said) if not cancelled]
