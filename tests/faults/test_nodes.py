"""Workers that die, freeze, or are told to leave: what they held is done elsewhere, each result comes once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from lastcall import StatusableQueue
from tests.conftest import Cluster
from tests.functions import Gate, square
from tests.workers import Worker, until

pytestmark = [pytest.mark.faults, pytest.mark.integration]

SOON = {"LASTCALL_LEASE_S": "1", "LASTCALL_REAP_S": "0.2"}


@contextlib.contextmanager
def worker(cluster: Cluster, node: str, **options: Any) -> Iterator[Worker]:
    with Worker(cluster.url, cluster.key, node, **{"slots": 1, "more": SOON, **options}) as started:
        started.ready()
        yield started


def filled(cluster: Cluster, gate: Gate, n: int) -> StatusableQueue[int]:
    """A queue with 0 to n, each a chunk of its own, held at the gate."""
    queue: StatusableQueue[int] = cluster.client(lease_s=1).queue("held", gate)
    with queue.producer(chunk_items=1) as out:
        out.put_many(range(n))
    return queue


def child_of(one: Worker) -> int:
    """The process of a worker's only slot."""
    (child,) = psutil.Process(one.process.pid).children()
    return child.pid


def test_what_a_killed_node_held_runs_elsewhere_when_its_lease_has_run_out(lonely: Cluster) -> None:
    gate = Gate(lonely.url, "held")
    with worker(lonely, "first", slots=2) as first:
        queue = filled(lonely, gate, 6)
        assert sorted(gate.begun(2)) == ["0", "1"]
        with worker(lonely, "second", slots=2):
            assert sorted(gate.begun(2)) == ["2", "3"]
            first.kill()
            gate.open(10)
            assert queue.join(60).done == 6
            assert sorted(queue.results()) == list(range(6))
            assert "0" in gate.begun(4)


def test_what_a_killed_child_held_runs_again_long_before_its_lease_runs_out(lonely: Cluster) -> None:
    gate = Gate(lonely.url, "held")
    with worker(lonely, "only", more={"LASTCALL_LEASE_S": "60"}) as only:
        queue = filled(lonely, gate, 2)
        gate.begun()
        os.kill(child_of(only), signal.SIGKILL)
        assert gate.begun(timeout_s=20) == ["0"]
        gate.open(2)
        assert queue.join(60).done == 2


def test_a_frozen_child_loses_its_chunk_and_its_life(lonely: Cluster) -> None:
    gate = Gate(lonely.url, "held")
    with worker(lonely, "only") as only:
        queue = filled(lonely, gate, 3)
        gate.begun()
        frozen = child_of(only)
        os.kill(frozen, signal.SIGSTOP)
        assert gate.begun() == ["0"]  # in another process of the same worker, which has but one slot
        assert child_of(only) != frozen
        gate.open(3)
        assert queue.join(60).done == 3
        assert sorted(queue.results()) == [0, 1, 2]
        assert f"process {frozen} of this worker was stopped for" in only.log


def test_a_child_that_is_stopped_for_less_than_its_lease_goes_on(lonely: Cluster) -> None:
    gate = Gate(lonely.url, "held")
    with worker(lonely, "only", more={"LASTCALL_LEASE_S": "30"}) as only:
        queue = filled(lonely, gate, 1)
        gate.begun()
        child = psutil.Process(child_of(only))
        child.send_signal(signal.SIGSTOP)
        until(lambda: child.status() == psutil.STATUS_STOPPED, "it to be stopped")
        gate.open()
        child.send_signal(signal.SIGCONT)
        assert queue.join(60).done == 1
        assert queue.status().epoch == 1
        assert child.is_running()


def test_a_main_process_that_was_frozen_past_its_lease_is_refused_and_works_on(lonely: Cluster) -> None:
    gate = Gate(lonely.url, "held")
    with worker(lonely, "first") as first:
        queue = filled(lonely, gate, 1)
        assert gate.begun() == ["0"]
        with worker(lonely, "second") as second:
            first.tell(signal.SIGSTOP)
            assert gate.begun() == ["0"]  # at the second: nobody renews the ticket of the first
            gate.open(2)
            assert queue.join(60).done == 1
            assert list(queue.results()) == [0]
            first.tell(signal.SIGCONT)
            second.tell(signal.SIGTERM)
            second.wait()
        until(first.info, "it to be registered again")
        with lonely.client() as client:
            assert list(client.map(square, range(50))) == [n * n for n in range(50)]
        assert first.process.poll() is None


def test_a_whole_node_that_was_frozen_past_its_lease_doubles_nothing(lonely: Cluster) -> None:
    gate = Gate(lonely.url, "held")
    with worker(lonely, "first", slots=2) as first:
        queue = filled(lonely, gate, 4)
        assert sorted(gate.begun(2)) == ["0", "1"]
        os.killpg(first.process.pid, signal.SIGSTOP)
        with worker(lonely, "second", slots=2):
            gate.open(2)  # which the frozen ones may take as they thaw, or the others
            until(lambda: queue.status().leased == 2 and _runs_elsewhere(gate), "both to run elsewhere")
            os.killpg(first.process.pid, signal.SIGCONT)
            gate.open(8)
            assert queue.join(60).done == 4
            assert sorted(queue.results()) == [0, 1, 2, 3]


def _runs_elsewhere(gate: Gate) -> bool:
    with gate._server() as server:
        return int(server.llen(f"test:{gate.name}:begun")) >= 2  # type: ignore[arg-type]


def test_a_node_that_is_told_to_leave_finishes_its_chunk_and_gives_back_the_rest(lonely: Cluster) -> None:
    gate = Gate(lonely.url, "held")
    patient = {"LASTCALL_LEASE_S": "60", "LASTCALL_SLICE_S": "0.01"}
    with worker(lonely, "first", more=patient) as first:
        queue = filled(lonely, gate, 3)
        assert gate.begun() == ["0"]
        first.tell(signal.SIGTERM)
        until(lambda: first.info() is None, "it to take no more")
        gate.open()
        assert first.wait() == 0
        status = queue.status()
        assert (status.done, status.ready, status.leased) == (1, 2, 0)
        began = time.monotonic()
        with worker(lonely, "second", more=patient):
            gate.open(2)
            assert queue.join(30).done == 3
            assert gate.begun(2) == ["1", "2"]
            assert time.monotonic() - began < 60  # no lease had to run out for it


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGKILL])
def test_a_worker_that_ends_in_any_way_leaves_no_process(lonely: Cluster, number: signal.Signals) -> None:
    gate = Gate(lonely.url, "held")
    with worker(lonely, "only", slots=2) as only:
        queue = filled(lonely, gate, 2)
        gate.begun(2)
        children = psutil.Process(only.process.pid).children(recursive=True)
        only.tell(number)
        only.wait(60)
        gate.open(4)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []
        with worker(lonely, "next"):
            assert queue.join(60).done == 2
