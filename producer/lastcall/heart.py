"""The heart: a thread that renews the leases which this process holds and looks after what it waits for.

It beats a few times a lease: renews producers' leases and consumers' tickets, and reaps the queues that somebody here
waits for, so that a wait ends even where no worker is alive to do it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
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
    watchers: int = 0
    celery_queue: str | None = None  # not known yet

    @property
    def idle(self) -> bool:
        return not (self.tickets or self.producers or self.watchers > 0)


class Heart:
    """Renews the leases of one connection. Its thread runs while there is something to renew."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._held: dict[str, _Held] = {}
        self._kept: dict[bytes, Callable[[], None]] = {}  # what else beats with it
        # Re-entrant: the garbage collector may let go of a map while this is held.
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self.beaten = threading.Event()  # set after each beat
        self._asked: deque[Callable[[], None]] = deque()

    def hold_producer(self, ledger: Ledger, producer: str, epoch: int, on_lost: Callable[[], None]) -> None:
        """Renew a producer's lease from now on."""
        with self._lock:
            producers = self._of(ledger).producers
            taken_over = [key for key in producers if key[0] == producer]
            told = [producers.pop(key) for key in taken_over]
            producers[producer, epoch] = on_lost
            self._beat_on()
        for tell in told:
            tell()

    def drop_producer(self, ledger: Ledger, producer: str, epoch: int) -> None:
        """Renew it no longer."""
        with self._lock:
            if ledger.address in self._held:
                self._held[ledger.address].producers.pop((producer, epoch), None)

    def hold_ticket(self, ledger: Ledger, ticket: str, on_lost: Callable[[], None]) -> None:
        """Renew a consumer's ticket from now on."""
        with self._lock:
            self._of(ledger).tickets[ticket] = on_lost
            self._beat_on()

    def drop_ticket(self, ledger: Ledger, ticket: str) -> None:
        """Renew it no longer."""
        with self._lock:
            if ledger.address in self._held:
                self._held[ledger.address].tickets.pop(ticket, None)

    def watch(self, ledger: Ledger) -> None:
        """Reap this queue from now on, because somebody here waits for it."""
        with self._lock:
            self._of(ledger).watchers += 1
            self._beat_on()

    def unwatch(self, ledger: Ledger) -> None:
        """The end of a watch()."""
        with self._lock:
            if ledger.address in self._held:
                self._held[ledger.address].watchers -= 1

    @contextlib.contextmanager
    def watching(self, ledger: Ledger) -> Iterator[None]:
        """Reap this queue meanwhile, because somebody here waits for it."""
        self.watch(ledger)
        try:
            yield
        finally:
            self.unwatch(ledger)

    def keep(self, key: bytes, beat: Callable[[], None]) -> None:
        """Call this at each beat, from now on. It may raise where the server is away."""
        with self._lock:
            self._kept[key] = beat
            self._beat_on()

    def let_go(self, key: bytes) -> None:
        """The end of a keep()."""
        with self._lock:
            self._kept.pop(key, None)

    def later(self, function: Callable[[], None]) -> None:
        """Have it called at the next beat, in a thread of its own; never where nothing is held here.

        For what the garbage collector finds, which may be at work while any lock is held: this takes none.
        """
        self._asked.append(function)

    def stop(self) -> None:
        """Renew nothing any more."""
        with self._lock:
            self._held.clear()
            self._kept.clear()
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
        if self._thread is None:
            self._wake = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(self._wake,), name="lastcall-heart", daemon=True)
            self._thread.start()

    def _run(self, wake: threading.Event) -> None:
        settings = self._connection.settings
        every_s = min(settings.lease_s / _BEATS_A_LEASE, settings.reap_s)
        away = False
        while not wake.wait(every_s):
            while self._asked:
                threading.Thread(target=self._asked.popleft(), name="lastcall-later").start()
            with self._lock:
                for address in [address for address, held in self._held.items() if held.idle]:
                    del self._held[address]
                beat, kept = list(self._held.values()), list(self._kept.values())
                if not beat and not kept:
                    if self._thread is threading.current_thread():
                        self._thread = None
                    return
            # All leases first: reaping takes longer, and may wait for a broker that is away.
            failed = [*map(self._renew, beat), *map(_call, kept), *map(self._reap, beat)]
            errors = [error for error in failed if error is not None]
            if errors and not away:
                # It comes back, or the leases run out there: either way this thread goes on.
                _log.warning("leases cannot be renewed now: %s", errors[0])
            away = bool(errors)
            self.beaten.set()

    def _renew(self, held: _Held) -> Exception | None:
        with self._lock:
            tickets, producers = dict(held.tickets), dict(held.producers)
        if not tickets and not producers:
            return None
        try:
            # By the connection that does not wait long: one that the network has forgotten must not cost the lease.
            lost = self._connection.asked(held.ledger).renew(self._connection.lease_ms, list(tickets), list(producers))
        except (RedisError, LastcallError, OSError) as error:
            return error
        for ticket in lost[0]:
            tickets[ticket]()
        for (producer, _), on_lost in producers.items():
            if producer in lost[1]:
                on_lost()
        return None

    def _reap(self, held: _Held) -> Exception | None:
        if held.watchers <= 0:
            return None
        connection = self._connection
        try:
            if held.celery_queue is None:
                held.celery_queue = held.ledger.celery_queue()
            reap_queue(held.ledger, held.celery_queue, connection.registry, connection.tickets)
        except (RedisError, LastcallError, OSError) as error:
            return error
        return None


def _call(beat: Callable[[], None]) -> Exception | None:
    try:
        beat()
    except (RedisError, LastcallError, OSError) as error:
        return error
    return None
