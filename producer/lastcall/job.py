"""Job: the queues of one run, looked at and ended as one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lastcall.errors import ConfigError, UnknownJob
from lastcall.map import MAP
from lastcall.progress import Progress
from lastcall.queue import StatusableQueue, attach
from lastcall.results import in_order
from lastcall.state.ledger import Ledger, Status, queues_of
from lastcall.waiting import raise_for, reaching, wait_for_end

if TYPE_CHECKING:
    from lastcall.connection import Connection


class Job:
    """One run of a map, a flow or linked queues; client.job(id) gives it to whoever knows its id."""

    def __init__(self, connection: Connection, job: str) -> None:
        self.id = job
        self._connection = connection

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    @property
    @reaching
    def queues(self) -> list[StatusableQueue[Any]]:
        """Its queues, upstream before downstream. Raises UnknownJob."""
        return [attach(self._connection.settings, ledger.address) for ledger in self.ledgers()]

    @reaching
    def status(self) -> list[Status]:
        """One moment of each of its queues, upstream before downstream. Raises UnknownJob."""
        return [ledger.status() for ledger in self.ledgers()]

    def results(self, *, timeout: float | None = None, cursor: str = "", ordered: bool = False) -> Iterator[Any]:
        """The results of its last queue, as they come, from the start or from a cursor: see StatusableQueue.results().

        A map's are there for others than its own client if it was given an id: client.map(..., job="nightly").
        ordered: a map's in the order of its input, from the start alone. Raises what results() raises; for a map an
        item's exception, after which results() goes on and an ordered one does not.
        """
        if not ordered:
            return self.queues[-1].results(timeout=timeout, cursor=cursor)
        last = self.in_order(cursor)
        return in_order(last._connection, last._ledger, timeout=timeout)

    def in_order(self, cursor: str) -> StatusableQueue[Any]:
        """Its last queue, if that has results in the order of its input. Raises ConfigError."""
        last = self.queues[-1]
        if cursor:
            raise ConfigError("cursor", "given for results as they come", "ordered=True", "leave one of them out")
        if last.name != MAP:
            raise ConfigError("ordered", "asked of a map's job, whose input has an order", f"job {self.id}")
        last.check_results(cursor)
        return last

    @reaching
    def wait(self, timeout: float | None = None) -> list[Status]:
        """Block until all its queues have ended. timeout: seconds.

        Raises what went wrong, the first queue first: ProducerLost, QueueCancelled, DeadLetters; NoWorker; WaitTimeout.
        """
        statuses = wait_for_end(self._connection, self.ledgers(), timeout)
        for status in statuses:
            raise_for(status)
        return statuses

    def progress(self, timeout: float | None = None, *, total: int | None = None) -> list[Status]:
        """wait(), showing its queues meanwhile: bars on a terminal and in a notebook, else a line now and then.

        total: items that its first queue will have been given, where that is known; then the time left is, too.
        """
        with Progress(self.status, total=total):
            return self.wait(timeout)

    @reaching
    def cancel(self) -> list[Status]:
        """Drop what is waiting in all its queues and refuse what is running."""
        ledgers = self.ledgers()
        for ledger in ledgers:
            ledger.cancel()
        return [ledger.status() for ledger in ledgers]

    def ledgers(self) -> list[Ledger]:
        """Its queues' ledgers, upstream before downstream. Raises UnknownJob."""
        redis = self._connection.redis
        ledgers = []
        for name in queues_of(redis, self.id):
            try:
                ledgers.append(Ledger.open(redis, self.id, name))
            except UnknownJob:  # it has expired before the others
                continue
        if not ledgers:
            raise UnknownJob(self.id)
        return sorted(ledgers, key=lambda ledger: (-len(ledger.names), ledger.name))
