"""Reading results: a stream of outcomes, closed by the queue's end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from lastcall.errors import WaitTimeout, WorkerLost
from lastcall.outcome import pack_error
from lastcall.payload import Outcome, open_outcome
from lastcall.waiting import Deadline, Patience

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.state.ledger import Ledger

_LOOK_S = 1.0
_ENTRIES = 100


class Entry(NamedTuple):
    """What one chunk came to. `number` and `start` tell where its items were put."""

    chunk: str
    outcome: Outcome

    @property
    def number(self) -> int:
        """The chunk's number among those of its producer."""
        return int(self.chunk.partition("/")[0].rpartition("-")[2])

    @property
    def start(self) -> int:
        """The number, in the chunk that was put, of this one's first item."""
        part = self.chunk.partition("/")[2]
        return int(part.partition(":")[0]) if part else 0


class Reader:
    """Reads a queue's outcomes from the first on, or from a cursor.

    cursor: "" or where an earlier reader stood (`reader.cursor`). After the last entry `ended` is the queue's state.
    With results="once" what was read is removed when `ack()` says so.
    """

    def __init__(self, connection: Connection, ledger: Ledger, celery_queue: str, cursor: str = "") -> None:
        self.cursor = cursor or "0-0"
        self.ended = ""
        self._connection = connection
        self._ledger = ledger
        self._patience = Patience(connection, ledger.shown, celery_queue)
        self._unacked = 0

    def read(self, block_s: float) -> list[Entry]:
        """The outcomes that are there; waits up to `block_s` seconds where there are none yet."""
        if self.ended:
            return []
        key = self._ledger.results_key
        reply: Any = self._connection.redis.xread(
            {key: self.cursor}, count=_ENTRIES, block=int(block_s * 1000) if block_s > 0 else None
        )
        if not reply:
            if block_s > 0:
                self._patience.look()
            return []
        self._patience.reset()
        entries = []
        for entry_id, fields in reply[0][1]:
            self.cursor = entry_id.decode()
            for name, data in fields.items():
                if name == b"end":
                    self.ended = data.decode()
                else:
                    entries.append(self._open(name.decode(), data))
        self._unacked += sum(len(entry.outcome.values) for entry in entries)
        return entries

    def entries(self, timeout_s: float | None = None) -> Iterator[Entry]:
        """Outcomes as they come, until the queue has ended. timeout_s: for each, None for none.

        Raises WaitTimeout, NoWorker.
        """
        status = self._ledger.status()
        with self._connection.heart.watching(self._ledger, status.workers):
            deadline = Deadline(timeout_s)
            while not self.ended:
                entries = self.read(deadline.left(_LOOK_S) or 0.001)
                if entries:
                    yield from entries
                    self.ack()
                    deadline = Deadline(timeout_s)
                elif deadline.passed and not self.ended:
                    what = self._patience.describe(self._ledger.status())
                    raise WaitTimeout(f"results of {what}", deadline.waited_s)

    def ack(self) -> None:
        """What was read so far may be removed, which makes room for producers."""
        if self._unacked:
            self._ledger.ack(self.cursor, self._unacked)
            self._unacked = 0

    def _open(self, chunk: str, data: bytes) -> Entry:
        ledger = self._ledger
        if data[:1] == b"X":
            # Made by a script, which cannot sign: it says no more than that an item was given up.
            entry = Entry(chunk, Outcome(0, [None], {}))
            lost = WorkerLost(ledger.shown, entry.start, int(data[1:]))
            error: dict[int, Any] = {0: pack_error(lost, self._connection.sealer.keyed)}
            return Entry(chunk, Outcome(0, [None], error))
        return Entry(chunk, open_outcome(self._connection.sealer, ledger.job, ledger.name, chunk, data[1:]))
