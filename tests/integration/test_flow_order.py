"""The order of a flow, however its chunks are cut: the scripts' paths against plain Python, and runs of two queues.

In a run chunks are completed in parts, tried again, emitted, filtered, halved by crashes and given up, in any order,
and each call may be made twice, because its reply was lost. What comes out has to be in the source's order, once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from lastcall.flowoptions import FlowOptions
from lastcall.state import keys, scripts
from lastcall.state.ledger import Ledger
from lastcall.state.records import (
    NEXT,
    SHOWN,
    Again,
    Chunk,
    Completion,
    Output,
    Segment,
    Spec,
    part_of,
)
from tests.integration.ledger_server import ledger_server

pytestmark = pytest.mark.integration

LONG_MS = 10**9
LUA = Path(scripts.__file__).with_name("lua")
PATHS = "".join((LUA / f"{part}.lua").read_text() for part in ("_queue", "_path")).replace("get(1, 'flow')", "true")


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with ledger_server() as client:
        yield client


# Paths

Path_ = tuple[tuple[int, int, bool], ...]  # steps: first, past, whether it is the last


def cuts(most: int, *, open_ended: bool) -> st.SearchStrategy[list[tuple[int, int, bool]]]:
    """Intervals that follow one another."""
    sizes = st.lists(st.integers(1, 12), min_size=1, max_size=most)

    def intervals(sizes: list[int]) -> list[tuple[int, int, bool]]:
        ends = [0, *itertools.accumulate(sizes)]
        last = len(sizes) - 1
        return [(ends[at], ends[at + 1], at == last and not open_ended) for at in range(len(sizes))]

    return sizes.map(intervals)


@st.composite
def leaves(draw: st.DrawFn) -> list[Path_]:
    """Of a tree of paths, in their order."""

    def grow(path: Path_, depth: int) -> list[Path_]:
        if depth == 0 or draw(st.booleans()):
            return [path]
        below = draw(cuts(4, open_ended=False))
        return [leaf for step in below for leaf in grow((*path, step), depth - 1)]

    return [leaf for step in draw(cuts(3, open_ended=True)) for leaf in grow((step,), draw(st.integers(0, 4)))]


def written(path: Path_) -> str:
    return "/".join(f"{first}:{past}:{int(last)}" for first, past, last in path)


def place(path: Path_) -> tuple[int, ...]:
    firsts = [first for first, _, _ in path]
    while firsts and firsts[-1] == 0:
        firsts.pop()
    return tuple(firsts)


@given(leaves=leaves())
def test_places_follow_one_another_as_the_leaves_of_the_tree_do(server: Redis, leaves: list[Path_]) -> None:
    code = (
        PATHS
        + """
      local reply = {}
      for _, path in ipairs(ARGV) do
        reply[#reply + 1] = place_of(path)
        reply[#reply + 1] = follows(path)
        for _, other in ipairs(ARGV) do
          reply[#reply + 1] = is_before(place_of(path), place_of(other)) and 1 or 0
        end
      end
      return reply"""
    )
    reply: Any = server.eval(code, 0, *map(written, leaves))  # type: ignore[no-untyped-call]
    said = iter(reply)
    for at, leaf in enumerate(leaves):
        assert next(said).decode() == ".".join(map(str, place(leaf)))
        follows = next(said).decode()
        if at + 1 < len(leaves):
            assert follows == ".".join(map(str, place(leaves[at + 1])))
        else:
            assert follows == str(leaf[0][1])
        assert [next(said) for _ in leaves] == [int(at < other) for other in range(len(leaves))]


# Runs


@dataclass
class Held:
    ledger: Ledger
    ticket: str
    chunk: Chunk


@dataclass
class Run:
    """Two queues, their slots, and what is known of them besides."""

    redis: Redis
    data: st.DataObject
    gated: bool
    counts: dict[str, int] = field(default_factory=dict)  # item -> how many outputs it has
    done: set[str] = field(default_factory=set)
    emitted: dict[str, int] = field(default_factory=dict)  # item -> how many of these were emitted
    roots: dict[str, list[str]] = field(default_factory=dict)  # chunk that was put -> its items
    held: list[Held] = field(default_factory=list)
    tickets: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.redis.flushall()
        self.second = self.make("b", FlowOptions(gated=self.gated, ordered=True))
        self.first = self.make("a", FlowOptions(paths=True), "b")
        self.lease = self.first.join("p")
        self.put = 0
        self.chunks = 0

    def make(self, name: str, flow: FlowOptions, *down: str) -> Ledger:
        ledger = Ledger(self.redis, "job", [name, *down])
        spec = Spec(function=b"f", identity="m:f", celery="cpu", crash_limit=2, **flow.stored, down="".join(down))
        ledger.create(spec)
        return ledger

    def draw(self, strategy: st.SearchStrategy[Any]) -> Any:
        return self.data.draw(strategy)

    def sent(self, call: Callable[[], Any]) -> Any:
        """Call it, perhaps once more, as if the reply had been lost."""
        reply = call()
        return call() if self.draw(st.integers(0, 3)) == 0 else reply

    def add(self, size: int) -> None:
        self.chunks += 1
        items = [f"{self.put + at}" for at in range(size)]
        self.put += size
        self.roots[f"a{self.lease.index}-{self.chunks}"] = items
        self.sent(lambda: self.first.put("p", self.lease.epoch, self.chunks, [(size, b"")], 0))

    def claim(self, ledger: Ledger) -> bool:
        ticket = f"t{next(self.tickets)}"
        if ledger.enroll(ticket, ticket, LONG_MS):
            return False
        claim = self.sent(lambda: ledger.next(ticket, ticket, LONG_MS, 1))
        for chunk in claim.chunks:
            self.held.append(Held(ledger, ticket, chunk))
        return bool(claim.chunks)

    def items(self, held: Held) -> list[str]:
        root = self.roots[held.ledger.name + held.chunk.root]
        return root[held.chunk.start : held.chunk.start + held.chunk.items]

    def outputs(self, ledger: Ledger, item: str) -> list[str]:
        if item not in self.counts:
            self.counts[item] = self.draw(st.integers(0, 3)) if ledger is self.first else self.draw(st.integers(0, 1))
        return [f"{item}.{at}" for at in range(self.counts[item])]

    def left(self, held: Held, item: str) -> list[str]:
        """What an attempt gives of it that was not emitted before."""
        skip = held.chunk.skip if held.chunk.items == 1 else 0
        return self.outputs(held.ledger, item)[skip:]

    def part(self, held: Held, first: int, past: int, number: int, values: list[str]) -> Output:
        """A chunk of outputs: the name says which, and so does what is in it."""
        name = f"{held.chunk.root}-{first}-{past}.{number}"
        if held.ledger is self.first:
            self.roots.setdefault(f"b{name}", values)
        return Output(name, len(values), ",".join(values).encode())

    def way(self, held: Held) -> str:
        return NEXT if held.ledger is self.first else SHOWN

    def completion(self, held: Held, again: set[int], dead: set[int]) -> Completion:
        """again, dead: of the places in the chunk."""
        chunk, items = held.chunk, self.items(held)
        segments, run = [], []
        for at in range(chunk.items + 1):
            if at < chunk.items and at not in again:
                run.append(at)
            elif run:
                values = [one for n in run if n not in dead for one in self.left(held, items[n])]
                first, past = chunk.start + run[0], chunk.start + run[-1] + 1
                pieces = self.draw(st.integers(1, 3))
                cut = [values[n * len(values) // pieces : (n + 1) * len(values) // pieces] for n in range(pieces)]
                parts = [
                    self.part(held, first, past, chunk.parts + number, some)
                    for number, some in enumerate(some for some in cut if some)
                ]
                segments.append(Segment(first, past, self.way(held), parts))
                run = []
        retried = [Again(chunk.start + at, 1, -1, chunk.payload) for at in sorted(again)]
        letters = [(f"{chunk.root}#{chunk.start + at}", b"") for at in sorted(dead)]
        done = chunk.items - len(again) - len(dead)
        return Completion(chunk.id, done, len(dead), again=retried, letters=letters, segments=segments)

    def act(self, held: Held) -> None:
        chunk, ledger, ticket = held.chunk, held.ledger, held.ticket
        how = self.draw(st.sampled_from(["complete", "complete", "emit", "crash", "return", "late"]))
        if how == "emit":
            self.emit(held)
            return
        self.held.remove(held)
        if how == "complete":
            fates = self.draw(st.lists(st.sampled_from("dddra"), min_size=chunk.items, max_size=chunk.items))
            completion = self.completion(
                held, {at for at, fate in enumerate(fates) if fate == "r"},
                {at for at, fate in enumerate(fates) if fate == "a"},
            )  # fmt: skip
            self.sent(lambda: ledger.next(ticket, ticket, LONG_MS, 0, completions=[completion]))
            self.done |= {item for item, fate in zip(self.items(held), fates, strict=True) if fate == "d"}
        elif how == "late":
            at = self.draw(st.integers(0, chunk.items - 1))
            delay = self.draw(st.sampled_from([0, None]))
            self.sent(lambda: ledger.overrun(ticket, chunk.id, at, delay, 1000))
        else:
            self.sent(lambda: ledger.release(ticket, crashed=how == "crash"))

    def emit(self, held: Held) -> None:
        """Outputs of one of its items; what was done before it is complete by that."""
        chunk, items = held.chunk, self.items(held)
        at = self.draw(st.integers(0, chunk.items - 1))
        values = self.left(held, items[at])
        values = values[: self.draw(st.integers(0, len(values)))]
        if not values:
            return
        item = chunk.start + at
        part = part_of(chunk, item)
        before = []
        if at:
            done = Held(held.ledger, held.ticket, chunk._replace(id=f"{chunk.root}/{chunk.start}:{item}", items=at))
            before = [self.completion(done, set(), set())]
            self.done |= set(items[:at])
        output = self.part(held, item, item + 1, part.parts, values)
        skip = part.skip + len(values)
        emitted = self.sent(
            lambda: held.ledger.emit(
                held.ticket,
                held.ticket,
                chunk,
                item,
                [output],
                parts=part.parts,
                skip=skip,
                way=self.way(held),
                completions=before,
            )
        )
        assert (emitted.lost, emitted.full) == (False, False)
        self.emitted[items[at]] = skip
        held.chunk = part._replace(parts=part.parts + 1, skip=skip)

    def dead(self, ledger: Ledger) -> set[str]:
        letters: Any = self.redis.hkeys(keys.of_queue("job", ledger.name, "dead"))
        found = set()
        for letter in letters:
            root, _, number = letter.decode().rpartition("#")
            found.add(self.roots[ledger.name + root][int(number)])
        return found

    def came_of(self, ledger: Ledger, items: list[str]) -> tuple[list[str], bool]:
        """The outputs of items, as far as all before them are there; and whether that is all of them."""
        given_up = self.dead(ledger)
        outputs: list[str] = []
        for item in items:
            if item in self.done:
                outputs += self.outputs(ledger, item)
                continue
            outputs += self.outputs(ledger, item)[: self.emitted.get(item, 0)]
            if item not in given_up:
                return outputs, False
        return outputs, True

    def check(self) -> bool:
        """What may be shown is shown, and nothing else; what may be worked on does not wait. Whether that is all."""
        into, all_of_first = self.came_of(self.first, [f"{n}" for n in range(self.put)])
        out, all_of_second = self.came_of(self.second, into)
        assert self.shown() == out
        gate: Any = self.redis.hgetall(keys.of_queue("job", "b", "gate"))
        waiting = [value.split(b" ")[2].decode() for name, value in gate.items() if name[:1] == b"e"]
        assert not set(into) & {value for root in waiting if root for value in self.roots[f"b{root}"]}
        return all_of_first and all_of_second

    def shown(self) -> list[str]:
        stream: Any = self.redis.xrange(keys.of_queue("job", "b", "results"))
        entries = [data for _, entry in stream for name, data in entry.items() if name != b"end"]
        return [value for data in entries if data[:1] == b"O" for value in data[1:].decode().split(",")]

    def go_on(self, most: int) -> None:
        """Do something, as often as that."""
        for _ in range(most):
            ledger = self.draw(st.sampled_from([self.first, self.second]))
            if len(self.held) < 6 and self.draw(st.booleans()) and self.claim(ledger):
                continue
            if self.held:
                self.act(self.draw(st.sampled_from(self.held)))
            else:
                self.claim(ledger)
            self.check()

    def finish(self) -> None:
        """Nobody fails any more."""
        self.sent(lambda: self.first.leave("p", self.lease.epoch))
        while True:
            for held in self.held:
                done = self.completion(held, set(), set())
                self.sent(lambda held=held, done=done: held.ledger.next(  # type: ignore[misc]
                    held.ticket, held.ticket, LONG_MS, 0, completions=[done]))  # fmt: skip
                self.done |= set(self.items(held))
            self.held = []
            if not any([self.claim(self.first), self.claim(self.second)]):
                return


@settings(max_examples=120)
@given(data=st.data(), gated=st.booleans())
def test_each_output_appears_once_and_in_the_sources_order(server: Redis, data: st.DataObject, gated: bool) -> None:
    run = Run(server, data, gated)
    for size in data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)):
        run.add(size)
        run.go_on(data.draw(st.integers(0, 15)))
    run.finish()
    first, second = run.first.status(), run.second.status()
    assert (first.state, second.state) == ("DRAINED", "DRAINED")
    assert first.put == first.done + first.dead
    assert second.put == second.done + second.dead
    assert run.check()
    assert not server.exists(keys.of_queue("job", "b", "gate"))
