"""Reading results: a stream of outcomes, closed by the queue's end."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import RedisError

from lastcall.current import HELP_S, help_with, running
from lastcall.errors import BadEnvelope, LastcallError, NotDeserializable, WaitTimeout, Withdrawn
from lastcall.letters import given_up
from lastcall.outcome import pack_error, unpack_error
from lastcall.payload import Outcome, open_outcome
from lastcall.steps import Failed
from lastcall.waiting import AWAY, Deadline, Outage, Patience, raise_for, status_of, warn_of_loop

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.state.ledger import Ledger

_LOOK_S = 1.0
_OWED_S = 0.05  # for which what was handed out may be left unacknowledged
_ENTRIES = 100
_NONE = Outcome(0, [], {})


class Entry(NamedTuple):
    """What one chunk came to. `number` and `start` tell where its items were put."""

    at: str  # in the stream, several may be at one place
    chunk: str
    outcome: Outcome
    error: LastcallError | None = None  # why there is no outcome
    withdrawn: bool = False  # taken out of the queue, so that it never was run

    @property
    def number(self) -> int:
        """The chunk's number among those of its producer."""
        return int(self.chunk.partition("/")[0].rpartition("-")[2])

    @property
    def start(self) -> int:
        """The number, in the chunk that was put, of this one's first item."""
        part = self.chunk.partition("/")[2]
        return int(part.partition(":")[0]) if part else 0

    @property
    def positions(self) -> list[int]:
        """Indices in its values of the items whose outcomes these are; of others they come later."""
        return [at for at in range(len(self.outcome.values)) if at not in self.outcome.later]

    @property
    def whole(self) -> bool:
        """Whether this is all of the chunk that was put."""
        return "/" not in self.chunk and not self.outcome.later


