"""Job: the queues of one run, looked at and ended as one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lastcall import gantt
from lastcall.announced import wait_for_end
from lastcall.checks import one_of
from lastcall.errors import ConfigError, UnknownJob
from lastcall.history import KINDS, Event, History, Kind, Watch, check_recorded
from lastcall.map import MAP
from lastcall.progress import Progress
from lastcall.queue import StatusableQueue, attach
from lastcall.results import in_order
from lastcall.state.ledger import Ledger, queues_of
from lastcall.state.records import Status
from lastcall.trace import Trace, trace
from lastcall.waiting import raise_for, reaching

if TYPE_CHECKING:
    from lastcall.connection import Connection


class Job:
    """One run of a map, a flow or linked queues; client.job(id) gives it to whoever knows its id."""

    def __init__(self, connection: Connection, job: str) -> None:
        self.id = job
        self._connection = connection
        self._watch: Watch | None = None

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
        ordered: a map's in the order of its input, from the start alone; a flow's always are. Raises what results()
        raises; for a map an item's exception, after which results() goes on and an ordered one does not.
        """
        last, unsorted = self.last(cursor, ordered)
        if unsorted:
            return in_order(last._connection, last._ledger, timeout=timeout)
        return last.results(timeout=timeout, cursor=cursor)

    def last(self, cursor: str, ordered: bool) -> tuple[StatusableQueue[Any], bool]:
        """Its last queue, and whether who reads the results has to put them in order. Raises ConfigError."""
        last = self.queues[-1]
        if not ordered or last._ledger.meta().get("ordered") == b"1":
            return last, False
        if cursor:
            raise ConfigError("cursor", "given for results as they come", "ordered=True", "leave one of them out")
        if last.name != MAP:
            raise ConfigError(
                "ordered", "asked of a job whose input has an order, a map's or a flow's", f"job {self.id}"
            )
        last.check_results(cursor)
        return last, True

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

    @property
    def history(self) -> History:
        """What happened to its items, as far as it was recorded: client.run(record=), client.queue(record=)."""
        return History(self._connection, self.id)

    @reaching
    def on(self, kind: Kind, callback: Callable[[Event], object]) -> None:
        """Have callback(event) called for each event of a kind: of those that were, and then as they come.

        kind: "put", "started", "emitted", "done", "failed", "retried", "dead", "returned" or "ended": see
        lastcall.Event. All are called in one thread of the job's, in the order of the events; what one raises is
        logged. Raises UnknownJob, NotRecorded.
        """
        one_of("kind", kind, KINDS)
        if self._watch is None:
            check_recorded(self._connection, self.id)
            self._watch = Watch(self._connection, self.id)
        self._watch.on(kind, callback)

    @property
    def watch(self) -> Watch:
        """What tells the callbacks of on(): wait() for it, or close() it. Raises ConfigError where there are none."""
        if self._watch is None:
            raise ConfigError("watch", "asked for behind on()", "no callback", "job.on(kind, callback)")
        return self._watch

    @reaching
    def trace(self, item: int | str) -> Trace:
        """An item's way through its queues. item: its number in the input, or its id.

        Raises UnknownJob, UnknownItem, NotRecorded.
        """
        return trace(self._connection, self.id, item)

    @reaching
    def gantt(self, path: str | os.PathLike[str], *, title: str | None = None) -> Path:
        """Draw what ran into a file, .svg, .png or .html: rows are slots, bars chunks, colours stages. Gives the file.

        title: None for the job's id. Raises UnknownJob, NotRecorded; ConfigError, also where matplotlib is missing.
        """
        stages = [ledger.name for ledger in self.ledgers()]
        return gantt.save(self.history.events("done"), path, title=self.id if title is None else title, stages=stages)

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
