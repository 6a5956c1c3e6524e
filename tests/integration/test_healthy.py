"""The health check of a worker's container: is a worker of this host in the registry?"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from lastcall.registry import Registry, WorkerInfo
from lastcall_worker import healthy
from tests.servers import Server

pytestmark = pytest.mark.integration


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(password="secret") as started:
        monkeypatch.setenv("LASTCALL_URL", started.url)
        yield started


def worker(node: str, host: str) -> WorkerInfo:
    return WorkerInfo(node, ("cpu",), 2, "prefork", host, 1, "0", 0)


def test_healthy_while_a_worker_of_this_host_lives(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    registry = Registry(server.client())
    registry.register(worker("cpu@me", socket.gethostname()), 60)
    assert healthy.main() == 0
    assert capsys.readouterr().out == "live: cpu@me\n"
    registry.forget("cpu@me")
    assert healthy.main() == 1


def test_workers_of_other_hosts_are_no_sign_of_health(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    Registry(server.client()).register(worker("cpu@other", "another-host"), 60)
    assert healthy.main() == 1
    assert capsys.readouterr().out == "no live worker on this host\n"


def test_not_healthy_where_the_server_cannot_be_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LASTCALL_URL", server.url.replace("secret", "guess"))
    assert healthy.main() == 1
    assert "WrongPassword" in capsys.readouterr().err
