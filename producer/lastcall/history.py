"""The history of a job: what happened to its items, as it was recorded.

What is recorded is what took effect: scripts append it to two streams of the job where they make it true. `events` is
bounded, the oldest go first; no entry of `failures` (failed, retried, dead, returned) goes before the job does, or
begins anew. An entry's id is the server's time; a field is "kind queue chunk" and a msgpack map, for which nothing
needs to be unpickled. The arguments that are kept are sealed, as they were put.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import msgpack
from blinker import Signal

from lastcall.checks import one_of
from lastcall.errors import LastcallError, NotRecorded, UnknownJob
from lastcall.state import keys
from lastcall.state.ledger import Ledger, queues_of
from lastcall.waiting import AWAY, Outage, unreachable

if TYPE_CHECKING:
    from lastcall.connection import Connection

_log = logging.getLogger(__name__)

KINDS: Final = ("put", "started", "emitted", "done", "failed", "retried", "dead", "returned", "ended")
_PARTS: Final = ("events", "failures")
_KEPT: Final = ("failed", "retried", "dead", "returned")  # in the second
_GIVE: Final = ("emitted", "done")
_PAGE: Final = 500
_BLOCK_MS: Final = 500
_CLOSE_S: Final = 5.0  # for which close() waits for a callback that is under way

Kind = Literal["put", "started", "emitted", "done", "failed", "retried", "dead", "returned", "ended"]
Callback = Callable[["Event"], object]
Fields = Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a chunk or to one of its items.

    kind: "put" (by a producer), "started" (a slot has claimed it), "emitted" (of an item with many outputs, some went
    on before it was done), "done" (its function has run; failed items of a chunk have events of their own), "failed"
    (an item raised, and its error is its result), "retried" (it raised, and is tried again), "dead" (it was given up),
    "returned" (its slot died or fell silent, and it is ready again), "ended" (the queue; chunk is "", said its state).
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
    path: str = ""  # its place in the order, where a script has told of it
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

    def siblings(self, index: int) -> list[int]:
        """Those of its items that come of the same as this one, which is among them."""
        if isinstance(self.source, range):
            return [index]
        return [at for at, one in enumerate(self.source) if one == self.source[index]]

    def indices_of(self, source: int) -> list[int]:
        """Which of its items come from this one of the source."""
        if isinstance(self.source, range):
            return [self.source.index(source)] if source in self.source else []
        return [at for at, one in enumerate(self.source) if one == source or (isinstance(one, tuple) and source in one)]


class History:
    """A job's events, the oldest first. Reading raises UnknownJob (there is none, or it has expired), NotRecorded."""

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
            for event in self.there():
                found = True
                if not kinds or event.kind in kinds:
                    yield event
            if not found:
                check_recorded(self._connection, self.job)
        except AWAY as error:
            raise unreachable(self._connection, error) from error

    def there(self) -> Iterator[Event]:
        """All, or nothing. Raises redis-py's errors."""
        pages = (self._read(part) for part in _PARTS)
        for entry, fields in heapq.merge(*pages, key=lambda one: _order(one[0])):
            yield from _events(self.job, entry, fields)

    def _read(self, part: str) -> Iterator[tuple[str, Fields]]:
        key, last = keys.of_job(self.job, part), "-"
        while True:
            page: Any = self._connection.redis.xrange(key, min=last, count=_PAGE)
            for entry, fields in page:
                yield entry.decode(), fields
                last = f"({entry.decode()}"
            if len(page) < _PAGE:
                return


