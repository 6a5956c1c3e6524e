"""A durable server, workers on it, and clients whose connections end with the test."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lastcall import Client
from tests.conftest import start_server
from tests.proxy import Proxy
from tests.servers import Server
from tests.workers import Worker


class Service:
    """A server with a key, and what works with it; all of it ends with close().

    lease_s: of clients and workers, unless they say otherwise.
    """

    def __init__(self, *, lease_s: float, **server: Any) -> None:
        self.lease_s = lease_s
        self.key = secrets.token_hex(16)
        self._stack = contextlib.ExitStack()
        self.server: Server = start_server(**server)
        self._stack.callback(self.server.close)

    @property
    def url(self) -> str:
        return self.server.url

    def proxy(self, *, delay_s: float = 0.0) -> Proxy:
        """A proxy in front of the server."""
        return self._stack.enter_context(Proxy(self.server.port, delay_s=delay_s))

    def worker(self, node: str, *, url: str | None = None, ready: bool = True, **options: Any) -> Worker:
        """A worker. ready: that is registered."""
        more = {"LASTCALL_LEASE_S": str(self.lease_s)}
        worker = Worker(url or self.url, self.key, node, more=more, **options)
        self._stack.callback(worker.kill)
        if ready:
            worker.ready()
        return worker

    def client(self, url: str | None = None, **options: Any) -> Client:
        """A client of its own connection."""
        client = Client(url or self.url, self.key, **{"lease_s": self.lease_s, **options})
        self._stack.callback(client._connection.close)
        self._stack.callback(client.close, wait=False)
        return client

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def services() -> Iterator[Callable[..., Service]]:
    """Makes services, which last as long as the module's tests."""
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> Service:
            service = Service(**options)
            stack.callback(service.close)
            return service

        yield make


@pytest.fixture
def service() -> Iterator[Service]:
    """A durable server of the test's own, with leases of a minute: what is forgotten for a lease is seen to be."""
    service = Service(lease_s=60.0, persistent=True)
    yield service
    service.close()
