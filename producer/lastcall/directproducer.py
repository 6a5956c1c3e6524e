"""DirectProducer: a producer whose put() is through when the item is in the queue, or raises Full.

Producer sends what was put behind its caller's back, by the room that there was when it last heard. Where the bound is
to hold at every put, and between machines, each put has to ask: one round trip an item.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from lastcall.current import HELP_S, help_at, help_with, running
from lastcall.errors import Full, LeaseLost
from lastcall.payload import seal_dumped
from lastcall.waiting import AWAY, Deadline, Outage, Patience, unreachable

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.state.ledger import Ledger

_ROOM_S = 1.0  # how long to wait for the room bell before looking again


class DirectProducer:
    """A live producer of a queue, for put() of queues; threads may share it, forks may not.

    If its lease was lost, because this process was suspended, say, it takes it out again: there is nothing here that
    could have been lost with it.
    """

    def __init__(self, connection: Connection, ledger: Ledger, celery_queue: str, name: str, maxsize: int) -> None:
        self.name = name
        self._connection = connection
        self._ledger = ledger
        self._celery_queue = celery_queue
        self._maxsize = maxsize
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._stale = False  # whether it is unknown what has arrived
        self._join()

    def put_dumped(self, dumped: bytes, *, timeout: float | None = None) -> None:
        """Add an item that went through sealer.dump(). Raises Full at the timeout, QueueFinished, NoWorker;
        ServerUnreachable and the like, where it is not known whether it was put.
        """
        deadline, patience = Deadline(timeout), Patience(self._connection)
        while not self.offer(dumped, deadline):
            if deadline.passed:
                raise Full(self._ledger.shown, self._maxsize, deadline.waited_s)
            self._wait_for_room(deadline, patience)

    waiting = 0  # items that were put and are not in the queue yet

    def flush(self, timeout: float | None = None) -> None:
        """It is."""

    def close(self, *, patient: bool = True) -> None:
        """Leave the queue: one live producer less. patient: bears a server that is away."""
        self._leave(lost=False, patient=patient)

    def abandon(self) -> None:
        """Leave the queue as lost."""
        self._leave(lost=True, patient=False)

    def _leave(self, *, lost: bool, patient: bool) -> None:
        if os.getpid() != self._pid:
            return
        outage = Outage(self._connection)
        try:
            while True:
                try:
                    self._ledger.leave(self.name, self._epoch, lost=lost)
                    return
                except AWAY as error:
                    if not patient:
                        return
                    outage.bear(error)
        finally:
            self._connection.heart.drop_producer(self._ledger, self.name, self._epoch)

    def _join(self) -> None:
        lease = self._ledger.join(self.name)
        self._index, self._epoch, self._sent = lease.index, lease.epoch, lease.seq
        self._connection.heart.hold_producer(self._ledger, self.name, lease.epoch, _no_matter)
        self._stale = False

    def offer(self, dumped: bytes, deadline: Deadline) -> bool:
        """Put it if there is room; False if there is none. Raises what put_dumped() does."""
        outage, number = Outage(self._connection), 0
        with self._lock:  # until it is known whether it arrived: the next one's number depends on that
            while True:
                try:
                    if self._stale:
                        # A new lease says what had arrived, and shuts out what may still be on its way.
                        self._join()
                        if 0 < number <= self._sent:
                            return True
                    number = self._sent + 1
                    return self._send(number, dumped)
                except LeaseLost:
                    self._stale = True
                except AWAY as error:
                    self._stale = True
                    if deadline.passed:
                        raise unreachable(self._connection, error) from error
                    outage.bear(error, deadline.left(_ROOM_S))

    def _send(self, number: int, dumped: bytes) -> bool:
        connection, ledger, celery_queue = self._connection, self._ledger, self._celery_queue
        payload = seal_dumped(connection.sealer, ledger.job, ledger.name, f"{self._index}-{number}", [dumped])
        cap = connection.slots(celery_queue) if celery_queue else 0
        put = ledger.put(self.name, self._epoch, number, [(1, payload)], cap)
        self._sent = put.seq
        connection.send(celery_queue, ledger.address, put.tickets)
        return not put.full

    def _wait_for_room(self, deadline: Deadline, patience: Patience) -> None:
        """A while; a worker's function does meanwhile what makes room."""
        connection, ledger = self._connection, self._ledger
        if help_with(ledger) if self._celery_queue else help_at(ledger, deadline.waited_s):
            return
        wait_s = max(deadline.left(HELP_S if running.get() else _ROOM_S), 0.001)
        try:
            with connection.heart.watching(ledger):  # somebody who was to make room may have died
                if not connection.asking.blpop([ledger.room_key], timeout=wait_s):
                    patience.look(ledger.status())
        except AWAY:
            return  # the next put bears it


def _no_matter() -> None:
    """put() finds out by itself."""
