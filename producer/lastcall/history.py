"""The history of a job: what happened to its items, as it was recorded.

What is recorded is what took effect: scripts append it to two streams of the job where they make it true. `events` is
bounded, the oldest go first; `failures` (failed, retried, dead, returned) is kept whole, for as long as the job. An
entry's id is the server's time; a field is "kind queue chunk" and a msgpack map, for which nothing needs to be
unpickled. The arguments that are kept are sealed, as they were put.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import msgpack
from blinker import Signal

from lastcall.checks import one_of
from lastcall.errors import LastcallError, UnknownJob
from lastcall.state import keys
from lastcall.state.ledger import Ledger, queues_of
from lastcall.waiting import AWAY, Outage, unreachable

if TYPE_CHECKING:
    from lastcall.connection import Connection

_log = logging.getLogger(__name__)

KINDS: Final = ("put", "started", "done", "failed", "retried", "dead", "returned", "ended")
_PARTS: Final = ("events", "failures")
_KEPT: Final = ("failed", "retried", "dead", "returned")  # in the second
_PAGE: Final = 500
_BLOCK_MS: Final = 1000

Kind = Literal["put", "started", "done", "failed", "retried", "dead", "returned", "ended"]
Callback = Callable[["Event"], object]
Fields = Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a chunk or to one of its items.

    kind: "put" (by a producer), "started" (a slot has claimed it), "done" (its function has run; failed items of a
    chunk have events of their own), "failed" (an item raised, and its error is its result), "retried" (it raised, and
    is tried again), "dead" (it was given up), "returned" (its slot died or fell silent, and it is ready again), "ended"
    (the queue; chunk is "", said its state).
    at_ms: on the server's clock. chunk: its id; items: how many; first: the number of the first in the chunk that was
    put. attempt: from 1. runtime_s: what it took; ended_ms: when that was over. worker, slot, ticket: where it ran.
    source: of its items, which of the source's they come from: each a number or, behind a batch or reduce, several.
    made: outputs, or results. failed: of the items of a chunk, those that failed. error: "Type: message"; traceback:
    the remote one. said: more, in words.
    """

    kind: Kind
    job: str
    queue: str
    chunk: str
    at_ms: int
    items: int = 1
    first: int = 0
    attempt: int = 0
    runtime_s: float = 0.0
    ended_ms: float = 0.0
    worker: str = ""
    slot: str = ""
    ticket: str = ""
    source: tuple[int | tuple[int, ...], ...] | range = ()
    made: int = 0
    failed: tuple[int, ...] = ()
    error: str = ""
    traceback: str = ""
    said: str = ""
    entry: str = ""  # of the stream
    payload: bytes | None = None  # its items, sealed, where they were kept
    gave: tuple[tuple[str, bytes], ...] = ()  # results that came of its root: id, and the outcome, sealed

    @property
    def began_ms(self) -> float:
        """When it began to run."""
        return self.ended_ms - 1000 * self.runtime_s

    @property
    def root(self) -> str:
        """The chunk that was put, of which this is one or a part."""
        return self.chunk.partition("/")[0]

    @property
    def item(self) -> str:
        """The item's id in its queue, as dead letters have it; of a chunk, its first item's."""
        return f"{self.root}#{self.first}"

    def indices_of(self, source: int) -> list[int]:
        """Which of its items come from this one of the source."""
        if isinstance(self.source, range):
            return [self.source.index(source)] if source in self.source else []
        return [at for at, one in enumerate(self.source) if one == source or (isinstance(one, tuple) and source in one)]


class History:
    """A job's events, the oldest first. Reading raises UnknownJob (nothing was recorded, or it has expired)."""

    def __init__(self, connection: Connection, job: str) -> None:
        self.job = job
        self._connection = connection

    def __iter__(self) -> Iterator[Event]:
        """All that is there now."""
        return self.events()

    def events(self, *kinds: Kind) -> Iterator[Event]:
        """Those of these kinds; without any, all."""
        for kind in kinds:
            one_of("kind", kind, KINDS)
        try:
            found = False
            pages = (self._read(part) for part in _PARTS)
            for entry, fields in heapq.merge(*pages, key=lambda one: _order(one[0])):
                found = True
                for event in _events(self.job, entry, fields):
                    if not kinds or event.kind in kinds:
                        yield event
            if not found:
                raise UnknownJob(self.job)
        except AWAY as error:
            raise unreachable(self._connection, error) from error

    def _read(self, part: str) -> Iterator[tuple[str, Fields]]:
        key, last = keys.of_job(self.job, part), "-"
        while True:
            page: Any = self._connection.redis.xrange(key, min=last, count=_PAGE)
            for entry, fields in page:
                yield entry.decode(), fields
                last = f"({entry.decode()}"
            if len(page) < _PAGE:
                return


