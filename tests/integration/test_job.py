"""client.job() and client.status(): what runs, and how to end it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest

from lastcall import Client
from lastcall.errors import QueueCancelled, UnknownJob, WaitTimeout
from tests import functions
from tests.conftest import Cluster
from tests.functions import Gate, produce, square
from tests.workers import until

pytestmark = pytest.mark.integration

Name = Callable[[], str]


def test_a_job_has_its_queues_upstream_first(client: Client, names: Name) -> None:
    job = names()
    last = client.queue("a-last", square, job=job)
    client.queue("b-first", functions.plus_one, into=client.queue("c-middle", square, into=last))
    assert [queue.name for queue in client.job(job).queues] == ["b-first", "c-middle", "a-last"]
    assert [(status.job, status.name, status.state) for status in client.job(job).status()] == [
        (job, "b-first", "NEW"), (job, "c-middle", "OPEN"), (job, "a-last", "OPEN"),
    ]  # fmt: skip
    client.job(job).cancel()


def test_wait_is_until_all_have_ended(client: Client, cluster: Cluster, names: Name) -> None:
    job, gate = names(), Gate(cluster.url, names())
    last = client.queue("last", gate, job=job)
    first = client.queue("first", square, into=last)
    produce(first, None, [3])
    gate.begun()
    with pytest.raises(WaitTimeout) as caught:
        client.job(job).wait(0.2)
    assert f" s for queue {job}/last (SEALED: 0 ready, 1 running" in str(caught.value)
    assert f"{job}/first" not in str(caught.value)
    gate.open()
    assert [status.state for status in client.job(job).wait(30)] == ["DRAINED", "DRAINED"]


def test_cancel_drops_what_waits_and_refuses_what_runs(client: Client, cluster: Cluster, name: str) -> None:
    gate = Gate(cluster.url, name)
    queue = client.queue(name, gate)
    with queue.producer(chunk_items=1) as out:
        out.put_many(range(10))
    gate.begun(2)
    waiting = threading.Event()
    caught: list[BaseException] = []

    def join() -> None:
        waiting.set()
        try:
            queue.join(30)
        except QueueCancelled as error:
            caught.append(error)

    thread = threading.Thread(target=join)
    thread.start()
    waiting.wait(10)
    (status,) = client.job(name).cancel()
    assert (status.state, status.cancelled, status.done, status.ready, status.leased) == ("CANCELLED", 10, 0, 0, 0)
    gate.open(2)
    thread.join(30)
    assert "was cancelled before its work was done" in str(caught[0])
    with pytest.raises(QueueCancelled):
        list(queue.results(timeout=30))
    # The slots that ran its items are free again, and what those came to is nowhere.
    assert list(client.map(square, range(10))) == [n * n for n in range(10)]
    assert client.job(name).status()[0].done == 0


def test_cancelling_what_has_ended_changes_nothing(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    produce(queue, None, [1])
    queue.join(30)
    (status,) = client.job(name).cancel()
    assert (status.state, status.done, status.cancelled) == ("DRAINED", 1, 0)


def test_cancelling_one_stage_makes_the_next_incomplete(client: Client, cluster: Cluster, names: Name) -> None:
    job, gate = names(), Gate(cluster.url, names())
    last = client.queue("last", square, job=job)
    first = client.queue("first", gate, into=last)
    produce(first, None, [3])
    gate.begun()
    first.cancel()
    gate.open()
    until(lambda: last.status().ended, "the last queue to end")
    assert last.status().state == "INCOMPLETE"


def test_an_unknown_job_is_named(client: Client, names: Name) -> None:
    job = client.job(names())
    for use in (job.status, job.wait, job.cancel, lambda: job.queues):
        with pytest.raises(UnknownJob, match=f"no job or queue '{job.id}' on this server: `lastcall status` shows"):
            use()


def test_status_lists_the_queues_that_have_not_ended(client: Client, names: Name) -> None:
    done, open_ = client.queue(names(), square), client.queue(names())
    produce(done, None, [1])
    done.join(30)
    with open_.producer() as out:
        out.put(1)
        out.flush()
        shown = {status.name: status for status in client.status()}
        assert done.name not in shown
        assert (shown[open_.name].state, shown[open_.name].ready, shown[open_.name].live) == ("OPEN", 1, 1)
    assert list(open_) == [1]
    assert open_.name not in {status.name for status in client.status()}


def test_workers_lists_those_that_live(client: Client) -> None:
    workers = {worker.node: worker for worker in client.workers()}
    assert (workers["cpu@test"].queues, workers["cpu@test"].slots, workers["cpu@test"].pool) == (("cpu",), 2, "prefork")
    assert (workers["io@test"].queues, workers["io@test"].slots) == (("io",), 4)


def test_a_job_is_found_by_another_client(client: Client, cluster: Cluster) -> None:
    results = client.map(square, itertools.count())
    next(results)
    with cluster.client() as other:
        (status,) = other.job(results.job).cancel()
    assert status.state == "CANCELLED"
    with pytest.raises(QueueCancelled):
        list(results)
