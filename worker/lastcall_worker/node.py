"""Node: a worker's word that it is alive. A thread tells the registry what the worker serves, and
renews the tickets that its slots are running, however long a function takes.

A thread, not a timer: the event loop of a solo worker stands still while its slot runs.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from celery import concurrency
from celery.platforms import EX_FAILURE
from celery.worker import state
from redis.exceptions import RedisError

from lastcall.connection import Connection
from lastcall.errors import LastcallError, ServerTooOld
from lastcall.registry import WorkerInfo
from lastcall.state.ledger import Ledger
from lastcall.state.records import split
from lastcall.tickets import SLOT_TASK
from lastcall.version import __version__
from lastcall_worker import moved
from lastcall_worker.request import wake_loop

if TYPE_CHECKING:
    from lastcall.settings import Settings
    from lastcall_worker.reaper import Reaper

_log = logging.getLogger(__name__)

_LOOK_S: Final = 0.5  # between two looks at what the worker serves: remote control may change it
_AGAIN_S: Final = 1.0  # after a failure


class Node:
    """One worker's thread. worker: Celery's WorkController."""

    def __init__(
        self, worker: Any, settings: Settings, reaper: Reaper, is_frozen: Callable[[int | None], bool] = lambda _: False
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._reaper = reaper
        self._is_frozen = is_frozen
        self._every_s = settings.ticket_lease_ms / 3000
        self._info = WorkerInfo(
            node=str(worker.hostname),
            queues=(),
            slots=0,
            pool=pool_name(worker.pool),
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            started_ms=int(time.time() * 1000),
            broker=settings.broker_shown,
        )
        self._leaving = False
        self._stopped = False
        self._wake = threading.Event()
        self.registered = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lastcall-node", daemon=True)

    def start(self) -> None:
        """Register as soon as the worker consumes."""
        self._thread.start()

    def look(self) -> None:
        """The worker has begun to consume."""
        self._wake.set()

    def leave(self) -> None:
        """The worker takes no more tickets; those that it runs are renewed all the same."""
        self._leaving = True
        self._wake.set()

    def stop(self, timeout_s: float = 2.0) -> None:
        """The worker has ended."""
        self._leaving = self._stopped = True
        self._wake.set()
        self._thread.join(timeout_s)

    def give_back(self) -> None:
        """The worker's slots are killed: end their tickets, lest others wait for their leases."""
        try:
            redis = Connection.of(self._settings).redis
            for address, tickets in running_tickets().items():
                ledger = Ledger.open(redis, *split(address))
                for ticket in tickets:
                    ledger.release(ticket)
        except (LastcallError, RedisError, OSError) as error:
            _log.warning("what this worker's slots held comes back when their leases have run out: %s", error)

    def _run(self) -> None:
        due, away, there = 0.0, False, False
        while True:
            stopped = self._stopped
            info = self._now()
            grown = set(info.queues) - set(self._info.queues) or info.slots > self._info.slots
            try:
                if self._leaving:
                    if there:
                        Connection.of(self._settings).registry.forget(info.node)
                        there = False
                elif info.queues and (info != self._info or time.monotonic() >= due):
                    Connection.of(self._settings).registry.register(info, self._settings.lease_s)
                    there, self._info = True, info
                    self.registered.set()
                    if grown:
                        self._reaper.top_up(info.queues)
                if time.monotonic() >= due:
                    self._renew()
                    due = time.monotonic() + self._every_s
                    away = False  # not where nothing was asked: the outage goes on
            except ServerTooOld as error:
                _log.critical("this worker cannot run: %s", error)
                end_worker(EX_FAILURE)
                return
            except (LastcallError, RedisError, OSError) as error:
                # Redis comes back, or it does not: the worker's broker tells, this thread goes on.
                if not away:
                    _log.warning("this worker's leases cannot be renewed now: %s", error)
                away = True
                due = time.monotonic() + min(_AGAIN_S, self._every_s)
            if stopped:
                return
            self._wake.wait(min(_LOOK_S, max(0.0, due - time.monotonic())))
            self._wake.clear()

    def _now(self) -> WorkerInfo:
        """What the worker serves now; before it consumes: as last."""
        worker = self._worker
        consumer = getattr(getattr(worker, "consumer", None), "task_consumer", None)
        if consumer is None:
            return self._info
        return replace(
            self._info,
            queues=tuple(sorted({str(queue.name) for queue in tuple(consumer.queues)})),
            # With --autoscale the pool grows as tickets come, so they must be let come.
            slots=int(worker.max_concurrency or worker.pool.num_processes),
        )

    def _renew(self) -> None:
        connection = Connection.of(self._settings)
        for address, tickets in running_tickets(self._is_frozen).items():
            job, name = split(address)
            # By the connection that does not wait long: one that the network has forgotten must not cost the lease.
            Ledger(connection.asking, job, [name]).renew(self._settings.ticket_lease_ms, tickets)


def pool_name(pool: Any) -> str:
    """What -P calls it."""
    path = f"{type(pool).__module__}:{type(pool).__qualname__}"
    return next((name for name, known in concurrency.ALIASES.items() if known == path), path)


def end_worker(code: int) -> None:
    """A warm shutdown, as a signal would bring about: the worker's loop looks at this."""
    if state.should_stop is None:
        state.should_stop = code
    wake_loop()


def running_tickets(is_frozen: Callable[[int | None], bool] = lambda _: False) -> dict[str, list[str]]:
    """The tickets that this worker's slots run or are about to, by queue address; not those of frozen processes."""
    tickets: dict[str, list[str]] = defaultdict(list)
    pids = set()
    for request in _requests():
        if request.type == SLOT_TASK and not is_frozen(request.worker_pid):
            tickets[request.args[0]].append(request.args[1])
            pids.add(request.worker_pid)
    for held in moved.table.of(pids):
        tickets[held.address].append(held.ticket)
    return tickets


def _requests() -> list[Any]:
    # Celery's sets change while another thread reads them. What has started is reserved as well, but for some versions
    # of Celery not after the broker's connection was lost.
    while True:
        try:
            return list({*state.reserved_requests, *state.active_requests})
        except RuntimeError:
            continue
