"""A server, real workers on it, and a client: what most integration tests need.

The session's workers are started once, by the first test that asks for `cluster`.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

from lastcall import Client
from lastcall.errors import ConfigError
from lastcall.private import find_server
from tests.servers import Server
from tests.workers import Worker, stop


def start_server(**options: Any) -> Server:
    """A server that runs. Where there is none to start: a skip with the reason, under CI a failure."""
    server = Server(**options)
    try:
        return server.start()
    except FileNotFoundError as error:
        server.close()
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    except BaseException:
        server.close()
        raise


@dataclass(frozen=True)
class Cluster:
    """A server with a key and workers: prefork with 2 slots on "cpu", threads with 4 on "io"."""

    server: Server
    url: str
    key: str
    workers: tuple[Worker, ...] = ()

    def client(self, **options: Any) -> Client:
        return Client(self.url, self.key, **options)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of the test's own, without workers."""
    with_server = start_server(tcp=False)
    yield with_server
    with_server.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    server = start_server(tcp=False)
    workers: tuple[Worker, ...] = ()
    try:
        url, key = server.unix_url, secrets.token_hex(16)
        workers = (
            Worker(url, key, "cpu", queues="cpu", pool="prefork", slots=2),
            Worker(url, key, "io", queues="io", pool="threads", slots=4),
        )
        for worker in workers:
            worker.ready()
        yield Cluster(server, url, key, workers)
    finally:
        stop(workers)
        server.close()


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client


@pytest.fixture
def lonely(server: Server) -> Cluster:
    """A server with a key, without workers."""
    return Cluster(server, server.unix_url, secrets.token_hex(16))


_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """Nothing is said about a server."""
    try:
        find_server()
    except ConfigError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LASTCALL_") and name != "LASTCALL_SERVER"]:
            patch.delenv(name)
        yield


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name for a queue that no other test has."""
    return f"{re.sub(r'[^a-z0-9_]+', '-', request.node.name.lower())}-{next(_numbers)}"


@pytest.fixture
def names(name: str) -> Callable[[], str]:
    """More such names."""
    more = itertools.count(1)
    return lambda: f"{name}-{next(more)}"


# A machine that is busy is no failure.
settings.register_profile("lastcall", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lastcall")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hypothesis first: it takes it for its own when a thread that another test left behind uses `random`."""

    def later(item: pytest.Item) -> bool:
        return not (is_hypothesis_test(getattr(item, "obj", None)) or "test_ledger_model" in item.nodeid)

    items.sort(key=later)
