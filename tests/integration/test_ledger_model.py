"""A Hypothesis state machine: the real scripts on a real server beside the plain model of tests/model.py.

Two linked queues, stage a into b, with several producers, slots and consumers, which crash, fall silent, come back,
call again because a reply was lost, or act long after they were given up. After every step all that is stored is
compared with the model, and design invariants 1 to 4 are checked on what is stored alone.

LASTCALL_HYPOTHESIS=long looks for much longer.
"""

from __future__ import annotations

import json
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from lastcall.errors import LeaseLost, QueueFinished
from lastcall.state import keys
from lastcall.state.ledger import Ledger
from lastcall.state.records import (
    Again,
    Chunk,
    Claim,
    Completion,
    Output,
    Spec,
)
from tests import model
from tests.integration.ledger_server import ledger_server

pytestmark = pytest.mark.integration

LONG_MS = 10**10
LETTER = struct.pack("<I", 4) + b"said" + Chunk("", 1, 0, b"letter").record
BUSY_US = 7
_PROFILES = {
    "default": {"max_examples": 100, "stateful_step_count": 50},
    "long": {"max_examples": 2_000, "stateful_step_count": 80},
}

names = st.sampled_from(["a", "b"])
pick = st.integers(0, 11)
caps = st.integers(0, 4)
sometimes = st.sampled_from([False, False, False, True])
wants = st.sampled_from([1, 1, 2, 3, 0])
plans = st.sampled_from(["d", "d", "da", "ad", "dx", "x", "a", "dxa", "-", "d-x"])
queue_options = st.builds(
    model.Options,
    maxsize=st.sampled_from([0, 0, 6, 12]),
    maxbytes=st.sampled_from([0, 0, 0, 40]),
    max_workers=st.sampled_from([0, 0, 1, 3]),
    on_lost=st.sampled_from(["fail", "wait", "ignore"]),
    results=st.sampled_from(["keep", "once", "discard"]),
    expected=st.sampled_from([0, 0, 0, 2]),
    consumed=st.booleans(),
)
# How what is stored of a queue is read.
_PARTS = {
    "meta": ("HGETALL",),
    "chunks": ("HGETALL",),
    "ready": ("LRANGE", 0, -1),
    "delayed": ("ZRANGE", 0, -1),
    "tickets": ("ZRANGE", 0, -1),
    "held": ("HGETALL",),
    "producers": ("HGETALL",),
    "leases": ("ZRANGE", 0, -1),
    "dead": ("HKEYS",),
    "results": ("XRANGE", "-", "+"),
}


@dataclass
class Handle:
    """What a producer's process believes to hold."""

    queue: str
    name: str
    epoch: int
    seq: int
    last: tuple[int, list[tuple[int, bytes]]] | None = None  # what it sent last


@dataclass
class Slot:
    """What a slot, or a consumer, believes to hold; it may have been given up long since."""

    queue: str
    ticket: str
    nonce: str
    chunks: list[Chunk] = field(default_factory=list)


class Both:
    """One queue, as it is stored and as the model has it."""

    def __init__(self, ledger: Ledger, queue: model.Queue) -> None:
        self.ledger = ledger
        self.model = queue
        self.sent: list[str] = []  # tickets that reached a worker, or lie in front of it
        self.shown: dict[str, list[tuple[str, bytes]]] = {}  # results ever seen in this epoch
        self.due = 0
        self.revived: Counter[str] = Counter()  # items that were shown as dead, and are to be shown again

    def key(self, part: str) -> str:
        return keys.of_queue(self.ledger.job, self.ledger.name, part)


def outcome(call: Callable[[], Any]) -> Any:
    """What came of a call: its result, or what it raised."""
    try:
        return call()
    except QueueFinished as error:
        return "QueueFinished", error.queue.rpartition("/")[2], error.state
    except LeaseLost as error:
        return "LeaseLost", error.producer