def check_recorded(connection: Connection, job: str) -> None:
    """Raises UnknownJob, NotRecorded."""
    for name in queues_of(connection.redis, job):
        with contextlib.suppress(UnknownJob):  # it has expired before the others
            if Ledger(connection.redis, job, [name]).meta().get("record"):
                return
    raise NotRecorded(job)


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
        self._closed = self._running = False
        self._thread: threading.Thread | None = None
        self.ended: Future[None] = Future()  # when the thread is at its end

    def on(self, kind: Kind, callback: Callback) -> None:
        """Have callback(event) called, in the watch's thread, for each event of this kind."""
        one_of("kind", kind, KINDS)
        with self._lock:
            self._late.append((kind, callback))
            if not self._running:  # the first, or one that comes when all that was is told
                self._running, self._closed = True, False
                self.ended = Future()
                self._thread = threading.Thread(target=self._run, name=f"lastcall-watch-{self._job}", daemon=True)
                self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Until the job has ended and everything was told; False at the timeout (seconds), and in a callback."""
        thread = self._thread
        if thread is threading.current_thread():
            return False  # this very one is not told yet
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def close(self) -> None:
        """Tell no more. Waits for a callback that is under way, for 5 s at most."""
        self._closed = True
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        try:
            self._tell_all()
        finally:
            with self._lock:
                if self._thread is threading.current_thread():
                    self._running = False
                    self.ended.set_result(None)

    def _stop(self) -> bool:
        """Whether nobody has come since, who were to be told, too."""
        with self._lock:
            self._running = bool(self._late)
            return not self._running

    def _tell_all(self) -> None:
        outage = Outage(self._connection)
        over = False
        while not self._closed and not self._connection.closed:
            try:
                self._welcome()
                entries = self._new(0 if over else _BLOCK_MS)
                if not entries:
                    if over and self._stop():
                        return
                    over = self._has_ended()
                    continue
            except AWAY as error:
                if self._connection.closed:
                    return
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
        pages = {
            key.decode().rpartition(":")[2]: [(entry.decode(), told) for entry, told in page] for key, page in reply
        }
        # Of what lies behind a full page of one stream, the other's is told later, in its order.
        full = [_order(page[-1][0]) for page in pages.values() if len(page) == _PAGE]
        entries = []
        for part, page in pages.items():
            now = [one for one in page if not full or _order(one[0]) <= min(full)]
            if now:
                self._told[part] = now[-1][0]
            entries += now
        return sorted(entries, key=lambda one: _order(one[0]))

    def _welcome(self) -> None:
        while self._late:  # only this thread takes from it
            kind, callback = self._late[0]
            told = _order(self._told["failures" if kind in _KEPT else "events"])
            there = History(self._connection, self._job).there() if told > (0, 0) else ()
            # All is read before anything is told: an outage in between would have it told twice.
            for event in [event for event in there if event.kind == kind and _order(event.entry) <= told]:
                if self._closed:
                    return
                _tell(callback, event)
            self._signals[kind].connect(callback, weak=False)
            with self._lock:
                self._late.pop(0)

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
            source=_source(told), path=told.get("path", ""),
            made=told.get("made", 0), error=told.get("error", ""), traceback=told.get("traceback", ""),
            said=told.get("said", ""), failed=tuple(told.get("failed", ())),
            payload=told.get("payload") or fields.get(f"args {queue} {chunk}".encode()),
            gave=_gave(fields, queue, chunk, told.get("first", 0), told.get("items", 1)) if kind in _GIVE else (),
        )  # fmt: skip


def _plain(told: Mapping[bytes, Any]) -> dict[str, Any]:
    """Scripts know no difference between text and bytes, which are the arguments alone."""
    return {
        name.decode(): value.decode(errors="replace") if isinstance(value, bytes) and name != b"payload" else value
        for name, value in told.items()
    }


def _gave(fields: Fields, queue: str, chunk: str, first: int, items: int) -> tuple[tuple[str, bytes], ...]:
    """Results are named after the chunk, or after the run of its items that they came of."""
    root = chunk.partition("/")[0]
    begin = f"gave {queue} {root}".encode()
    named = ((field.decode().rpartition(" ")[2], data) for field, data in fields.items() if field.startswith(begin))
    run = re.compile(rf"{re.escape(root)}/(\d+):(\d+)(\.\d+)?")

    def is_of(name: str) -> bool:
        numbers = run.fullmatch(name)
        return name == chunk or bool(numbers and first <= int(numbers[1]) and int(numbers[2]) <= first + items)

    return tuple((name, data) for name, data in named if is_of(name))


def _source(told: Mapping[str, Any]) -> range | tuple[int | tuple[int, ...], ...]:
    """A range goes as its two ends."""
    if "from" in told:
        return range(told["from"], told["from"] + told.get("items", 1))
    if told.get("exact"):  # a script tells the place in the order; here that is the place in the source
        return sources_at(told["path"], told.get("first", 0), told.get("items", 1))
    return tuple(tuple(one) if isinstance(one, list) else one for one in told.get("source", ()))


def sources_at(path: str, first: int, items: int) -> range:
    """Of items whose place in the order is that in the source."""
    begin = int(path.partition(":")[0]) + first
    return range(begin, begin + items)
