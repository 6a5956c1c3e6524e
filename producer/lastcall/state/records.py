"""What goes into the ledger and comes out of it, as plain values; and the words that it uses."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack

ENDED = ("DRAINED", "INCOMPLETE", "CANCELLED")
RESULTS = ("keep", "once", "discard")
ON_LOST = ("fail", "wait", "ignore")
ON_ERROR = ("dead", "return")
RECORD = ("all", "times", "failures", "off")
OFF = "off"
MADE = ("created", "epoch", "function")  # what tells a queue from another one of its name
ENDLESS = 2**31 - 1  # producers expected by a queue that does not end by itself


def address(job: str, name: str) -> str:
    """How a queue is named where there is one word for it: "job/name"."""
    return f"{job}/{name}"


def shown(job: str, name: str) -> str:
    """How a queue is named to people: a queue of its own by its name, one of a job by its address."""
    return name if job == name else address(job, name)


def split(queue_address: str) -> tuple[str, str]:
    """The job and the name in an address, or in the name of a queue of its own."""
    job, slash, name = queue_address.partition("/")
    return (job, name) if slash else (job, job)


# As _queue.lua packs it: items, first item, crashes, losses, raises, items of the root, outputs that were emitted, in
# how many chunks, length of the root's path; then that path and the payload.
_HEADER = struct.Struct("<IIBBBIIIH")


class Chunk(NamedTuple):
    """A claimed chunk. `start` is the number of its first item in the chunk that was put.

    How often it was tried: crashes of its slot alone; losses, of its slot and whatever ran beside it; and, where it is
    one item, how often that raised or took too long.

    In a flow that keeps its order: the path of its root (_path.lua), how many items that has, and of an item that was
    tried before, how many outputs of it were emitted, in how many chunks.
    """

    id: str
    items: int
    start: int
    payload: bytes
    crashes: int = 0
    losses: int = 0
    raises: int = 0
    path: str = ""
    total: int = 0
    skip: int = 0
    parts: int = 0

    @classmethod
    def stored(cls, chunk_id: str, value: bytes) -> Chunk:
        """As the ledger keeps it."""
        items, start, crashes, losses, raises, total, skip, parts, length = _HEADER.unpack_from(value)
        at = _HEADER.size + length
        path = value[_HEADER.size : at].decode() if length else ""
        return cls(chunk_id, items, start, value[at:], crashes, losses, raises, path, total, skip, parts)

    @property
    def record(self) -> bytes:
        """As the ledger keeps it."""
        header = _HEADER.pack(
            self.items, self.start, self.crashes, self.losses, self.raises,
            self.total, self.skip, self.parts, len(self.path),
        )  # fmt: skip
        return b"".join((header, self.path.encode(), self.payload))

    @property
    def tries(self) -> int:
        """How often it was tried before."""
        return self.crashes + self.losses + self.raises

    @property
    def root(self) -> str:
        """The chunk that was put, of which this one may be a part; its envelope is bound to that."""
        return self.id.partition("/")[0]


def part_of(chunk: Chunk, item: int) -> Chunk:
    """One item of a chunk as a chunk of its own. item: its number in the chunk that was put."""
    if chunk.items == 1:
        return chunk
    return chunk._replace(id=f"{chunk.root}/{item}:{item + 1}", items=1, start=item)


class Output(NamedTuple):
    """A chunk for the queue downstream; in a segment, also results of the last queue."""

    id: str
    items: int
    payload: bytes


class Again(NamedTuple):
    """One item that is to be tried again, alone. `index`: its number in the chunk that was put."""

    index: int  # type: ignore[assignment]  # tuple's own method is not needed
    raises: int
    delay_ms: int
    payload: bytes
    crashes: int = 0
    losses: int = 0


class Note(NamedTuple):
    """What happened, for the job's history: "done" of a chunk, or "failed", "retried" or "dead" of an item of it.

    ended: when, by time.perf_counter(). told: as history.Event has it, plain.
    """

    kind: str
    id: str
    ended: float
    told: dict[str, Any]

    def args(self) -> tuple[str, str, bytes]:
        ago_us = int((time.perf_counter() - self.ended) * 1e6)
        told = {**self.told, "ago": ago_us}
        # A traceback may have what UTF-8 has not, of a path, say; and what bytes are, scripts don't know.
        packed = msgpack.packb(told, default=str, unicode_errors="backslashreplace", use_bin_type=False)
        return self.kind, self.id, packed


class Segment(NamedTuple):
    """What items of a flow's chunk came to, those from `first` to before `past`, as numbered in the chunk that was put.

    way: where the parts go: NEXT, the queue downstream; SHOWN, the results of the last queue; AGAIN, this queue, in
    front; ERROR, the results of the last queue, too. Without parts they came to nothing.
    """

    first: int
    past: int
    way: str = "n"
    parts: Sequence[Output] = ()


NEXT, SHOWN, AGAIN, ERROR = "n", "r", "s", "e"


@dataclass(slots=True)
class Completion:
    """What a chunk came to: items done + items dead + items to try again + items left over = its items.

    failed: of those done, how many came to an error, which is their result.
    segments: instead of an outcome and outputs, of a flow's queue: all its items that are not to be tried again or left
    over, in their order. Those of a gather hold what all chunks in its hand came to, wherever they are.
    rest: items at its end that did not fill a batch.
    """

    chunk: str
    done: int
    dead: int = 0
    outcome: bytes = b""
    outputs: Sequence[Output] = ()
    again: Sequence[Again] = ()
    letters: Sequence[tuple[str, bytes]] = ()
    segments: Sequence[Segment] = ()
    rest: int = 0
    notes: Sequence[Note] = ()
    failed: int = 0

    def args(self) -> list[Any]:
        args: list[Any] = [self.chunk, self.done, self.dead, self.outcome, len(self.outputs)]
        for output in self.outputs:
            args += output
        args.append(len(self.again))
        for again in self.again:
            args += again
        args.append(len(self.letters))
        for letter in self.letters:
            args += letter
        args.append(len(self.segments))
        for first, past, way, parts in self.segments:
            args += (first, past, way, len(parts))
            for part in parts:
                args += part
        args += (self.rest, self.failed, len(self.notes))
        for note in self.notes:
            args += note.args()
        return args


class Minted(NamedTuple):
    """Tickets to be sent for a queue further downstream."""

    queue: str
    tickets: list[str]


class Claim(NamedTuple):
    """What `next` gave: chunks; or nothing; or the end, with the queue's state; or `lost`.

    In a flow: position: items of the queue that were done before; last: of a gather, whether what does not fill a batch
    is to go, too, or the reduction ends; wait_ms: after how long to ask again, 0 if it is of no use to ask earlier than
    the bell rings; further: tickets of queues behind the one downstream; called: whether other queues may lack slots.
    rang: whether the bell did, where it was waited for.
    """

    chunks: list[Chunk]
    downstream_tickets: list[str]
    tickets: list[str]
    ended: str = ""
    lost: bool = False
    position: int = 0
    last: bool = False
    wait_ms: int = 0
    further: Sequence[Minted] = ()
    called: bool = False
    rang: bool = False


class Emitted(NamedTuple):
    """What came of emitting outputs; as in Claim. full: there was no room for them."""

    full: bool = False
    lost: bool = False
    downstream_tickets: Sequence[str] = ()
    tickets: Sequence[str] = ()
    further: Sequence[Minted] = ()


class Lease(NamedTuple):
    """A producer's place in a queue: where it is to go on."""

    index: int  # type: ignore[assignment]  # tuple's own method is not needed
    epoch: int
    seq: int
    position: int
    place: int  # the how-manieth to come in this epoch, from 1


