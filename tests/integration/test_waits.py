"""Every wait ends: with the result, a named error, or at the timeout, which says what was waited for (invariant 6)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from lastcall import Client
from lastcall.errors import Empty, NoWorker, ProducerLost, QueueCancelled, ServerUnreachable, WaitTimeout
from lastcall.registry import WorkerInfo
from lastcall.state import keys
from lastcall.waiting import Outage, Patience
from tests.conftest import Cluster
from tests.functions import Gate, produce, square
from tests.servers import Server
from tests.workers import until

pytestmark = pytest.mark.integration

NO_WORKER = 'no worker serves the Celery queue "gpu": start one with: lastcall worker -Q gpu'


def timed_out(wait: Callable[[], Any], least_s: float) -> str:
    """What a wait says, behind how long it waited, at its timeout, which is not much later."""
    began = time.monotonic()
    with pytest.raises(WaitTimeout) as caught:
        wait()
    assert least_s <= time.monotonic() - began < least_s + 5
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.waited_s >= least_s
    said = f"waited {caught.value.waited_s:.1f} s "
    assert str(caught.value).startswith(said)
    return str(caught.value).removeprefix(said)


# What a timeout says


def test_that_no_producer_has_come(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    said = timed_out(lambda: queue.join(0.1), 0.1)
    assert said == (f"for queue {name} (NEW: 0 ready, 0 running, 0 delayed of 0 put); no producer has come yet")


def test_which_producers_have_not_left_and_how_many_have_not_come(client: Client, name: str) -> None:
    queue = client.queue(name, square, producers=3)
    with queue.producer("camera-1"):
        said = timed_out(lambda: queue.join(0.1), 0.1)
    assert "producer camera-1 has not left" in said
    assert "2 of 3 producers have not come yet" in said
    assert "silent" not in said


def test_not_all_of_many_producers(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    producers = [queue.producer(f"camera-{n}") for n in range(9)]
    said = timed_out(lambda: queue.join(0.1), 0.1)
    assert said.count("has not left") == 5
    assert said.endswith("and 4 more producers")
    for producer in producers:
        producer.close()


def test_that_a_producer_is_silent(cluster: Cluster, name: str) -> None:
    with cluster.client(lease_s=4) as client:
        queue = client.queue(name, square)
        out = queue.producer("camera-1")
        client._connection.heart.drop_producer(queue._ledger, "camera-1", out._epoch)
        until(lambda: queue.status().producers[0].silent_s > 2.1, "its silence")
        assert "producer camera-1 has not left, silent for 2 s" in timed_out(lambda: queue.join(0.05), 0.05)
        out.close()


def test_that_a_stage_has_not_ended(client: Client, cluster: Cluster, name: str) -> None:
    gate = Gate(cluster.url, name)
    last = client.queue("last", square, job=name)
    first = client.queue("first", gate, into=last)
    produce(first, None, [1])
    gate.begun()
    assert "its stage first has not ended" in timed_out(lambda: last.join(0.1), 0.1)
    gate.open()
    client.job(name).wait(30)


def test_that_work_runs(client: Client, cluster: Cluster, name: str) -> None:
    gate = Gate(cluster.url, name)
    queue = client.queue(name, gate)
    produce(queue, None, [1])
    gate.begun()
    assert f"queue {name} (SEALED: 0 ready, 1 running, 0 delayed of 1 put)" in timed_out(lambda: queue.join(0.1), 0.1)
    gate.open()
    queue.join(30)


def test_that_no_worker_serves_the_queue(client: Client, name: str) -> None:
    queue = client.queue(name, square, workers="gpu")
    produce(queue, None, [1])
    assert NO_WORKER in timed_out(lambda: queue.join(0.1), 0.1)
    assert NO_WORKER in timed_out(lambda: next(queue.results(timeout=0.1)), 0.1)
    assert NO_WORKER in timed_out(lambda: list(client.map(square, [1], workers="gpu", timeout=0.1)), 0.1)
    queue.cancel()


def test_that_there_is_no_room(client: Client, name: str) -> None:
    queue = client.queue(name, maxsize=2, producers=2)
    produce(queue, None, [1, 2])
    late = queue.producer()
    late._room = 2  # as it would see it had the other come a moment later
    late.put_many([3, 4])
    assert timed_out(lambda: late.flush(0.2), 0.2) == f"for room for 2 items in queue {name}"
    queue.cancel()


# No worker


def register(client: Client, broker: str, node: str = "one") -> None:
    """A worker that serves "gpu", and takes its tickets from there."""
    info = WorkerInfo(node, ("gpu",), 2, "prefork", "box", 17, "0.1.0", 1_700_000_000_000, broker)
    client._connection.registry.register(info, 60)


@pytest.mark.parametrize("astray", [False, True], ids=["none is there", "they have another broker"])
def test_every_wait_for_workers_ends_when_none_comes(lonely: Cluster, astray: bool) -> None:
    with lonely.client(worker_wait_s=0.3) as client:
        if astray:
            register(client, "redis+socket:///elsewhere?virtual_host=7")
        queue, full = (
            client.queue("waits", square, workers="gpu"),
            client.queue("full", square, workers="gpu", maxsize=1),
        )
        out, one = full.producer(), full.producer()
        produce(queue, None, [1])
        one.put(1)
        one.flush()
        one._room = 1  # as if another had taken the room meanwhile
        one.put(2)
        waits: dict[str, Callable[[], Any]] = {
            "join": queue.join,
            "job": client.job("waits").wait,
            "results": lambda: list(queue.results()),
            "map": lambda: list(client.map(square, [1], workers="gpu")),
            "submit": lambda: client.submit_to("gpu", square, 1).result(),
            "put": lambda: out.put(2),
            "flush": one.flush,
        }
        with ThreadPoolExecutor(len(waits)) as threads:
            asked = {how: threads.submit(wait) for how, wait in waits.items()}
        for how, future in asked.items():
            error = future.exception(30)
            assert isinstance(error, NoWorker), how
            assert (error.celery_queue, error.waited_s >= 0.3) == ("gpu", True)
            assert ("set LASTCALL_BROKER_URL" if astray else NO_WORKER) in str(error)
        queue.cancel()
        full.cancel()


def test_workers_that_do_not_say_their_broker_count(lonely: Cluster) -> None:
    with lonely.client(worker_wait_s=0.1) as client:
        register(client, "redis+socket:///elsewhere?virtual_host=7", "one")
        register(client, "", "of an older version")
        queue = client.queue("waits", square, workers="gpu")
        produce(queue, None, [1])
        assert "LASTCALL_BROKER_URL" not in timed_out(lambda: queue.join(1.5), 1.5)
        queue.cancel()


def test_busy_workers_that_may_have_the_same_broker_by_another_name_are_waited_for(lonely: Cluster) -> None:
    with lonely.client(worker_wait_s=0.1) as client:
        register(client, "redis+socket:///another/name?virtual_host=0")
        busy, queue = client.queue("busy", square, workers="gpu"), client.queue("waits", square, workers="gpu")
        produce(busy, None, [1])
        produce(queue, None, [1])
        ledger = busy._ledger
        (ticket,) = client._connection.redis.zrange(keys.of_queue("busy", "busy", "tickets"), 0, -1)  # type: ignore[misc,str-unpack]
        assert ledger.next(ticket.decode(), "its slot", 60_000, 1).chunks
        assert "set LASTCALL_BROKER_URL" in timed_out(lambda: queue.join(1.5), 1.5)
        busy.cancel()
        with pytest.raises(NoWorker, match="another/name"):
            queue.join(30)
        queue.cancel()


def test_what_is_done_meanwhile_is_waited_for(lonely: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("lastcall.waiting.time", SimpleNamespace(monotonic=lambda: now))
    with lonely.client(worker_wait_s=10) as client:
        register(client, "redis+socket:///elsewhere?virtual_host=7")
        queue = client.queue("waits", square, workers="gpu")
        produce(queue, None, [1])
        status, patience = queue.status(), Patience(client._connection)
        for done in range(4):  # by tickets that its workers' reaper has sent
            patience.look(replace(status, done=done))
            now += 9
        now += 1
        with pytest.raises(NoWorker) as raised:
            patience.look(replace(status, done=3))
        assert raised.value.waited_s == 10
        queue.cancel()


def test_a_worker_is_missed_only_when_there_is_work(lonely: Cluster) -> None:
    with lonely.client(worker_wait_s=0.1) as client:
        queue = client.queue("waits", square)
        with queue.producer():
            assert "producer" in timed_out(lambda: queue.join(1.5), 1.5)
            assert "producer" in timed_out(lambda: list(queue.results(timeout=1.5)), 1.5)


def test_a_wait_says_early_that_no_worker_is_there(
    lonely: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lastcall.waiting._SILENT_S", 0.5)
    with lonely.client(worker_wait_s=2) as client, caplog.at_level(logging.WARNING, "lastcall"):
        queue = client.queue("waits", square)
        produce(queue, None, [1])
        with pytest.raises(NoWorker):
            queue.join()
        said = [record.getMessage() for record in caplog.records if record.name == "lastcall.waiting"]
        assert said == [
            'queue waits waits: no worker serves the Celery queue "cpu": start one with: lastcall worker -Q cpu'
        ]
        queue.cancel()


# Where no worker is alive, those who wait look after what fell silent


@pytest.mark.parametrize("how", ["iterate", "join"])
def test_a_lost_producer_is_noticed_without_workers(lonely: Cluster, how: str) -> None:
    with lonely.client(lease_s=0.5, reap_s=0.1) as client:
        queue = client.queue("alone")
        out = queue.producer("camera")
        out.put_many([1, 2] if how == "iterate" else [])
        out.flush()
        client._connection.heart.drop_producer(queue._ledger, "camera", out._epoch)  # as if it were killed
        with pytest.raises(ProducerLost, match="camera"):
            list(queue) if how == "iterate" else queue.join(30)


# The server goes away


def test_waits_end_at_their_timeout_while_the_server_stands_still(
    lonely: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lastcall.connection._ANSWER_S", 2.0)
    with lonely.client() as client:
        queue, table = client.queue("frozen", square), client.queue("table")
        out, cook = queue.producer("camera"), table.producer("cook")
        out.put(1)
        out.flush()
        consumer, results = table.consumer(), queue.results(timeout=0.5)
        with pytest.raises(Empty):
            consumer.get(0.01)
        waits = {"join": lambda: queue.join(0.5), "results": lambda: next(results), "get": lambda: consumer.get(0.5)}
        with lonely.server.paused(), ThreadPoolExecutor(len(waits)) as threads:
            began = time.monotonic()
            asked = {how: threads.submit(wait) for how, wait in waits.items()}
            raised = {how: future.exception(30) for how, future in asked.items()}
            assert time.monotonic() - began < 6  # it is given 2 s to answer
        for how in ("join", "results"):
            assert isinstance(raised[how], WaitTimeout)
            assert "queue frozen: the server at unix://" in str(raised[how])
            assert "has been away for" in str(raised[how])
        assert isinstance(raised["get"], Empty)
        assert "queue table: the server at unix://" in str(raised["get"])
        # Its leases were longer than that.
        cook.put("bun")
        assert consumer.get(10) == "bun"
        cook.close()
        assert list(consumer) == []
        queue.cancel()


def test_waits_go_on_when_the_server_comes_back() -> None:
    with Server(tcp=False, persistent=True) as server, Client(server.unix_url, "a key that is long enough") as client:
        queue, table = client.queue("queue", square), client.queue("table", maxsize=2)
        out, cook = queue.producer("camera"), table.producer("cook")
        out.put(1)
        out.flush()
        with ThreadPoolExecutor(4) as threads:
            waits = [threads.submit(queue.join), threads.submit(lambda: list(queue.results()))]
            eaten = threads.submit(lambda: list(table))
            cook.put_many([1, 2, 3])
            server.kill()
            cooking = threads.submit(cook.put_many, range(4, 30))
            server.start()
            cooking.result(30)
            cook.close()
            assert eaten.result(30) == list(range(1, 30))
            queue.cancel()
            for wait in waits:
                assert isinstance(wait.exception(30), QueueCancelled)


def test_waits_end_by_name_when_the_server_does_not_come_back(lonely: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lastcall.waiting._AWAY_S", 0.5)
    client = lonely.client()
    queue, table = client.queue("gone", square, maxsize=1), client.queue("table")
    out, cook, other = queue.producer(), table.producer(), table.producer()
    out.put(1)
    out.flush()
    future = client.submit(square, 1)
    results = client.map(square, [1])
    consumer = table.consumer()
    with pytest.raises(Empty):
        consumer.get(0.01)
    lonely.server.kill()
    waits: list[Callable[[], Any]] = [
        queue.join, lambda: next(queue.results()), lambda: next(results), lambda: out.put(2), consumer.get,
        queue.status, lambda: client.queue("other"), client.status, lambda: client.job("gone").status(),
        lambda: table.producer(), lambda: list(queue.dead_letters()), queue.seal, client.workers, other.close,
        lambda: client.map(square, [1]), lambda: client.submit_to("io", square, 1), future.result,
    ]  # fmt: skip
    with ThreadPoolExecutor(len(waits)) as threads:
        raised = [future.exception(30) for future in [threads.submit(wait) for wait in waits]]
    for at, error in enumerate(raised):
        assert isinstance(error, ServerUnreachable), at
        assert f"expected a Redis or Valkey server at {lonely.url}, but it cannot be reached" in str(error)
    cook.abandon()
    client.close(wait=False)


def test_an_outage_is_told_once_and_borne_for_a_minute(
    lonely: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("lastcall.waiting.time.monotonic", lambda: now[0])
    monkeypatch.setattr("lastcall.waiting.time.sleep", lambda s: now.__setitem__(0, now[0] + s))
    with lonely.client() as client:
        outage = Outage(client._connection)
        for _ in range(299):
            outage.bear(ConnectionError("no"))
        assert str(outage).endswith("has been away for 60 s")
        outage.bear(ConnectionError("no"))
        with pytest.raises(ServerUnreachable, match="no"):
            outage.bear(ConnectionError("no"))
        assert len([r for r in caplog.records if "is away: no" in r.getMessage()]) == 1
        outage.over()
        assert not outage
