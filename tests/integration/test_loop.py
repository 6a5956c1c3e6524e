"""The event loop of a worker's process: it stays, and what coroutines keep is its own."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from lastcall import Client
from tests import coroutines
from tests.conftest import Cluster
from tests.workers import Worker

pytestmark = pytest.mark.integration


def test_a_function_that_stops_the_loop_stops_nothing(client: Client) -> None:
    assert client.submit_to("io", coroutines.stops_the_loop, 3).result(60) == 3
    assert list(client.map(coroutines.nap, range(5), workers="io", timeout=60)) == [0, 1, 4, 9, 16]


def test_a_function_that_cancels_all_others_leaves_none_without_an_outcome(client: Client, name: str) -> None:
    queue = client.queue(name, coroutines.cancels_all, workers="io", concurrency=2, on_error="return")
    with queue.producer(chunk_items=6) as out:
        out.put_many(range(6))
    assert queue.join(60).done == 6


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_resources_of_coroutines_are_made_and_closed_on_their_loop(lonely: Cluster, tmp_path: Path, pool: str) -> None:
    closed = tmp_path / "closed"
    more = {"TEST_CLOSED": str(closed)}
    with Worker(lonely.url, lonely.key, "keeps", pool=pool, slots=1, more=more) as worker, lonely.client() as client:
        worker.ready()
        assert len(set(client.map(coroutines.session_of, range(20), chunksize=1, timeout=60))) == 1
        assert all(client.map(coroutines.thread_is_mine, range(3), timeout=60))
        worker.tell(signal.SIGTERM)
        assert worker.wait() == 0
    assert closed.read_text() == "on its loop"
    plain = Path(f"{closed}-plain").read_text().splitlines()
    assert len(plain) == 2
    assert set(plain) == {"where it was made"}
