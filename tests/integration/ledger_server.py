"""A server for the tests that drive the ledger's scripts without workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis import Redis

from tests.servers import Server, server_binary


@contextmanager
def ledger_server() -> Iterator[Redis]:
    """A client of a fresh server. Where there is no server: a skip, under CI an error."""
    try:
        server_binary()
    except FileNotFoundError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with Server(tcp=False) as server:
        yield server.client()
