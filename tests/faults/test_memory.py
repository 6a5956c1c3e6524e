"""The server's memory is full (noeviction): nothing more is taken, what was taken is done, and that makes room."""

from __future__ import annotations

import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lastcall import Client
from lastcall.errors import ServerOutOfMemory, WaitTimeout
from tests.faults.conftest import Service
from tests.functions import square
from tests.workers import until

pytestmark = pytest.mark.faults


@contextmanager
def full(service: Service) -> Iterator[None]:
    """Inside, the server refuses every command that may need memory."""
    admin = service.server.client()
    admin.config_set("maxmemory", "1")
    try:
        yield
    finally:
        admin.config_set("maxmemory", "0")


def slow_length(value: bytes) -> int:
    time.sleep(0.02)
    return len(value)


def slow(n: int) -> int:
    time.sleep(0.01)
    return n


def test_a_producer_that_outgrows_the_memory_is_held_back_and_everything_is_done(
    services: Callable[..., Service], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = services(lease_s=10.0, options={"maxmemory": "24mb"})
    service.worker("eater", slots=2)
    client = service.client()
    queue = client.queue(name, slow_length)
    sizes = [200_000 + n for n in range(200)]  # 40 MB
    with caplog.at_level(logging.WARNING, "lastcall"), queue.producer("camera") as out:
        for size in sizes:
            out.put(bytes(size))
    assert "refuses: " in caplog.text  # it was full
    assert queue.join(60).done == len(sizes)
    assert Counter(queue.results(timeout=30)) == Counter(sizes)
    assert client.submit(square, 12).result(30) == 144


def test_what_was_accepted_is_done_while_the_server_is_full_and_then_producers_go_on(
    services: Callable[..., Service], name: str
) -> None:
    service = services(lease_s=2.0, persistent=True)
    worker = service.worker("eater", slots=2)
    client = service.client()
    queue = client.queue(name, slow)
    with queue.producer("camera") as out:
        out.put_many(range(400))
        out.flush()
        until(lambda: queue.status().done, "work to begin")
        with full(service):
            out.put_many(range(400, 500))
            with pytest.raises(WaitTimeout, match="has refused for"):
                out.flush(0.5)
            # For longer than a slot's slice, so that its ticket would have to travel, and than a lease.
            until(lambda: queue.status().done == 400, "what was accepted to be done")
            assert queue.status().put == 400
    assert queue.join(60).done == 500
    assert Counter(queue.results(timeout=30)) == Counter(range(500))
    assert worker.process.poll() is None
    assert client.submit(square, 12).result(30) == 144


def test_a_worker_outlives_a_ticket_that_celery_cannot_note_down(services: Callable[..., Service], name: str) -> None:
    service = services(lease_s=2.0, persistent=True)
    worker = service.worker("idler", slots=1)
    client = service.client()
    queue = client.queue(name, square)
    with queue.producer("camera") as out:
        out.put(1)
        out.flush()
        until(lambda: queue.status().done == 1 and queue.status().tickets == 0, "the slot to leave")
        worker.tell(signal.SIGSTOP)  # so that it is handed the ticket, and finds the server full
        out.put(2)
        out.flush()
        with full(service):
            worker.tell(signal.SIGCONT)
            until(lambda: "used memory > 'maxmemory'" in worker.log, "Celery to be refused")
    assert queue.join(60).done == 2
    assert worker.process.poll() is None
    assert worker.ready().pid == worker.process.pid


def test_a_worker_that_is_started_on_a_full_server_waits_for_room(service: Service, name: str) -> None:
    client = service.client()
    queue = client.queue(name, square)
    with queue.producer("camera") as out:
        out.put(3)
    with full(service):
        worker = service.worker("early", slots=1, ready=False)
        until(lambda: "used memory > 'maxmemory'" in worker.log, "Celery to be refused")
    assert list(queue.results(timeout=30)) == [9]
    assert worker.process.poll() is None


@pytest.mark.parametrize("what", ["put", "queue", "producer", "token", "map", "submit"])
def test_whatever_needs_memory_raises_a_named_error(
    service: Service, name: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lastcall.waiting._AWAY_S", 0.5)
    client = service.client()
    queue = client.queue(name)
    out = queue.producer("camera")
    out.put("first")
    out.flush()
    calls: dict[str, Callable[[], Any]] = {
        "put": lambda: (out.put("second"), out.flush(30)),
        "queue": lambda: client.queue(f"{name}-more"),
        "producer": lambda: queue.producer("another"),
        "token": queue.producer_token,
        "map": lambda: list(client.map(square, [1])),
        "submit": lambda: client.submit(square, 1).result(30),
    }
    with full(service), pytest.raises(ServerOutOfMemory, match=r"has no memory left \(.*maxmemory"):
        calls[what]()
    assert queue.status().put == 1
    if what == "put":
        # It comes back under its name, and goes on where it was.
        out.abandon()
        with client.queue(name).producer("camera") as again:
            assert again.position == 1
            again.put("second")
        assert list(queue) == ["first", "second"]
    else:
        out.close()
        assert list(queue) == ["first"]


def test_a_map_that_was_begun_bears_a_full_server(services: Callable[..., Service], name: str) -> None:
    service = services(lease_s=10.0, persistent=True)
    service.worker("mapper", slots=2)
    client: Client = service.client()
    results = client.map(slow, range(200), chunksize=2)
    got = [next(results) for _ in range(50)]
    admin = service.server.client()
    admin.config_set("maxmemory", "1")
    put = client.job(results.job).status()[0].put
    while len(got) < put:  # all that was accepted comes out
        got.append(next(results))
    admin.config_set("maxmemory", "0")
    assert got + list(results) == list(range(200))
