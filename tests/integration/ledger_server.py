"""A server for the tests that drive the ledger's scripts without workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis import Redis

from tests.servers import Server


@contextmanager
def ledger_server() -> Iterator[Redis]:
    """A client of a fresh server. Where there is no server: a skip, under CI an error."""
    server = Server(tcp=False)
    try:
        server.start()
    except FileNotFoundError as error:
        server.close()
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with server:
        yield server.client()
