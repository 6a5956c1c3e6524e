"""The registry of workers: who serves which Celery queue, and that the dead are not counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from lastcall.registry import Registry, WorkerInfo
from lastcall.state import keys
from tests.integration.ledger_server import ledger_server

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with ledger_server() as client:
        yield client


@pytest.fixture
def client(server: Redis) -> Redis:
    server.flushall()
    return server


def info(node: str, *queues: str, slots: int = 2) -> WorkerInfo:
    return WorkerInfo(node, queues, slots, "prefork", "box", 17, "0.1.0", 1_700_000_000_000)


def forgotten(registry: Registry, node: str) -> bool:
    """Wait, by asking, until the server's clock has passed a worker's deadline."""
    deadline = time.monotonic() + 5
    while any(worker.node == node for worker in registry.live()):
        assert time.monotonic() < deadline, f"{node} is still there"
    return True


def test_everybody_sees_a_worker_that_registered(client: Redis) -> None:
    one, other = info("one@box", "cpu", "gpu"), info("other@box", "cpu", slots=16)
    assert Registry(client).register(other, 10) == [other]
    assert Registry(client).register(one, 10) == [one, other]
    assert Registry(client).live() == [one, other]


def test_slots_are_those_that_serve_the_celery_queue(client: Redis) -> None:
    registry = Registry(client)
    registry.register(info("one@box", "cpu", "gpu"), 10)
    registry.register(info("other@box", "cpu", slots=16), 10)
    assert [registry.slots(queue) for queue in ("cpu", "gpu", "io")] == [18, 2, 0]


def test_registering_again_replaces_what_a_worker_serves(client: Redis) -> None:
    registry = Registry(client)
    registry.register(info("one@box", "cpu"), 10)
    registry.register(info("one@box", "io", slots=5), 10)
    assert [registry.slots(queue) for queue in ("cpu", "io")] == [0, 5]


def test_a_worker_that_left_is_forgotten(client: Redis) -> None:
    registry = Registry(client)
    registry.register(info("one@box", "cpu"), 10)
    registry.register(info("other@box", "cpu"), 10)
    registry.forget("one@box")
    assert registry.slots("cpu") == 2
    assert client.hkeys(keys.WORKERS) == [b"other@box"]
    assert client.zrange(keys.WORKERS_SEEN, 0, -1) == [b"other@box"]


def test_a_worker_that_fell_silent_is_swept(client: Redis) -> None:
    registry = Registry(client)
    registry.register(info("alive@box", "cpu"), 10)
    registry.register(info("dead@box", "cpu"), 0.02)
    assert forgotten(registry, "dead@box")
    assert registry.slots("cpu") == 2
    assert client.hkeys(keys.WORKERS) == [b"alive@box"]
    assert client.zcard(keys.WORKERS_SEEN) == 1


def test_a_lease_lasts_from_the_last_time_by_the_servers_clock(client: Redis) -> None:
    registry = Registry(client)
    registry.register(info("one@box", "cpu"), 0.02)
    registry.register(info("one@box", "cpu"), 60)
    seconds, micros = client.time()
    left_s = float(client.zscore(keys.WORKERS_SEEN, "one@box") or 0) / 1000 - (seconds + micros / 1e6)
    assert 55 < left_s <= 60


def test_slots_are_known_for_a_second_unless_asked_for_anew(client: Redis) -> None:
    registry = Registry(client)
    registry.register(info("one@box", "cpu"), 10)
    Registry(client).register(info("other@box", "cpu"), 10)
    assert registry.slots("cpu") == 2
    assert registry.slots("cpu", refresh=True) == 4


def test_registering_and_asking_are_one_round_trip_each(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    Registry(client).live()  # the server has the script from now on
    sent: list[Any] = []
    execute = client.execute_command
    monkeypatch.setattr(client, "execute_command", lambda *args, **options: sent.append(args) or execute(*args))
    registry = Registry(client)
    registry.register(info("one@box", "cpu"), 10)
    assert len(sent) == 1
    for _ in range(100):
        registry.slots("cpu")
    assert len(sent) == 1
    registry.slots("cpu", refresh=True)
    assert len(sent) == 2