class Reader:
    """Reads a queue's outcomes from the first on, or from a cursor.

    cursor: "" or where an earlier reader stood: behind the last entry that was handed out as a whole.
    once: the queue has results="once": what was handed out, or `ack()` says, is removed, and makes room for producers.
    may_owe: items that it may leave unacknowledged for some milliseconds. upstream: queues that feed it, which may be
    the ones that nobody serves. After the last entry `ended` is the queue's state.
    """

    def __init__(
        self, connection: Connection, ledger: Ledger, *,
        once: bool, cursor: str = "", upstream: Sequence[Ledger] = (), may_owe: int = 0,
    ) -> None:  # fmt: skip
        self.cursor = cursor or "0-0"
        self.ended = ""
        self._connection = connection
        self._ledger = connection.asked(ledger)
        self._read_to = self.cursor
        self._outage = Outage(connection)
        self._patience = Patience(connection)
        self._upstream = [(connection.asked(one), Patience(connection)) for one in upstream]
        self._once = once
        self._may_owe = may_owe
        self._acked_at = 0.0  # when that was last done
        self._unacked = 0  # items
        self._unconfirmed: tuple[str, int] | None = None

    def read(self, block_s: float) -> list[Entry]:
        """The outcomes that are there; waits up to `block_s` seconds where there are none yet.

        Raises NoWorker, UnknownJob, and ServerUnreachable when the server has been away for a minute.
        """
        if self.ended:
            return []
        if block_s > 0:
            warn_of_loop(f"results of queue {self._ledger.shown}", "async for")
        try:
            reply = self._ask(min(block_s, HELP_S) if running.get() else block_s)
            if not reply and block_s > 0 and help_with(self._ledger):
                reply = self._ask(0)
            elif not reply and block_s > 0:
                status = self._ledger.status()
                self._patience.look(status)
                for ledger, patience in self._upstream:
                    patience.look(ledger.status())
                if status.ended:
                    # Its end may have been read, and removed, by another reader.
                    reply = self._ask(0)
                    self.ended = "" if reply else status.state
        except AWAY as error:
            self._outage.bear(error, block_s)
            return []
        self._outage.over()
        entries: list[Entry] = []
        for entry_id, fields in reply[0][1] if reply else ():
            at = entry_id.decode()
            for name, data in fields.items():
                if name == b"end":
                    self.ended = data.decode()
                else:
                    entries.append(self._open(at, name.decode(), data))
            if not self.ended:
                # The end stays where it is, for readers that come later.
                self._read_to = at
        return entries

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Meanwhile what falls silent in the queues that are waited for is found."""
        with contextlib.ExitStack() as stack:
            for ledger in (self._ledger, *(one for one, _ in self._upstream)):
                stack.enter_context(self._connection.heart.watching(ledger))
            yield

    def entries(self, timeout_s: float | None = None) -> Generator[list[Entry], None, None]:
        """Outcomes as they come, those that came in one entry of the stream together, until the queue has ended.

        passed() says that the last ones were handed out. timeout_s: for each, None for none.

        Raises WaitTimeout, NoWorker, UnknownJob, ServerUnreachable.
        """
        with self.watching():
            deadline = Deadline(timeout_s)
            try:
                while not self.ended:
                    entries = self.read(max(deadline.left(_OWED_S if self.owes else _LOOK_S), 0.001))
                    for _, together in itertools.groupby(entries, key=lambda entry: entry.at):
                        yield list(together)
                    if not entries or self._unacked > self._may_owe or time.monotonic() > self._acked_at + _OWED_S:
                        self._ack(self.cursor)
                    if entries:
                        deadline = Deadline(timeout_s)
                    elif deadline.passed and not self.ended:
                        raise WaitTimeout(f"results of {self.describe()}", deadline.waited_s)
                self._ack(self.cursor)
            except GeneratorExit:
                with contextlib.suppress(RedisError, LastcallError):  # then it is read again, by the next reader
                    self._ack(self.cursor)
                raise

    def passed(self, together: list[Entry]) -> None:
        """All of these were handed out: the cursor is behind them."""
        self.cursor = together[-1].at
        self._unacked += sum(entry.outcome.settled for entry in together)

    def confirm(self) -> None:
        """What was handed out may be removed."""
        self._ack(self.cursor)

    @property
    def owes(self) -> bool:
        """Whether there is something to confirm."""
        return self._once and bool(self._unacked or self._unconfirmed)

    def describe(self) -> str:
        """What is waited for, for the message of a timeout."""
        return self._outage.describe(self._ledger)

    def ack(self, items: int) -> None:
        """All that was read may be removed. items: since the last time."""
        self._unacked += items
        self._ack(self._read_to)

    def _ack(self, cursor: str) -> None:
        while self._once and (self._unacked or self._unconfirmed):
            if self._unconfirmed is None:
                self._unconfirmed, self._unacked = (cursor, self._unacked), 0
            try:
                self._ledger.ack(*self._unconfirmed)
            except AWAY:
                return  # the next read tells; said again as it was, it does not count twice
            self._unconfirmed, self._acked_at = None, time.monotonic()

    def _ask(self, block_s: float) -> Any:
        # Not by xread(), which takes longer to look at its arguments than the server to answer.
        wait = ("BLOCK", max(1, int(block_s * 1000))) if block_s > 0 else ()
        where = ("STREAMS", self._ledger.results_key, self._read_to)
        execute: Any = self._connection.asking.execute_command
        return execute("XREAD", "COUNT", _ENTRIES, *wait, *where)

    def _open(self, at: str, chunk: str, data: bytes) -> Entry:
        ledger, sealer = self._ledger, self._connection.sealer
        if data[:1] == b"C":
            items = int(data[1:])
            gone = pack_error(Withdrawn(ledger.shown), sealer.keyed)
            return Entry(at, chunk, Outcome(0, [None] * items, dict.fromkeys(range(items), gone)), withdrawn=True)
        if data[:1] != b"O":
            # Made by a script, which cannot sign: it says no more than that an item was given up, and why.
            attempts, _, about = data[1:].partition(b" ")
            item = f"{chunk.partition('/')[0]}#{Entry(at, chunk, _NONE).start}"
            error = given_up(ledger.shown, item, data[:1], int(attempts), about)
            return Entry(at, chunk, Outcome(0, [None], {0: pack_error(error, sealer.keyed)}))
        try:
            return Entry(at, chunk, open_outcome(sealer, ledger.job, ledger.name, chunk, data[1:]))
        except BadEnvelope as refused:
            self._connection.refused()
            return Entry(at, chunk, _NONE, refused)
        except NotDeserializable as failed:
            return Entry(at, chunk, _NONE, failed)


class Results(Iterator[Any]):
    """A queue's results, as they come; made by queue.results(). Ends when the queue has ended.

    Where an item's exception is its result it is raised, and the next call goes on behind it. cursor: where another
    reader would go on: queue.results(cursor=cursor). Of results that travelled together, all come again there until
    the last one was handed out.
    """

    def __init__(
        self, connection: Connection, ledger: Ledger, *,
        once: bool, returns_errors: bool, timeout: float | None, cursor: str,
    ) -> None:  # fmt: skip
        self._reader = Reader(connection, ledger, once=once, cursor=cursor)
        self._values = _values(connection, ledger, self._reader, returns_errors=returns_errors, timeout=timeout)

    def __iter__(self) -> Results:
        return self

    def __next__(self) -> Any:
        value, error = next(self._values)
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        """Read no more."""
        self._values.close()

    @property
    def cursor(self) -> str:
        return self._reader.cursor


# Not a method: its frame would hold the iterator, which then were not closed as soon as nobody refers to it.
def _values(
    connection: Connection, ledger: Ledger, reader: Reader, *, returns_errors: bool, timeout: float | None
) -> Generator[tuple[Any, BaseException | None], None, None]:
    keyed = connection.sealer.keyed
    with contextlib.closing(reader.entries(timeout)) as entries:
        for together in entries:
            handed = [pair for entry in together for pair in pairs(entry, returns_errors, keyed)]
            # Before the last one: whoever has it may ask for no more.
            for at, one in enumerate(handed):
                if at + 1 == len(handed):
                    reader.passed(together)
                yield one
            if not handed:
                reader.passed(together)
    if reader.ended != "DRAINED":
        raise_for(status_of(connection, ledger))


def in_order(connection: Connection, ledger: Ledger, *, timeout: float | None) -> Generator[Any, None, None]:
    """The results of a queue with one producer, from the first on, in the order in which their items were put.

    A chunk that comes in parts, after a crash or a retry, does not say how many items it has: what is behind it waits
    for the queue's end. Raises as Results does, a map's first error first.
    """
    reader = Reader(connection, ledger, once=False)
    order = InOrder(connection.sealer.keyed)
    with contextlib.closing(reader.entries(timeout)) as entries:
        for together in entries:
            yield from _raised(order.take_in(together))
    yield from _raised(order.rest())
    if reader.ended != "DRAINED":
        raise_for(status_of(connection, ledger))


class InOrder:
    """Puts entries of such a queue in order."""

    def __init__(self, keyed: bool) -> None:
        self._keyed = keyed
        self._parts: dict[int, list[Entry]] = {}
        self._number = 1

    def take_in(self, together: Iterable[Entry]) -> Iterator[tuple[Any, BaseException | None]]:
        """What may be handed out now."""
        for entry in together:
            self._parts.setdefault(entry.number, []).append(entry)
        while (first := self._parts.get(self._number)) and first[0].whole:
            del self._parts[self._number]
            self._number += 1
            yield from pairs(first[0], True, self._keyed)

    def rest(self) -> Iterator[tuple[Any, BaseException | None]]:
        """What is left when the queue has ended."""
        parts, self._parts = self._parts, {}
        for _, those in sorted(parts.items()):
            numbered = [
                (entry.start + at, pair)
                for entry in those
                for at, pair in zip(entry.positions, pairs(entry, True, self._keyed), strict=True)
            ]
            yield from (pair for _, pair in sorted(numbered, key=lambda one: one[0]))


def pairs(entry: Entry, returns_errors: bool, keyed: bool) -> list[tuple[Any, BaseException | None]]:
    """An entry's values, or exceptions."""
    if entry.error is not None:
        raise entry.error
    errors, values = entry.outcome.errors, entry.outcome.values
    pairs: list[tuple[Any, BaseException | None]] = []
    for at in entry.positions:
        value = values[at]
        if at in errors:
            if returns_errors:
                pairs.append((None, unpack_error(errors[at], keyed)))
        elif type(value) is Failed:
            pairs.append((None, unpack_error(value.error, keyed)))
        else:
            pairs.append((value, None))
    return pairs


def _raised(pairs: Iterable[tuple[Any, BaseException | None]]) -> Iterator[Any]:
    for value, error in pairs:
        if error is not None:
            raise error
        yield value
