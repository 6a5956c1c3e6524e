"""A server that takes no writes: a replica that a URL names, and a master that is made a replica in mid-job."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest

from lastcall import Client
from lastcall.errors import ServerReadOnly
from tests.conftest import start_server
from tests.faults.conftest import Service
from tests.faults.workload import Workload
from tests.functions import square
from tests.servers import Server
from tests.workers import until

pytestmark = pytest.mark.faults


def replicate(replica: Server, master: Server) -> None:
    """Make a server the replica of another, and wait until it has all that the other has."""
    client = replica.client()
    master.client().config_set("repl-diskless-sync-delay", "0")
    client.execute_command("REPLICAOF", "127.0.0.1", str(master.port))
    until(lambda: client.info("replication")["master_link_status"] == "up", "the replica to follow")


def test_a_client_of_a_replica_says_at_once_what_it_is_and_what_to_do(service: Service) -> None:
    with contextlib.closing(start_server()) as replica:
        replicate(replica, service.server)
        began = time.monotonic()
        with pytest.raises(ServerReadOnly) as caught:
            Client(replica.url, service.key)
        assert time.monotonic() - began < 5
        said = str(caught.value)
        assert f"it is a replica of 127.0.0.1:{service.server.port}" in said
        assert "point LASTCALL_URL at the master" in said


def test_waits_on_a_server_that_stays_a_replica_end_with_a_named_error(
    service: Service, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lastcall.waiting._AWAY_S", 1.0)
    client = service.client()
    queue = client.queue(name)
    out, consumer = queue.producer("camera"), queue.consumer()
    out.put(1)
    assert consumer.get(30) == 1
    admin = service.server.client()
    admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    calls: tuple[Callable[[], object], ...] = (
        lambda: (out.put(2), out.flush(30)),
        lambda: consumer.get(30),
        lambda: client.queue(f"{name}-more"),
        lambda: queue.producer("another"),
        queue.cancel,
        lambda: client.submit(square, 1).result(30),
        lambda: list(client.map(square, [1])),
    )
    for call in calls:
        with pytest.raises(ServerReadOnly, match=r"takes no writes"):
            call()
    admin.execute_command("REPLICAOF", "NO", "ONE")
    again = queue.producer("camera")
    assert again.position == 1  # what was not accepted was not put
    again.put(2)
    again.close()
    assert consumer.get(30) == 2
    assert list(consumer) == []


def test_a_failover_and_back_in_mid_job_loses_nothing(services: Callable[..., Service], name: str) -> None:
    service = services(lease_s=2.0, persistent=True)
    worker = service.worker("follower", slots=2)
    admin = service.server.client()
    with contextlib.closing(start_server()) as other:
        replicate(other, service.server)
        with Workload(service.client(), name) as work:
            work.moves()
            assert work.under_way
            # Everything that was acknowledged is there as well, and the two change places.
            admin.execute_command("FAILOVER", "TO", "127.0.0.1", str(other.port), "TIMEOUT", "20000")
            until(lambda: admin.info("replication")["role"] == "slave", "the server to become a replica")
            until(lambda: admin.info("replication")["master_link_status"] == "up", "it to follow")
            admin.execute_command("REPLICAOF", "NO", "ONE")
            work.moves()
            work.check()
    assert worker.process.poll() is None
    assert service.client().submit(square, 12).result(30) == 144
