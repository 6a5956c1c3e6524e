"""Flows whose workers and clients are killed while they run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastcall import Flow, batch, errors, reduce, stage
from lastcall.connect import connect
from lastcall.history import History
from lastcall.settings import Settings
from lastcall.state import keys
from tests.conftest import Cluster
from tests.functions import Gate
from tests.workers import ROOT, Worker, environment, until

pytestmark = pytest.mark.faults


def twice(n: int) -> Iterator[int]:
    yield n
    yield n


class Slow:
    """Gives numbers, and waits at one of them until it is let go on: the first time that it gets there."""

    def __init__(self, gate: Gate, held: int, n: int, flag: str) -> None:
        self.gate, self.held, self.n, self.flag = gate, held, n, flag

    def __call__(self) -> Iterator[int]:
        for n in range(self.n):
            if n == self.held and not Path(self.flag).exists():
                Path(self.flag).touch()
                self.gate(os.getpid())
            yield n


class Killed:
    """Kills its process at one item, the first time."""

    def __init__(self, guilty: int, flag: str) -> None:
        self.guilty, self.flag = guilty, flag

    def __call__(self, n: int) -> int:
        if n == self.guilty and not Path(self.flag).exists():
            Path(self.flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return n


@pytest.mark.parametrize("mode", ["auto", "streaming"])
def test_a_killed_slot_changes_no_result(cluster: Cluster, tmp_path: Path, mode: str) -> None:
    with cluster.client() as client:
        flow = Flow(Killed(333, str(tmp_path / "map"))) | twice | Killed(600, str(tmp_path / "behind")) | batch(7) | sum
        expected = list(flow_without_kills().run(range(700)).results())
        assert list(client.run(flow, range(700), mode=mode).results(timeout=60)) == expected


def flow_without_kills() -> Flow:
    return Flow(twice) | batch(7) | sum


def test_a_source_goes_on_where_it_was_when_its_slot_was_killed(cluster: Cluster, tmp_path: Path, name: str) -> None:
    gate = Gate(cluster.url, name)
    source = Slow(gate, 120, 200, str(tmp_path / "held"))
    with cluster.client() as client:
        job = client.run(Flow(str), sources=[source])
        (pid,) = gate.begun()
        os.kill(int(pid), signal.SIGKILL)
        assert sorted(job.results(timeout=60), key=int) == [str(n) for n in range(200)]


class Dies:
    """Kills its process the first time, once a test lets it."""

    def __init__(self, gate: Gate, flag: str) -> None:
        self.gate, self.flag = gate, flag

    def __call__(self, n: int) -> int:
        if not Path(self.flag).exists():
            Path(self.flag).touch()
            self.gate(n)
            os.kill(os.getpid(), signal.SIGKILL)
        return n


def test_what_a_slot_holds_that_has_moved_is_renewed_and_given_back_at_once(
    server: Any, tmp_path: Path, name: str
) -> None:
    key, lease_s = "a key of this test alone", 0.6
    lonely = Cluster(server, server.unix_url, key)
    gate = Gate(lonely.url, name)
    more = {"LASTCALL_LEASE_S": str(lease_s), "LASTCALL_REAP_S": "0.3"}
    with Worker(lonely.url, key, "cpu", slots=1, more=more) as worker, lonely.client(lease_s=lease_s) as client:
        worker.ready()
        job = client.run(Flow(abs) | Dies(gate, str(tmp_path / "flag")), range(20), mode="streaming", job=name)
        gate.begun()
        tickets = keys.of_queue(name, "Dies", "tickets")
        with connect(Settings.load(lonely.url, key)) as redis:

            def deadline() -> float:
                return max(at for _, at in redis.zrange(tickets, 0, -1, withscores=True))

            began = deadline()
            assert until(lambda: deadline() > began + 2_000 * lease_s, "the worker to renew the ticket")
        gate.open()
        assert sorted(job.results(timeout=60)) == [*range(20)]
        (returned,) = History(client._open(), name).events("returned")
        assert returned.said.startswith("crash: ")
        assert "-" in returned.ticket  # one of its own: the slot came from the stage before


class Exits:
    """Ends its process the first time."""

    def __init__(self, flag: str) -> None:
        self.flag = flag

    def __call__(self, n: int) -> int:
        if n == 3 and not Path(self.flag).exists():
            Path(self.flag).touch()
            sys.exit(3)
        return n


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_what_a_slot_holds_that_has_moved_is_given_back_where_its_function_exits(
    server: Any, tmp_path: Path, name: str, pool: str
) -> None:
    key = "a key of this test alone"
    lonely = Cluster(server, server.unix_url, key)
    with Worker(lonely.url, key, "cpu", slots=1, pool=pool) as worker, lonely.client() as client:
        worker.ready()
        job = client.run(Flow(abs) | Exits(str(tmp_path / "flag")), range(20), mode="streaming", job=name)
        assert sorted(job.results(timeout=60)) == [*range(20)]
        (returned,) = History(client._open(), name).events("returned")
        assert returned.said.startswith("crash: ")
        assert "-" in returned.ticket


PROGRAM = """
import itertools, sys, time
from lastcall import Client, Flow
from tests.functions import plus_one, square
with Client() as client:
    job = client.run(Flow(square) | plus_one, itertools.count(), mode="streaming", job=sys.argv[1], window=200)
    print(next(job.results()), flush=True)
    time.sleep(60)
"""


def test_a_killed_client_leaves_what_was_put(server: Any, name: str) -> None:
    key = "a key of this test alone"
    lonely = Cluster(server, server.unix_url, key)
    env = environment(lonely.url, key, {"LASTCALL_LEASE_S": "1"})
    with Worker(lonely.url, key, "cpu", more={"LASTCALL_REAP_S": "0.3"}), lonely.client(lease_s=1.0) as client:
        program = subprocess.Popen([sys.executable, "-c", PROGRAM, name], env=env, cwd=ROOT, stdout=subprocess.PIPE)
        assert program.stdout is not None
        assert program.stdout.readline() == b"1\n"
        program.kill()
        program.wait()
        program.stdout.close()
        job = client.job(name)
        with pytest.raises(errors.ProducerLost):
            job.wait(60)
        assert until(lambda: all(status.ended for status in job.status()), "the end of all its queues")
        last = job.queues[-1]
        results = []
        with pytest.raises(errors.ProducerLost):
            results.extend(last.results())
        assert results == [n * n + 1 for n in range(job.status()[0].put)]


def test_a_reduction_is_right_when_its_slot_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    class Adds:
        def __call__(self, left: int, right: int) -> int:
            if left + right > 1_000 and not (tmp_path / "added").exists():
                (tmp_path / "added").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return left + right

    with cluster.client() as client:
        job = client.run(Flow(stage(abs)) | reduce(Adds()), range(300), mode="streaming")
        assert list(job.results(timeout=60)) == [sum(range(300))]
