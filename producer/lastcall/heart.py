"""The heart: a thread that renews the leases which this process holds and looks after what it waits for.

It beats a few times a lease: renews producers' leases and consumers' tickets, and reaps the queues that somebody here
waits for, so that a wait ends even where no worker is alive to do it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from lastcall.errors import LastcallError
from lastcall.reaper import reap_queue

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.state.ledger import Ledger

_log = logging.getLogger(__name__)
_BEATS_A_LEASE = 4


@dataclass(slots=True)
class _Held:
    """What this process holds of one queue, with whom to tell when a lease is lost."""

    ledger: Ledger
    tickets: dict[str, Callable[[], None]] = field(default_factory=dict)
    producers: dict[tuple[str, int], Callable[[], None]] = field(default_factory=dict)
    celery_queue: str = ""
    watchers: int = 0

    @property
    def idle(self) -> bool:
        return not (self.tickets or self.producers or self.watchers)


class Heart:
    """Renews the leases of one connection. Its thread runs while there is something to renew."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self.beaten = threading.Event()  # set after each beat

    def hold_producer(
        self, ledger: Ledger, producer: str, epoch: int, on_lost: Callable[[], None]
    ) -> None:
        """Renew a producer's lease from now on."""
        with self._lock:
            self._of(ledger).producers[producer, epoch] = on_lost
        self._beat_on()

    def drop_producer(self, ledger: Ledger, producer: str, epoch: int) -> None:
        """Renew it no longer."""
        with self._lock:
            self._of(ledger).producers.pop((producer, epoch), None)

    def hold_ticket(self, ledger: Ledger, ticket: str, on_lost: Callable[[], None]) -> None:
        """Renew a consumer's ticket from now on."""
        with self._lock:
            self._of(ledger).tickets[ticket] = on_lost
        self._beat_on()

    def drop_ticket(self, ledger: Ledger, ticket: str) -> None:
        """Renew it no longer."""
        with self._lock:
            self._of(ledger).tickets.pop(ticket, None)

    @contextlib.contextmanager
    def watching(self, ledger: Ledger, celery_queue: str) -> Iterator[None]:
        """Reap this queue meanwhile, because somebody here waits for it."""
        with self._lock:
            held = self._of(ledger)
            held.celery_queue = celery_queue
            held.watchers += 1
        self._beat_on()
        try:
            yield
        finally:
            with self._lock:
                self._of(ledger).watchers -= 1

    def stop(self) -> None:
        """Renew nothing any more."""
        with self._lock:
            self._held.clear()
            thread, self._thread = self._thread, None
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)

    def _of(self, ledger: Ledger) -> _Held:
        held = self._held.get(ledger.address)
        if held is None:
            held = self._held[ledger.address] = _Held(ledger)
        return held

    def _beat_on(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._wake = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._wake,), name="lastcall-heart", daemon=True
                )
                self._thread.start()

    def _run(self, wake: threading.Event) -> None:
        settings = self._connection.settings
        every = min(settings.lease_s / _BEATS_A_LEASE, settings.reap_s)
        away = False
        while not wake.wait(every):
            with self._lock:
                for address in [a for a, held in self._held.items() if held.idle]:
                    del self._held[address]
                beat = list(self._held.values())
            try:
                for held in beat:
                    self._renew(held)
                away = False
            except (RedisError, LastcallError, OSError) as error:
                # It comes back, or the leases run out there: either way this thread goes on.
                if not away:
                    _log.warning("leases cannot be renewed now: %s", error)
                away = True
            self.beaten.set()

    def _renew(self, held: _Held) -> None:
        with self._lock:
            tickets, producers = dict(held.tickets), dict(held.producers)
            watched = held.watchers > 0
        if tickets or producers:
            lost_tickets, lost_producers = held.ledger.renew(
                self._connection.lease_ms, list(tickets), list(producers)
            )
            for ticket in lost_tickets:
                tickets[ticket]()
            for (producer, _), on_lost in producers.items():
                if producer in lost_producers:
                    on_lost()
        if watched:
            connection = self._connection
            reap_queue(held.ledger, held.celery_queue, connection.registry, connection.tickets)
