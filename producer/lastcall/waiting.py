"""Waiting: blocks until queues have ended, or says what it waited for.

A queue's end is published by the script that ends it; a look at its state every second covers what a lost
connection may have missed.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lastcall.errors import (
    DeadLetters,
    NoWorker,
    ProducerLost,
    QueueCancelled,
    WaitTimeout,
)
from lastcall.state.ledger import Ledger, Status

if TYPE_CHECKING:
    from lastcall.connection import Connection

_log = logging.getLogger(__name__)
_LOOK_S = 1.0
_SILENT_S = 3.0  # from then on a wait says that no worker serves the queue


class Deadline:
    """A timeout that several waits share. seconds: None for none."""

    def __init__(self, seconds: float | None) -> None:
        self.started = time.monotonic()
        self.seconds = seconds

    def left(self, most: float) -> float:
        """Seconds to wait at once: what is left, at most `most`."""
        if self.seconds is None:
            return most
        return max(0.0, min(most, self.started + self.seconds - time.monotonic()))

    @property
    def waited_s(self) -> float:
        return time.monotonic() - self.started

    @property
    def passed(self) -> bool:
        return self.seconds is not None and self.waited_s >= self.seconds


class Patience:
    """Watches over a wait on a queue: whether a worker is there for it, and what it waits for."""

    def __init__(self, connection: Connection, shown: str, celery_queue: str) -> None:
        self._connection = connection
        self._shown = shown
        self._celery_queue = celery_queue
        self._alone_since: float | None = None
        self._said = False

    def look(self) -> None:
        """Warn, once, when no worker serves the queue; raise NoWorker when none came in time."""
        if not self._celery_queue:
            return
        cluster = self._connection.cluster
        if cluster is not None:
            cluster.check(self._celery_queue)
        if self._connection.slots(self._celery_queue) > 0:
            self._alone_since = None
            return
        now = time.monotonic()
        if self._alone_since is None:
            self._alone_since = now
        alone_s = now - self._alone_since
        if alone_s >= self._connection.settings.worker_wait_s:
            raise NoWorker(self._shown, self._celery_queue, alone_s)
        if alone_s >= _SILENT_S and not self._said and cluster is None:
            self._said = True
            _log.warning(
                'queue %s waits: no worker serves the Celery queue "%s": '
                "start one with: lastcall worker -Q %s",
                self._shown, self._celery_queue, self._celery_queue,
            )  # fmt: skip

    def reset(self) -> None:
        """Something came: whoever did it was alive."""
        self._alone_since = None

    def describe(self, status: Status) -> str:
        """What is waited for, for the message of a timeout."""
        return describe(self._connection, status)


def describe(connection: Connection, status: Status) -> str:
    """What a queue waits for, in words."""
    shown = Ledger(connection.redis, status.job, [status.name]).shown
    parts = [
        f"queue {shown} ({status.state}: {status.ready} ready, {status.leased} running, "
        f"{status.delayed} delayed of {status.put} put)"
    ]
    if status.workers and status.ready and connection.slots(status.workers) == 0:
        parts.append(
            f'no worker serves the Celery queue "{status.workers}": '
            f"start one with: lastcall worker -Q {status.workers}"
        )
    if status.state == "NEW":
        parts.append("no producer has come yet")
    silent_s = connection.settings.lease_s / 2
    for producer in status.producers:
        if producer.state in ("live", "absent") and not producer.name.startswith("stage:"):
            silence = (
                f", silent for {producer.silent_s:.0f} s" if producer.silent_s > silent_s else ""
            )
            parts.append(f"producer {producer.name} has not left{silence}")
    missing = status.expected - len(status.producers)
    if not status.ended and missing > 0:
        parts.append(f"{missing} of {status.expected} producers have not come yet")
    return "; ".join(parts)


def wait_for_end(
    connection: Connection, ledgers: Sequence[Ledger], timeout_s: float | None = None
) -> list[Status]:
    """Block until every one of these queues has ended.

    timeout_s: None waits for as long as it takes. Raises WaitTimeout, NoWorker, UnknownJob.
    """
    deadline = Deadline(timeout_s)
    with contextlib.ExitStack() as stack:
        pubsub: Any = connection.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        stack.enter_context(pubsub)
        pubsub.subscribe(*(ledger.results_key for ledger in ledgers))
        statuses = [ledger.status() for ledger in ledgers]
        patience = []
        for ledger, status in zip(ledgers, statuses, strict=True):
            stack.enter_context(connection.heart.watching(ledger, status.workers))
            patience.append(Patience(connection, ledger.shown, status.workers))
        while not all(status.ended for status in statuses):
            if deadline.passed:
                what = [describe(connection, status) for status in statuses if not status.ended]
                raise WaitTimeout("; ".join(what), deadline.waited_s)
            pubsub.get_message(timeout=deadline.left(_LOOK_S))
            for at, ledger in enumerate(ledgers):
                if not statuses[at].ended:
                    statuses[at] = ledger.status()
                    if statuses[at].ready:
                        patience[at].look()
    return statuses


def raise_for(status: Status) -> None:
    """Raise what went wrong in a queue that has ended; nothing if it is drained.

    Raises QueueCancelled, ProducerLost, DeadLetters.
    """
    shown = status.job if status.job == status.name else f"{status.job}/{status.name}"
    if status.state == "CANCELLED":
        raise QueueCancelled(shown)
    if status.state == "INCOMPLETE":
        raise ProducerLost(shown, status.lost)
    if status.dead:
        raise DeadLetters(shown, status.dead, status.put)