class Watch:
    """Tells callbacks of a job's events, in one thread of its own: of those that were, and then as they come.

    It ends when all the job's queues have ended and everything was told, or by close(). What a callback raises is
    logged, as it is for those of futures, and spoils nothing else.
    """

    def __init__(self, connection: Connection, job: str) -> None:
        self._connection = connection
        self._job = job
        self._signals = {kind: Signal() for kind in KINDS}
        self._told = dict.fromkeys(_PARTS, "0-0")  # the last entry of each stream
        self._late: list[tuple[Kind, Callback]] = []  # that came when some were told already
        self._lock = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None

    def on(self, kind: Kind, callback: Callback) -> None:
        """Have callback(event) called, in the watch's thread, for each event of this kind."""
        one_of("kind", kind, KINDS)
        with self._lock:
            if self._thread is None:
                self._signals[kind].connect(callback, weak=False)
                self._thread = threading.Thread(target=self._run, name=f"lastcall-watch-{self._job}", daemon=True)
                self._thread.start()
            else:
                self._late.append((kind, callback))

    def wait(self, timeout: float | None = None) -> bool:
        """Until the job has ended and everything was told; False at the timeout (seconds)."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    def close(self) -> None:
        """Tell no more."""
        self._closed = True
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        outage = Outage(self._connection)
        over = False
        while not self._closed:
            try:
                self._welcome()
                entries = self._new(0 if over else _BLOCK_MS)
                if not entries:
                    if over:
                        return
                    over = self._has_ended()
                    continue
            except AWAY as error:
                try:
                    outage.bear(error)
                except LastcallError:
                    _log.exception("job %s: its events are told no more", self._job)
                    return
                continue
            outage.over()
            for entry, fields in entries:
                for event in _events(self._job, entry, fields):
                    for receiver in self._signals[event.kind].receivers_for(event):
                        _tell(receiver, event)

    def _new(self, block_ms: int) -> list[tuple[str, Fields]]:
        streams: Any = {keys.of_job(self._job, part): last for part, last in self._told.items()}
        reply: Any = self._connection.asking.xread(streams, count=_PAGE, block=block_ms or None)
        entries = []
        for key, page in reply:
            part = key.decode().rpartition(":")[2]
            self._told[part] = page[-1][0].decode()
            entries += [(entry.decode(), fields) for entry, fields in page]
        return sorted(entries, key=lambda one: _order(one[0]))

    def _welcome(self) -> None:
        with self._lock:
            late, self._late = self._late, []
        for kind, callback in late:
            for event in History(self._connection, self._job).events(kind):
                part = "failures" if event.kind in _KEPT else "events"
                if _order(event.entry) <= _order(self._told[part]):
                    _tell(callback, event)
            self._signals[kind].connect(callback, weak=False)

    def _has_ended(self) -> bool:
        with contextlib.suppress(UnknownJob):
            names = queues_of(self._connection.asking, self._job)
            return all(Ledger(self._connection.asking, self._job, [name]).status().ended for name in names)
        return True  # it has expired


def _tell(callback: Callback, event: Event) -> None:
    try:
        callback(event)
    except Exception:  # it is the user's, and others wait to be told
        _log.exception("job %s: a callback for %r raised", event.job, event.kind)


def _order(entry: str) -> tuple[int, int]:
    at_ms, _, number = entry.partition("-")
    return int(at_ms), int(number)


def _events(job: str, entry: str, fields: Fields) -> Iterator[Event]:
    at_ms = _order(entry)[0]
    for field, data in fields.items():
        kind, queue, chunk = field.decode().split(" ", 2)
        if kind not in KINDS:
            continue  # what belongs to one of the others
        told = _plain(msgpack.unpackb(data, raw=True))
        yield Event(
            kind=kind, job=job, queue=queue, chunk=chunk, at_ms=at_ms, entry=entry,  # type: ignore[arg-type]
            items=told.get("items", 1), first=told.get("first", 0), attempt=told.get("attempt", 0),
            runtime_s=told.get("us", 0) / 1e6, ended_ms=at_ms - told.get("ago", 0) / 1000,
            worker=told.get("worker", ""), slot=told.get("slot", ""), ticket=told.get("ticket", ""),
            source=_source(told),
            made=told.get("made", 0), error=told.get("error", ""), traceback=told.get("traceback", ""),
            said=told.get("said", ""), failed=tuple(told.get("failed", ())),
            payload=told.get("payload") or fields.get(f"args {queue} {chunk}".encode()),
            gave=_gave(fields, queue, chunk) if kind == "done" else (),
        )  # fmt: skip


def _plain(told: Mapping[bytes, Any]) -> dict[str, Any]:
    """Scripts know no difference between text and bytes, which are the arguments alone."""
    return {
        name.decode(): value.decode() if isinstance(value, bytes) and name != b"payload" else value
        for name, value in told.items()
    }


def _gave(fields: Fields, queue: str, chunk: str) -> tuple[tuple[str, bytes], ...]:
    root = chunk.partition("/")[0]
    begin = f"gave {queue} {root}".encode()
    named = ((field.decode().rpartition(" ")[2], data) for field, data in fields.items() if field.startswith(begin))
    return tuple((name, data) for name, data in named if name.partition("/")[0] == root)


def _source(told: Mapping[str, Any]) -> range | tuple[int | tuple[int, ...], ...]:
    """A range goes as its two ends."""
    if "from" in told:
        return range(told["from"], told["from"] + told.get("items", 1))
    path = told.get("path", "")
    if path and "/" not in path:  # a script tells no more than the place in the order, which is that of the source here
        first = int(path.partition(":")[0]) + told.get("first", 0)
        return range(first, first + told.get("items", 1))
    return tuple(tuple(one) if isinstance(one, list) else one for one in told.get("source", ()))
