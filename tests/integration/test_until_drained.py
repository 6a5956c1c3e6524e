"""Workers that leave when their queues have ended, and the exit codes that say how."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from redis import Redis

from lastcall.client import Client
from lastcall.state.records import Status
from lastcall_worker.until_drained import Exit, exit_code
from tests.integration.worker_process import KEY, Worker, worker_server
from tests.servers import Server

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with worker_server() as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    shared.client().flushall()
    return shared


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, KEY) as client:
        yield client


def status(state: str, dead: int = 0) -> Status:
    return cast(Status, SimpleNamespace(state=state, dead=dead))


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        ([status("DRAINED"), status("DRAINED")], Exit.DRAINED),
        ([status("DRAINED"), status("DRAINED", dead=1)], Exit.DEAD_LETTERS),
        ([status("INCOMPLETE"), status("DRAINED", dead=1)], Exit.INCOMPLETE),
        ([status("DRAINED"), status("CANCELLED")], Exit.INCOMPLETE),
    ],
)
def test_the_worst_end_decides(ended: list[Status], code: Exit) -> None:
    assert exit_code(ended) is code


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_a_worker_leaves_when_the_queue_is_drained(server: Server, client: Client, tmp_path: Path, pool: str) -> None:
    if pool == "gevent":
        pytest.importorskip("gevent")
    with Worker(server, tmp_path, "--until-drained", "numbers", pool=pool, slots=2 if pool != "solo" else 1) as worker:
        # The queue is made after the worker has begun to wait for it.
        queue = client.queue("numbers", abs)
        with queue.producer("first") as out:
            for number in range(100):
                out.put(-number)
        assert worker.wait() == 0
        assert sorted(queue.results()) == list(range(100))
    assert "queue numbers has ended: DRAINED" in worker.log


def test_all_queues_are_waited_for_and_those_that_had_ended_count(
    server: Server, client: Client, tmp_path: Path
) -> None:
    client.queue("before", abs).seal()
    one = client.queue("stage", abs, job="nightly")
    options = ["--until-drained", "before", "--until-drained", "nightly/stage", "--until-drained", "after"]
    with Worker(server, tmp_path, *options) as worker:
        one.seal()
        other = client.queue("after", abs)
        with other.producer("first") as out:
            assert worker.process.poll() is None
            out.put(-1)
        assert worker.wait() == 0


def test_dead_letters_are_exit_code_4(server: Server, client: Client, tmp_path: Path) -> None:
    with Worker(server, tmp_path, "--until-drained", "numbers") as worker:
        with client.queue("numbers", abs).producer("first") as out:
            out.put("not a number")
            out.put(-1)
        assert worker.wait() == 4


def test_a_queue_that_ends_incomplete_is_exit_code_3(
    server: Server, redis: Redis, client: Client, tmp_path: Path
) -> None:
    with Worker(server, tmp_path, "--until-drained", "numbers", reap_s=0.1) as worker:
        client.queue("numbers", abs)._ledger.join("camera-1", lease_ms=1)
        assert worker.wait() == 3
    assert "queue numbers: producer camera-1 was lost" in worker.log


def test_a_cancelled_queue_is_exit_code_3(server: Server, client: Client, tmp_path: Path) -> None:
    with Worker(server, tmp_path, "--until-drained", "numbers") as worker:
        client.queue("numbers", abs).cancel()
        assert worker.wait() == 3


def test_a_worker_that_is_told_to_leave_before_does_not_claim_success(
    server: Server, client: Client, tmp_path: Path
) -> None:
    with Worker(server, tmp_path, "--until-drained", "numbers") as worker:
        client.queue("numbers", abs)
        assert worker.stop(signal.SIGTERM) == 1


def test_the_end_is_seen_past_a_restart_of_the_server(client: Client, server: Server, tmp_path: Path) -> None:
    with Worker(server, tmp_path, "--until-drained", "numbers") as worker:
        server.restart()
        with Client(server.url, KEY) as again:
            again.queue("numbers", abs).seal()
            assert worker.wait() == 0


@pytest.fixture
def redis(server: Server) -> Redis:
    return server.client()
