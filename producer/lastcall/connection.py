"""A process's connection to a server: what every handle (queue, job, client) works through.

A handle that is pickled, or inherited by a fork, finds its process's own connection by its settings.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from lastcall.connect import connect
from lastcall.envelope import Sealer
from lastcall.errors import ServerOutOfMemory, ServerReadOnly, ServerUnreachable
from lastcall.heart import Heart
from lastcall.place import has_greenlets
from lastcall.registry import Registry
from lastcall.shared.permits import Permits
from lastcall.state import keys
from lastcall.state.ledger import Ledger
from lastcall.tickets import TicketSender
from lastcall.waiting import AWAY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lastcall.private import LocalCluster
    from lastcall.settings import Settings

_log = logging.getLogger(__name__)
_ANSWER_S = 5.0
_NONE_S = 0.05  # how long it is believed that no worker is there


class Connection:
    """One server, as one process reaches it.

    redis: for all that is sent. asking: for waits, which do not wait long for a server that does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pid: Final = os.getpid()
        self._where: Final = _where()
        self.closed = False
        self.redis = connect(settings)
        self.asking = connect(settings, socket_timeout=_ANSWER_S)
        self.sealer = Sealer(settings.key)
        self.registry = Registry(self.asking)
        broker = settings.broker
        assert broker is not None  # connect() has refused settings without a server
        self.tickets = TicketSender(broker)
        self.heart = Heart(self)
        self.permits = Permits()
        self._has_sent = False
        self._is_gone = False
        self._slots: dict[str, int] = {}  # as last known
        self._none_seen = float("-inf")

    @classmethod
    def of(cls, settings: Settings) -> Connection:
        """This process's connection with these settings, made at the first call."""
        with _lock:
            connection = _connections.get((_where(), settings))
            if connection is None:
                connection = _connections[_where(), settings] = cls(settings)
            return connection

    def here(self) -> Connection:
        """This one, or the like of it where it was brought to another process by a fork, or to a thread that has other
        greenlets."""
        return self if self._where == _where() else Connection.of(self.settings)

    @property
    def cluster(self) -> LocalCluster | None:
        """The private cluster that the server is of, in the process that it belongs to."""
        return _clusters.get((os.getpid(), self.settings.url or ""))

    @property
    def lease_ms(self) -> int:
        return int(self.settings.lease_s * 1000)

    def asked(self, ledger: Ledger) -> Ledger:
        """The same ledger, for waits."""
        return Ledger(self.asking, ledger.job, ledger.names)

    def ensure_workers(self, celery_queue: str) -> None:
        """Where the server is a private one: have a worker serve this Celery queue."""
        cluster = self.cluster
        if cluster is not None:
            cluster.ensure_workers(celery_queue)

    def slots(self, celery_queue: str) -> int:
        """Live slots that serve this Celery queue: the cap on a queue's tickets. While the server is away: as last."""
        try:
            slots = self.registry.slots(celery_queue)
            now = time.monotonic()
            if slots == 0 and now - self._none_seen >= _NONE_S:
                # A worker that came a moment ago found nothing to do, and what is put now brings it no ticket.
                self._none_seen = now
                slots = self.registry.slots(celery_queue, refresh=True)
        except AWAY:
            return self._slots.get(celery_queue, 0)
        self._slots[celery_queue] = slots
        return slots

    def send(self, celery_queue: str, address: str, tickets: Sequence[str]) -> None:
        """Send tickets through Celery. Raises ServerUnreachable if Celery's broker was never reached, WrongPassword."""
        if not tickets:
            return
        try:
            self.tickets.send(celery_queue, address, tickets)
            self._has_sent = True
        except (ServerUnreachable, ServerReadOnly, ServerOutOfMemory) as error:
            if isinstance(error, ServerUnreachable) and not self._has_sent:
                raise
            # What was put is safe, and tickets that are lost are replaced: by a worker, or by who waits here.
            _log.warning("tickets for queue %s are not sent now: %s", address, error)

    def send_minted(self, ledger: Ledger) -> None:
        """Send the tickets that a change of this queue has brought about for those downstream of it."""
        for name, tickets in ledger.take_minted():
            other = ledger.other(name)
            self.send(other.celery_queue(), other.address, tickets)

    def refused(self) -> None:
        """Count an envelope that was not genuine, for `lastcall status`."""
        with contextlib.suppress(RedisError):  # the error that is raised for it matters more
            self.redis.hincrby(keys.REFUSED, f"client@{socket.gethostname()}", 1)

    def is_gone(self) -> bool:
        """Whether it is closed, or the server does not answer now; for the end of the process, where that is asked for
        each queue, and once is enough."""
        if not self.closed and not self._is_gone:
            try:
                self.asking.ping()
            except RedisError:
                self._is_gone = True
        return self.closed or self._is_gone

    def close(self) -> None:
        """Let go of the server: leases are no longer renewed, handles stop working."""
        self.closed = True
        with _lock:
            _connections.pop((self._where, self.settings), None)
        self.heart.stop()
        self.tickets.close()
        self.asking.close()
        self.redis.close()


def host(cluster: LocalCluster) -> None:
    """This process has a private cluster, for all clients of that server in it."""
    _clusters[os.getpid(), cluster.url] = cluster


def unhost(cluster: LocalCluster) -> None:
    """It is closed."""
    _clusters.pop((os.getpid(), cluster.url), None)


def _where() -> tuple[int, int]:
    """Where a connection may be used: in its process, of which a greenlet's sockets are one thread's."""
    return os.getpid(), threading.get_native_id() if has_greenlets() else 0


_connections: dict[tuple[tuple[int, int], Settings], Connection] = {}
_clusters: dict[tuple[int, str], LocalCluster] = {}
_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


# A lock that another thread held at the moment of the fork would never be free in the child.
os.register_at_fork(after_in_child=_renew_lock)