class LedgerMachine(RuleBasedStateMachine):
    redis: Redis  # set by the test

    @initialize(a=queue_options, b=queue_options, names_first=st.sampled_from(["a", "a", "ab", ""]))
    def begin(self, a: model.Options, b: model.Options, names_first: str) -> None:
        self.redis.flushall()
        a.consumed = False
        seconds, microseconds = self.redis.time()
        self.began_ms = seconds * 1000 + microseconds // 1000
        self.handles: list[Handle] = []
        self.slots: list[Slot] = []
        self.made = 0
        self.outstanding: dict[str, tuple[int, int]] = {}
        ledgers = {"b": Ledger(self.redis, "job", ["b"]), "a": Ledger(self.redis, "job", ["a", "b"])}
        last = model.Queue("b", b)
        first = model.Queue("a", a, down=last)
        self.queues = {"a": Both(ledgers["a"], first), "b": Both(ledgers["b"], last)}
        for name in ("b", "a"):
            assert self.queues[name].ledger.create(self.spec(name)) == ("NEW", 1)
        first.attach()
        for name in names_first:
            self.join(name, "p0")
            self.put(-1, [2, 1, 3], 2, False, "on")

    def spec(self, name: str, *, reopen: bool = False) -> Spec:
        options = asdict(self.queues[name].model.options)
        consumed = options.pop("consumed")
        return Spec(
            function=b"" if consumed else b"f", identity="" if consumed else "m:f",
            celery="" if consumed else "cpu", down="b" if name == "a" else "", reopen=reopen,
            crash_limit=model.CRASH_LIMIT,
            **options,
        )  # fmt: skip

    def fresh(self, prefix: str) -> str:
        self.made += 1
        return f"{prefix}{self.made}"

    def both(self, name: str, twice: bool, real: Callable[[Ledger], Any], ours: Callable[[model.Queue], Any]) -> Any:
        """Call the ledger and the model, and, where the reply was lost, both again.

        A call that is sent again must change nothing. Gives the reply that arrived.
        """
        pair = self.queues[name]
        expected = outcome(lambda: ours(pair.model))
        assert outcome(lambda: real(pair.ledger)) == expected
        if not twice:
            return expected
        _, *before = self.look()
        expected = outcome(lambda: ours(pair.model))
        assert outcome(lambda: real(pair.ledger)) == expected
        _, *after = self.look()
        assert after == before
        return expected

    def choose(self, of: Sequence[Any], at: int) -> Any:
        return of[at % len(of)]

    # Producers

    @precondition(lambda self: len(self.handles) < 10)
    @rule(name=names, producer=st.sampled_from(["p0", "p1", "p2"]))
    def join(self, name: str, producer: str) -> None:
        lease = self.both(name, False, lambda q: q.join(producer), lambda q: q.join(producer))
        if not isinstance(lease[0], str):
            self.handles.append(Handle(name, producer, lease.epoch, lease.seq))

    @precondition(lambda self: self.handles)
    @rule(at=pick, sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), cap=caps, twice=sometimes,
          how=st.sampled_from(["on"] * 7 + ["the last again", "the last again", "with a gap", "nothing"]))  # fmt: skip
    def put(self, at: int, sizes: list[int], cap: int, twice: bool, how: str) -> None:
        handle = self.choose(self.handles[-4:], at)
        if how == "the last again" and handle.last:
            self.send(handle, *handle.last, cap, twice)
            return
        if how == "nothing":
            sizes = []
        skip = how == "with a gap"
        chunks = [(items, f"{handle.seq + n}x{items}".encode()) for n, items in enumerate(sizes)]
        self.send(handle, handle.seq + 1 + skip, chunks, cap, twice)

    def send(self, handle: Handle, seq: int, chunks: list[tuple[int, bytes]], cap: int, twice: bool) -> None:
        handle.last = (seq, chunks) if chunks else handle.last
        args = (handle.name, handle.epoch, seq, chunks, cap)
        put = self.both(handle.queue, twice, lambda q: q.put(*args), lambda q: q.put(*args))
        if not isinstance(put[0], str):
            handle.seq = max(handle.seq, put.seq)
            self.queues[handle.queue].sent += put.tickets

    @precondition(lambda self: self.handles)
    @rule(at=pick, lost=sometimes, twice=sometimes)
    def leave(self, at: int, lost: bool, twice: bool) -> None:
        handle = self.choose(self.handles, at)
        self.both(
            handle.queue, twice,
            lambda q: q.leave(handle.name, handle.epoch, lost=lost),
            lambda q: q.leave(handle.name, handle.epoch, lost=lost),
        )  # fmt: skip

    @precondition(lambda self: self.handles or self.slots)
    @rule(name=names, first=pick, n=st.integers(1, 4), twice=sometimes)
    def renew(self, name: str, first: int, n: int, twice: bool) -> None:
        tickets = [slot.ticket for slot in self.slots if slot.queue == name][first:][:n]
        holders = [(h.name, h.epoch) for h in self.handles if h.queue == name][first:][:n]
        self.both(
            name, twice, lambda q: q.renew(LONG_MS, tickets, holders),
            lambda q: q.renew(tickets, holders),
        )  # fmt: skip

    # Time

    @rule(name=names, what=st.sampled_from(["lease", "ticket", "ticket", "ticket long ago", "delay", "delay"]), at=pick)
    def time_passes(self, name: str, what: str, at: int) -> None:
        """A deadline of the stored ones has passed."""
        pair = self.queues[name]
        if what == "lease":
            live = [p for p in pair.model.live if not p.startswith("stage:")]
            if live and not pair.model.ended:
                producer = self.choose(live, at)
                self.pass_deadline(pair, "leases", producer, 1)
                pair.model.producers[producer].expired = True
        elif what.startswith("ticket") and pair.model.tickets:
            ticket = self.choose(list(pair.model.tickets), at)
            long_ago = what.endswith("long ago")
            self.pass_deadline(pair, "tickets", ticket, 1 if long_ago else self.began_ms - 1)
            pair.model.tickets[ticket].expired = model.LONG_AGO if long_ago else model.JUST
        elif what == "delay" and pair.model.delayed:
            chunk_id = self.choose(list(pair.model.delayed), at)
            pair.due += 1
            self.pass_deadline(pair, "delayed", chunk_id, pair.due)
            pair.model.delayed[chunk_id] = (pair.model.delayed[chunk_id][0], pair.due)

    def pass_deadline(self, pair: Both, which: str, member: str, when: int) -> None:
        assert self.redis.zscore(pair.key(which), member) is not None
        self.redis.zadd(pair.key(which), {member: when})

    @rule(name=names, cap=caps, nothing_under_way=st.booleans(), twice=sometimes)
    def reap(self, name: str, cap: int, nothing_under_way: bool, twice: bool) -> None:
        pair = self.queues[name]
        tickets, _, _ = self.both(
            name, twice, lambda q: q.reap(cap, nothing_under_way=nothing_under_way),
            lambda q: q.reap(cap, nothing_under_way=nothing_under_way),
        )  # fmt: skip
        pair.sent += tickets
        # Invariant 4.
        if cap and not pair.model.options.consumed and self.redis.llen(pair.key("ready")):
            assert self.redis.zcard(pair.key("tickets")) > 0

    # Slots and consumers

    @precondition(lambda self: self.queues["a"].sent or self.queues["b"].sent)
    @rule(at=pick, want=st.integers(1, 3), again=sometimes)
    def slot_starts(self, at: int, want: int, again: bool) -> None:
        """A worker runs a ticket; `again`: its message comes twice, to two slots."""
        pair = self.choose([pair for pair in self.queues.values() if pair.sent], at)
        ticket = pair.sent[0] if again else pair.sent.pop(0)
        self.slots.append(Slot(pair.ledger.name, ticket, self.fresh("n")))
        self.run(self.slots[-1], want, "d", 0, False, False)

    @precondition(lambda self: self.queues["b"].model.options.consumed and len(self.slots) < 6)
    @rule(twice=sometimes)
    def consumer_enrolls(self, twice: bool) -> None:
        slot = Slot("b", self.fresh("c"), self.fresh("n"))
        state = self.both(
            "b", twice, lambda q: q.enroll(slot.ticket, slot.nonce, LONG_MS),
            lambda q: q.enroll(slot.ticket, slot.nonce),
        )  # fmt: skip
        if not state:
            self.slots.append(slot)

    @precondition(lambda self: self.slots)
    @rule(steps=st.lists(st.tuples(pick, wants, plans, caps, sometimes), min_size=1, max_size=5))
    def work(self, steps: list[tuple[int, int, str, int, bool]]) -> None:
        """Several slots go on, some in the middle of what they have."""
        for at, want, plan, cap, twice in steps:
            self.run(self.choose(self.slots[-6:], at), want, plan, cap, False, twice)
            self.holds()

    @precondition(lambda self: any(slot.chunks for slot in self.slots))
    @rule(at=pick, want=wants, plan=plans, cap=caps, waited=sometimes, twice=sometimes, knows=sometimes)
    def complete(self, at: int, want: int, plan: str, cap: int, waited: bool, twice: bool, knows: bool) -> None:
        slot = self.choose([slot for slot in self.slots if slot.chunks], at)
        self.run(slot, want, plan, cap, waited, twice, knows)

    def run(self, slot: Slot, want: int, plan: str, cap: int, waited: bool, twice: bool, knows: bool = False) -> Claim:
        """A slot completes what it has, as planned for each item, and asks for more.

        d: done, a: to be tried again, x: dead; a chunk whose first is -: not completed yet.
        knows: it goes on with these.
        """
        steps = iter(plan * 40)
        completions, kept = [], []
        for chunk in slot.chunks:
            verdicts = [next(steps) for _ in range(chunk.items)]
            if verdicts[0] != "-":
                completions.append(self.completion(slot, chunk, verdicts))
            elif knows:
                kept.append(chunk)
        claim: Claim = self.both(
            slot.queue, twice,
            lambda q: q.next(slot.ticket, slot.nonce, LONG_MS, want, completions=completions,
                             waited=waited, downstream_cap=cap, busy_us=BUSY_US, known=len(kept)),
            lambda q: q.next(slot.ticket, slot.nonce, want, completions, cap, BUSY_US, len(kept)),
        )  # fmt: skip
        if claim.lost:
            return claim  # a zombie goes on with what it believes to hold
        slot.chunks = kept + claim.chunks
        self.queues[slot.queue].sent += claim.tickets
        if slot.queue == "a":
            self.queues["b"].sent += claim.downstream_tickets
        return claim

    def completion(self, slot: Slot, chunk: Chunk, verdicts: list[str]) -> Completion:
        options = self.queues[slot.queue].model.options
        # The model says first those that are done, then those that are dead.
        verdicts = sorted(verdicts, key=lambda one: "d-xa".index(one) if one != "a" else 9)
        numbers = range(chunk.start, chunk.start + chunk.items)
        by = {kind: [n for n, v in zip(numbers, verdicts, strict=True) if v in kind]
              for kind in ("d-", "x", "a")}  # fmt: skip
        shown = [f"{chunk.root}#{n}" for n in by["d-"] + by["x"]]
        visible = shown and options.results != "discard" and not options.consumed
        outputs = []
        if slot.queue == "a" and by["d-"]:
            base = "o-" + chunk.id.replace("/", ".")
            outputs = [
                Output(f"{base}.{n}", items, f"{base}={items}".encode())
                for n, items in enumerate([len(by["d-"]), 1][: len(by["d-"])])
            ]
        return Completion(
            chunk.id, len(by["d-"]), len(by["x"]),
            outcome=json.dumps(shown).encode() if visible else b"",
            outputs=outputs,
            again=[
                Again(n, chunk.raises + 1, LONG_MS, f"{chunk.root}#{n}".encode(), chunk.crashes, chunk.losses)
                for n in by["a"]
            ],
            letters=[(f"{chunk.root}#{n}", LETTER) for n in by["x"]],
            failed=len(by["d-"]) // 2,
        )  # fmt: skip

    @precondition(lambda self: self.slots)
    @rule(at=pick, crashed=st.booleans(), processed=st.integers(0, 3), cap=caps, twice=sometimes)
    def release(self, at: int, crashed: bool, processed: int, cap: int, twice: bool) -> None:
        slot = self.choose(self.slots, at)
        if not self.queues[slot.queue].model.options.consumed:
            processed = 0  # only consumers, which have no results, know of parts
        kwargs: dict[str, Any] = {"crashed": crashed, "processed": processed, "cap": cap}
        tickets = self.both(
            slot.queue, twice, lambda q: q.release(slot.ticket, **kwargs),
            lambda q: q.release(slot.ticket, **kwargs),
        )  # fmt: skip
        self.queues[slot.queue].sent += tickets or []

    @precondition(lambda self: any(slot.chunks for slot in self.slots))
    @rule(at=pick, item=pick, delay=st.sampled_from([LONG_MS, None]), cap=caps, twice=sometimes)
    def overrun(self, at: int, item: int, delay: int | None, cap: int, twice: bool) -> None:
        """An item takes too long; the slot, which goes on, is not told."""
        slot = self.choose([slot for slot in self.slots if slot.chunks], at)
        late = slot.chunks[item % len(slot.chunks)]
        args = (slot.ticket, late.id, item % late.items, delay)
        tickets = self.both(
            slot.queue, twice, lambda q: q.overrun(*args, 5000, cap=cap), lambda q: q.overrun(*args, cap),
        )  # fmt: skip
        self.queues[slot.queue].sent += tickets or []

    @precondition(lambda self: any(pair.model.chunks for pair in self.queues.values()))
    @rule(name=names, first=pick, n=st.integers(1, 3), twice=sometimes)
    def withdraw(self, name: str, first: int, n: int, twice: bool) -> None:
        """Some chunks are to be taken out, wherever they are, and one that there never was."""
        ids = [chunk.id for chunk in self.queues[name].model.chunks[::-1]][first:][:n]
        self.both(name, twice, lambda q: q.withdraw([*ids, "1-99"]), lambda q: q.withdraw([*ids, "1-99"]))

    @precondition(lambda self: any(pair.model.letters for pair in self.queues.values()))
    @rule(name=names, n=st.integers(1, 3), cap=caps)
    def revive(self, name: str, n: int, cap: int) -> None:
        pair = self.queues[name]
        there = sorted(pair.model.letters)[:n]
        items = [*there, *there[:1], "1-1#99"]  # one of them twice, one that is none
        untold = {f"{root}#{at}" for root, at in pair.model.untold}
        tells = pair.model.options.results != "discard" and not pair.model.options.consumed
        got = self.both(name, False, lambda q: q.revive(items, cap), lambda q: q.revive(items, cap))
        if isinstance(got[0], str):
            return
        pair.sent += got[1]
        pair.revived.update(item for item in there if tells and item not in untold)
        for one in self.queues.values():
            if not one.model.ended:
                one.shown = {at: entry for at, entry in one.shown.items() if entry[0][0] != "end"}

    @precondition(lambda self: any(pair.model.results for pair in self.queues.values()))
    @rule(name=names, upto=st.integers(1, 4))
    def ack(self, name: str, upto: int) -> None:
        pair = self.queues[name]
        stream: Any = self.redis.xrange(pair.key("results"), count=upto)
        if not stream:
            return
        items = sum(len(shown_items(name.decode(), data)) for _, entry in stream for name, data in entry.items())
        if pair.model.options.results == "once":
            entries = pair.model.acked + sum(len(entry) for _, entry in stream)
        else:
            entries = sum(len(entry) for _, entry in stream)
        for _ in range(2):
            pair.ledger.ack(stream[-1][0].decode(), items)
            pair.model.ack(entries, items)

    # Ends

    @precondition(lambda self: any(pair.model.live for pair in self.queues.values()))
    @rule(name=names, how=st.sampled_from(["left", "lost", "silent"]), really=st.booleans())
    def everybody_goes(self, name: str, how: str, really: bool) -> None:
        """The producers of a queue go, one after the other; what is left to do is done later."""
        queue = self.queues[name].model
        for producer in queue.live if really else []:
            if producer.startswith("stage:") or queue.ended:
                continue
            if how == "silent":
                self.pass_deadline(self.queues[name], "leases", producer, 1)
                queue.producers[producer].expired = True
            else:
                self.handles.append(Handle(name, producer, queue.producers[producer].epoch, 0))
                self.leave(-1, how == "lost", False)

    @rule(name=names, how=st.sampled_from(["", "", "", "seal", "cancel"]), twice=sometimes)
    def end(self, name: str, how: str, twice: bool) -> None:
        if how:
            self.both(name, twice, lambda q: getattr(q, how)(), lambda q: getattr(q, how)())

    @precondition(lambda self: any(pair.model.ended for pair in self.queues.values()))
    @rule(name=names, twice=sometimes)
    def reopen(self, name: str, twice: bool) -> None:
        pair = self.queues[name]
        before = pair.model.epoch
        spec = self.spec(name, reopen=True)
        self.both(name, twice, lambda q: q.create(spec), lambda q: q.create(reopen=True))
        if pair.model.epoch != before:
            pair.shown.clear()
            pair.revived.clear()

    # What must hold after every step

    def look(self) -> list[dict[str, Any]]:
        """What is stored: of the job, then of each queue in the form of model.Queue.picture()."""
        pipe = self.redis.pipeline(transaction=False)
        pipe.hgetall(self.queues["a"].key("job"))
        for pair in self.queues.values():
            for part, command in _PARTS.items():
                pipe.execute_command(*command[:1], pair.key(part), *command[1:])
        job, *rest = pipe.execute()
        pictures = [{name.decode(): int(value) for name, value in job.items()}]
        for at, pair in enumerate(self.queues.values()):
            values = rest[at * len(_PARTS) : (at + 1) * len(_PARTS)]
            pictures.append(self.picture(pair, dict(zip(_PARTS, values, strict=True))))
        return pictures

    def picture(self, pair: Both, got: dict[str, Any]) -> dict[str, Any]:
        meta = {name.decode(): value for name, value in got["meta"].items()}
        chunks = {name.decode(): Chunk.stored(name.decode(), value) for name, value in got["chunks"].items()}
        hands = {}
        for ticket, value in got["held"].items():
            nonce, *rest = value.decode().split(" ")
            hands[ticket.decode()] = (nonce, [chunks[chunk_id] for chunk_id in rest[::3]])
            sizes = [(chunks[i].items, len(chunks[i].payload)) for i in rest[::3]]
            assert sizes == list(zip(map(int, rest[1::3]), map(int, rest[2::3]), strict=True))
        producers = {}
        for name, value in got["producers"].items():
            *numbers, state = value.decode().split(" ")
            producers[name.decode()] = (*map(int, numbers), state)
        counted = pair.model.picture()["counters"]
        assert int(meta["waiting"]) >= 0
        for entry_id, entry in got["results"]:
            pair.shown[entry_id] = [(name.decode(), data) for name, data in entry.items()]
        return {
            "state": meta["state"].decode(),
            "epoch": int(meta["epoch"]),
            "counters": {name: int(meta.get(name, 0)) for name in counted},  # `failed` is not there before the first
            "alone": meta.get("alone", b"").decode(),
            "ready": [chunks[chunk_id.decode()] for chunk_id in got["ready"]],
            "delayed": {name.decode(): chunks[name.decode()] for name in got["delayed"]},
            "tickets": {ticket.decode() for ticket in got["tickets"]},
            "hands": hands,
            "chunks": set(chunks),
            "producers": producers,
            "leases": {name.decode() for name in got["leases"]},
            "letters": {name.decode() for name in got["dead"]},
            "results": [(name.decode(), data) for _, entry in got["results"] for name, data in entry.items()],
        }

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "queues"):
            return
        open_queues = 0
        job, *pictures = self.look()
        for pair, stored in zip(self.queues.values(), pictures, strict=True):
            assert stored == pair.model.picture()
            self.check_conservation(pair, stored)
            self.check_end(pair, stored)
            self.check_results(pair, stored)
            open_queues += stored["state"] not in model.ENDED
        assert job["open"] == open_queues
        self.check_room(job.get("blocked", 0))

    def check_conservation(self, pair: Both, stored: dict[str, Any]) -> None:
        """Invariant 1: a chunk is in one place; what was put is somewhere, and counted."""
        hands = [chunk for _, hand in stored["hands"].values() for chunk in hand]
        places = [*stored["ready"], *hands, *stored["delayed"].values()]
        assert Counter(chunk.id for chunk in places) == Counter(stored["chunks"])
        items = [item for chunk in places for item in model.items_of(chunk)]
        assert len(items) == len(set(items))
        counters = stored["counters"]
        finished = counters["done"] + counters["dead"] + counters["cancelled"]
        assert counters["put"] == len(items) + finished
        assert len(items) == counters["ready"] + counters["leased"] + counters["delayed"]
        ours = pair.model
        assert set(items) | ours.done | ours.dead | ours.cancelled == ours.put_items

    def check_end(self, pair: Both, stored: dict[str, Any]) -> None:
        """Invariant 2: it ends once, as soon as no producer is live and no work is left."""
        state, counters = stored["state"], stored["counters"]
        ended = state in model.ENDED
        ends = [entry for entries in pair.shown.values() for entry in entries if entry[0] == "end"]
        assert ends == ([("end", state.encode())] if ended else [])
        assert pair.model.ends == ended
        work = counters["ready"] + counters["leased"] + counters["delayed"]
        if ended:
            assert work == 0
            if state != "CANCELLED":
                assert counters["stages"] == 0
                assert counters["live"] == 0 or pair.model.sealed
        elif state == "SEALED":
            assert work or counters["stages"]
            assert pair.model.sealed or counters["live"] == 0
        elif state == "OPEN":
            assert counters["live"] or counters["come"] < pair.model.options.expected
        else:
            assert state == "NEW"
            assert not stored["producers"]

    def check_results(self, pair: Both, stored: dict[str, Any]) -> None:
        """Invariant 3: a result is visible if and only if its chunk is done, or was taken out; never twice."""
        options = pair.model.options
        items = [item for entries in pair.shown.values() for name, data in entries for item in shown_items(name, data)]
        if options.results == "discard" or options.consumed:
            # Of consumers' queues only what was taken out is told.
            assert all(name == "end" or data[:1] == b"C"
                       for entries in pair.shown.values() for name, data in entries)  # fmt: skip
            return
        ours = pair.model
        told = {f"{root}#{at}" for root, at in (ours.done | ours.dead | ours.withdrawn) - ours.untold}
        assert Counter(items) - pair.revived == Counter(told)
        finished = stored["counters"]["done"] + stored["counters"]["dead"] + len(ours.withdrawn)
        assert finished == len(items) - pair.revived.total() + len(ours.untold)

    def check_room(self, blocked: int) -> None:
        """Whoever waits for room is woken when there is more of it."""
        for name, pair in self.queues.items():
            chain = pair.model.chain
            now = sum(q.outstanding for q in chain), sum(model.size(q.chunks) for q in chain)
            before = self.outstanding.get(name, (0, 0))
            bounded = pair.model.options.maxsize or pair.model.options.maxbytes
            if bounded and (now[0] < before[0] or now[1] < before[1]):
                assert blocked == 0
            self.outstanding[name] = now

    def teardown(self) -> None:
        """Whatever happened, both queues can be brought to their end."""
        if not hasattr(self, "queues"):
            return
        for name in self.queues:
            self.everybody_goes(name, "left", True)
        self.slots.clear()
        for name, pair in self.queues.items():
            rounds = 0
            while not pair.model.ended:
                rounds += 1
                if pair.model.state in ("NEW", "OPEN") and not pair.model.live:
                    self.both(name, False, lambda q: q.seal(), lambda q: q.seal())
                assert rounds < 50, f"{name} does not end: {pair.model.picture()}"
                self.finish(name, pair)
                self.holds()

    def finish(self, name: str, pair: Both) -> None:
        for what, those in (("delay", pair.model.delayed), ("ticket", pair.model.tickets)):
            for at in range(len(those)):
                self.time_passes(name, what, at)
        pair.sent.clear()
        self.reap(name, 2, True, False)
        if pair.model.options.consumed:
            self.consumer_enrolls(False)
            slots = self.slots[-1:] if not pair.model.ended else []
        else:
            slots = [Slot(name, ticket, self.fresh("n")) for ticket in pair.sent]
        for slot in slots:
            while self.run(slot, 2, "d", 0, False, False).chunks:
                pass


def shown_items(name: str, data: bytes) -> list[str]:
    """The items that a result tells of."""
    if name == "end":
        return []
    if data[:1] in (b"L", b"T"):
        root, _, span = name.partition("/")
        return [f"{root}#{span.partition(':')[0] or 0}"]
    if data[:1] == b"C":
        root, _, span = name.partition("/")
        start = int(span.partition(":")[0] or 0)
        return [f"{root}#{start + at}" for at in range(int(data[1:]))]
    return list(json.loads(data[1:]))


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with ledger_server() as client:
        yield client


@pytest.mark.timeout(3600)
def test_ledger_behaves_as_its_model(server: Redis) -> None:
    LedgerMachine.redis = server
    profile = _PROFILES[os.environ.get("LASTCALL_HYPOTHESIS", "default")]
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            deadline=None, print_blob=True, verbosity=Verbosity.normal,
            suppress_health_check=list(HealthCheck), **profile,
        ),
    )  # fmt: skip
