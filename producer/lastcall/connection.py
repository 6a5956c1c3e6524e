"""A process's connection to a server: what every handle (queue, job, client) works through.

A handle that is pickled, or inherited by a fork, finds its process's own connection by its settings.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from lastcall.connect import connect
from lastcall.envelope import Sealer
from lastcall.heart import Heart
from lastcall.registry import Registry
from lastcall.tickets import TicketSender

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lastcall.local import LocalCluster
    from lastcall.settings import Settings


class Connection:
    """One server, as one process reaches it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.redis = connect(settings)
        self.sealer = Sealer(settings.key)
        self.registry = Registry(self.redis)
        broker = settings.broker
        assert broker is not None  # connect() has refused settings without a server
        self.tickets = TicketSender(broker)
        self.heart = Heart(self)
        self.cluster: LocalCluster | None = None

    @classmethod
    def of(cls, settings: Settings) -> Connection:
        """This process's connection with these settings, made at the first call."""
        with _lock:
            connection = _connections.get((os.getpid(), settings))
            if connection is None:
                connection = _connections[os.getpid(), settings] = cls(settings)
            return connection

    @property
    def lease_ms(self) -> int:
        return int(self.settings.lease_s * 1000)

    def ensure_workers(self, celery_queue: str) -> None:
        """Where the server is a private one: have a worker serve this Celery queue."""
        if self.cluster is not None:
            self.cluster.ensure_workers(celery_queue)

    def slots(self, celery_queue: str) -> int:
        """Live slots that serve this Celery queue: the cap on a queue's tickets."""
        return self.registry.slots(celery_queue)

    def send(self, celery_queue: str, address: str, tickets: Sequence[str]) -> None:
        """Send tickets through Celery."""
        if tickets:
            self.tickets.send(celery_queue, address, tickets)

    def close(self) -> None:
        """Let go of the server: leases are no longer renewed, handles stop working."""
        with _lock:
            _connections.pop((os.getpid(), self.settings), None)
        self.heart.stop()
        self.tickets.close()
        self.redis.close()


_connections: dict[tuple[int, Settings], Connection] = {}
_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


# A lock that another thread held at the moment of the fork would never be free in the child.
os.register_at_fork(after_in_child=_renew_lock)