class Put(NamedTuple):
    """seq: the last chunk accepted; room: for how many items there is room, -1 without bound;
    cost_us: what an item took on average so far, -1 if none is done."""

    seq: int
    room: int
    tickets: list[str]
    cost_us: int
    full: bool


@dataclass(frozen=True, slots=True)
class Spec:
    """What a queue is made with. None: not said, so it may be anything where the queue exists."""

    function: bytes | None = None  # sealed; b"" for a queue that consumers read
    identity: str | None = None  # the function's, to tell two apart
    celery: str | None = None  # Celery queue that its tickets travel through
    maxsize: int | None = None
    maxbytes: int | None = None
    max_workers: int | None = None
    on_lost: str | None = None
    results: str | None = None
    on_error: str | None = None
    expected: int | None = None
    lease_ms: int | None = None
    ttl_ms: int | None = None
    retries: int | None = None  # these six: policy.py
    backoff_ms: int | None = None
    retry_on: str | None = None
    timeout_ms: int | None = None
    crash_limit: int | None = None
    concurrency: int | None = None  # of coroutines, in a slot; 0 where it is not said
    style: str | None = None  # how an item is given to the function: item, star (its parts), call; many: gives outputs
    founder: str | None = None  # a producer that has its lease from the first
    notify: str | None = None  # a URL that is told of the end, sealed: notify.py
    bounds: str | None = None  # what maxsize counts: items outstanding, or waiting (not those that somebody has got)
    down: str = ""
    reopen: bool = False
    flow: int | None = None  # 1 for a flow's queue, which these are for: flowoptions.py
    paths: int | None = None
    gated: int | None = None
    ordered: int | None = None
    barrier: int | None = None
    gather: str | None = None
    rate: str | None = None  # items a second
    head: str | None = None  # the first queue of the flow
    record: str | None = None  # what its history holds: history.py


