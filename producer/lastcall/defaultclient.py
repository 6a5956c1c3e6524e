"""The server of queues that are made without a client: LASTCALL_URL's, or one private server for all of a program."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from lastcall.connection import Connection, host
from lastcall.settings import Settings

if TYPE_CHECKING:
    from lastcall.client import Client

_lock = threading.Lock()
_private: Settings | None = None  # what a fork needs, too: it uses its parent's


def connection_of(client: Client | None) -> Connection:
    """A client's connection, or without one this process's own. Raises what Client() does."""
    if client is not None:
        return client._open()
    settings = Settings.load()
    return Connection.of(settings if settings.url is not None else _private_settings(settings))


def _private_settings(settings: Settings) -> Settings:
    global _private
    with _lock:
        if _private is None:
            from lastcall.client import environment_of
            from lastcall.local import LocalCluster  # needs the extra `local`

            cluster = LocalCluster(environment=environment_of(settings))  # its workers start when one is asked for
            host(cluster)
            _private = replace(settings, url=cluster.url, key=cluster.key, broker_url=None)
        return _private