# Spec's fields as the ledger calls them, with the values of a queue that does not say; None: it does not have them.
FIELDS: dict[str, tuple[str, Any]] = {
    "identity": ("identity", ""),
    "function": ("function", b""),
    "celery": ("celery", ""),
    "maxsize": ("maxsize", 0),
    "maxbytes": ("maxbytes", 0),
    "max_workers": ("max_workers", 0),
    "on_lost": ("on_lost", "fail"),
    "results": ("results", "keep"),
    "on_error": ("on_error", "dead"),
    "expected": ("expected", 0),
    "lease_ms": ("lease", 10_000),
    "ttl_ms": ("ttl", 86_400_000),
    "retries": ("retries", 0),
    "backoff_ms": ("backoff", 1_000),
    "retry_on": ("retry_on", ""),
    "timeout_ms": ("timeout", 0),
    "crash_limit": ("crash_limit", 3),
    "concurrency": ("concurrency", 0),
    "founder": ("founder", ""),
    "notify": ("notify", ""),
    "bounds": ("bounds", "outstanding"),
    "style": ("style", "item"),
    **{
        option: (option, None)
        for option in ("flow", "paths", "gated", "ordered", "barrier", "gather", "rate", "head", "record")
    },
}


@dataclass(frozen=True, slots=True)
class ProducerStatus:
    """state: live, absent (silent, waited for), left or lost. silent_s: since it last renewed."""

    name: str
    state: str
    epoch: int
    position: int
    silent_s: float


@dataclass(frozen=True, slots=True)
class Status:
    """One moment of a queue. Counters are items, except tickets, started and chunks_ready.

    failed: of those done, how many came to an error, where that is a result (on_error="return", maps and calls).
    """

    job: str
    name: str
    state: str
    epoch: int
    put: int
    ready: int
    leased: int
    delayed: int
    done: int
    dead: int
    cancelled: int
    unread: int
    live: int
    expected: int
    function: str
    workers: str
    maxsize: int
    tickets: int
    started: int
    chunks_ready: int
    created_ms: int
    ended_ms: int | None
    producers: tuple[ProducerStatus, ...] = field(default=())
    failed: int = 0

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def lost(self) -> tuple[tuple[str, float], ...]:
        """The producers that were lost, each with its seconds of silence."""
        return tuple((p.name, p.silent_s) for p in self.producers if p.state == "lost")
