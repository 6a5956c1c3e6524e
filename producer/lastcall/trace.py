"""Trace: one item's way through the queues of its job, from its first arguments on, as it was recorded."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lastcall.errors import BadEnvelope, ConfigError, NotDeserializable, UnknownItem
from lastcall.flowoptions import MANY
from lastcall.history import Event, History, sources_at
from lastcall.outcome import in_short
from lastcall.payload import Outcome, open_items, open_outcome, open_traced
from lastcall.state.ledger import Ledger, queues_of
from lastcall.state.records import Chunk
from lastcall.steps import Carrier, Failed

if TYPE_CHECKING:
    from lastcall.connection import Connection


class _NotKept:
    def __repr__(self) -> str:
        return "(not kept)"


NOT_KEPT: Final = _NotKept()


class Raised(NamedTuple):
    """In place of a value behind a flat-map that raised, in the same function: "Type: message"."""

    error: str


@dataclass(frozen=True, slots=True)
class Step:
    """What happened to an item in one queue, in one attempt.

    event: its chunk's, or its own. index: which of the event's items it is. value: what it was then, NOT_KEPT where
    arguments were not recorded. waited_s: from when it was put, made, or last tried until it began; None where that is
    not known.
    """

    event: Event
    index: int
    value: Any
    waited_s: float | None

    @property
    def item(self) -> str:
        """Its id in the queue."""
        return f"{self.event.root}#{self.event.first + self.index}"


@dataclass(frozen=True, slots=True)
class Trace:
    """An item's way. source: its number in the input, where it is known; results: what came of it, as far as kept."""

    job: str
    source: int | None
    steps: tuple[Step, ...]
    results: tuple[Any, ...]


def trace(connection: Connection, job: str, item: str | int) -> Trace:
    """An item's way through its job.

    item: its number in the input of a flow, from 0; or its id in a queue, "chunk#number", as dead letters have it, with
    "queue:" before it where several queues have one. Raises UnknownJob, NotRecorded, UnknownItem, ConfigError.
    """
    way = find(read(connection, job), job, item)
    names = queues_in_order(connection, job)
    order = {name: place for place, name in enumerate(names)}
    opened = Opener(connection)
    steps: list[Step] = []
    there_ms: dict[tuple[int, str], float] = {}  # place of a queue, and the item there -> since when it waits
    made_ms: dict[int, float] = {}  # place of a queue -> since when something of the item may have been there
    results: list[Any] = []
    for event, index in way.events:
        place = order.get(event.queue, len(order))
        if event.kind in ("done", "emitted") and place == len(order) - 1 and index not in event.failed:
            results += opened.results(event, index, names[-1])
        if event.kind == "put":
            made_ms.setdefault(place, event.at_ms)
        if event.kind in ("put", "started", "emitted", "ended") or index in event.failed:
            continue
        number = (place, f"{event.root}#{event.first + index}")
        since = there_ms.get(number, made_ms.get(place))
        waited_s = max(0.0, event.began_ms - since) / 1000 if since is not None and event.runtime_s else None
        steps.append(Step(event, index, opened.value(event, index), waited_s))
        there_ms[number] = event.at_ms
        if event.kind == "done":
            made_ms.setdefault(place + 1, event.at_ms)
    steps.sort(key=lambda step: (order.get(step.event.queue, len(order)), natural(step.item), step.event.at_ms))
    return Trace(job, way.source, tuple(steps), tuple(results))


def read(connection: Connection, job: str) -> list[Event]:
    """A job's events. Where a script has told of what it gave up, what came with the items says where they are from."""
    events = list(History(connection, job))
    for at, event in enumerate(events):
        if event.payload is None or event.source or event.kind == "done":
            continue
        chunk = Chunk(event.chunk, event.items, event.first, event.payload)
        try:
            _, _, origins = open_traced(connection.sealer, job, event.queue, chunk)
        except (BadEnvelope, NotDeserializable):
            continue
        if origins:
            events[at] = replace(event, source=tuple(origins))
        elif event.path and "/" not in event.path:
            events[at] = replace(event, source=sources_at(event.path, event.first, event.items))
    return events


class Way(NamedTuple):
    """The events of an item, the oldest first, each with the item's index in it. source: its number in the input, None
    where that is not known: the job is no flow, or has several sources."""

    source: int | None
    events: list[tuple[Event, int]]


_Places = Mapping[tuple[str, str], set[int]]  # where it was: queue and root of the chunk -> numbers in that


def find(events: Sequence[Event], job: str, item: str | int) -> Way:
    """The events of an item that is named in any way. Raises UnknownItem, ConfigError."""
    source = int(item) if isinstance(item, int) or item.isdecimal() else None
    places: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    if source is None:
        queue, root, number = _place(events, str(item))
        places[queue, root].add(number)
        known = [event.source[at] for event in events for at in _indices(event, places) if event.source]
        source = next((one if isinstance(one, int) else one[0] for one in known if one != ()), None)
    if source is not None:
        for event in events:
            for at in event.indices_of(source):
                places[event.queue, event.root].add(event.first + at)
    found = [(event, at) for event in events for at in _indices(event, places)]
    if not found:
        raise UnknownItem(job, str(item))
    return Way(source, found)


def _indices(event: Event, places: _Places) -> list[int]:
    numbers = places.get((event.queue, event.root)) if event.chunk else None
    return sorted(at for number in numbers or () if 0 <= (at := number - event.first) < event.items)


def _place(events: Sequence[Event], item: str) -> tuple[str, str, int]:
    queue, colon, named = item.partition(":")
    root, mark, number = (named if colon else item).partition("#")
    if not mark or not number.isdecimal():
        raise ConfigError("item", 'a number of the input, or an id such as "1-17#3"', repr(item))
    if colon:
        return queue, root, int(number)
    queues = sorted({event.queue for event in events if event.root == root})
    if len(queues) > 1:
        raise ConfigError("item", "one item's id", f"{item!r}, which several queues have",
                          f"say which: {', '.join(f'{name}:{item}' for name in queues)}")  # fmt: skip
    return queues[0] if queues else "", root, int(number)


def queues_in_order(connection: Connection, job: str) -> list[str]:
    """The names of a job's queues, upstream first. Raises UnknownJob."""
    redis = connection.redis
    ledgers = [Ledger.open(redis, job, name) for name in queues_of(redis, job)]
    return [ledger.name for ledger in sorted(ledgers, key=lambda ledger: (-len(ledger.names), ledger.name))]


def natural(name: str) -> tuple[int, ...]:
    """By which ids of chunks and items are in their order: the numbers in them."""
    return tuple(map(int, re.findall(r"\d+", name)))


def plain(value: Any) -> Any:
    """A value as a flow's author knows it, not as it travels between steps."""
    if type(value) is Carrier:
        return value.values[0] if len(value.values) == 1 else value.values
    return bare(value)


def bare(value: Any) -> Any:
    """The same, but for what goes through a fan-out, which stays what it is."""
    return Raised(in_short(value.error)) if type(value) is Failed else value


class Opener:
    """Opens what events hold, each payload once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._items: dict[tuple[str, str, str], list[Any] | Exception] = {}
        self._outcomes: dict[tuple[str, str, str], list[tuple[int, Outcome]]] = {}
        self._many: dict[str, bool] = {}

    def value(self, event: Event, index: int) -> Any:
        """An event's item; NOT_KEPT; or the error where it cannot be opened here."""
        return plain(self.raw(event, index))

    def raw(self, event: Event, index: int) -> Any:
        """The same, as it travels."""
        if event.payload is None:
            return NOT_KEPT
        key = (event.entry, event.queue, event.chunk)
        if key not in self._items:
            chunk = Chunk(event.chunk, event.items, event.first, event.payload)
            try:
                self._items[key] = open_items(self._connection.sealer, event.job, event.queue, chunk)
            except (BadEnvelope, NotDeserializable) as error:
                self._items[key] = error
        items = self._items[key]
        return items if isinstance(items, Exception) else items[index]

    def results(self, event: Event, index: int, queue: str) -> list[Any]:
        """What came of an item of the last queue, as far as it was kept, and can be told from its siblings'."""
        results: list[Any] = []
        if queue not in self._many:
            meta = Ledger(self._connection.redis, event.job, [queue]).meta()
            self._many[queue] = meta.get("style", b"").decode() == MANY
        for first, outcome in self.outcomes(event):
            good = _good(outcome)
            if event.items == 1:
                results += [outcome.values[at] for at in good]
            elif outcome.origins is not None and event.source:
                source = event.source[index]
                mine = [outcome.values[at] for at in good if _same(outcome.origins[at], source)]
                siblings = event.siblings(index)
                if len(siblings) > 1:  # items that one of the source gave
                    tells = not self._many[queue] and len(mine) == len(siblings)
                    mine = [mine[siblings.index(index)]] if tells else []
                results += mine
            elif not self._many[queue] and event.first + index - first in good:
                results.append(outcome.values[event.first + index - first])
        return [bare(result) for result in results]

    def count(self, event: Event) -> int:
        """How many results of a chunk were kept."""
        return sum(len(_good(outcome)) for _, outcome in self.outcomes(event))

    def outcomes(self, event: Event) -> list[tuple[int, Outcome]]:
        """What was kept, each with the number of the first item that it is of."""
        key = (event.entry, event.queue, event.chunk)
        if key not in self._outcomes:
            self._outcomes[key] = list(self._open(event))
        return self._outcomes[key]

    def _open(self, event: Event) -> Iterator[tuple[int, Outcome]]:
        for name, data in event.gave:
            _, part, numbers = name.partition("/")
            first = int(numbers.partition(":")[0]) if part else event.first
            try:
                outcome = open_outcome(self._connection.sealer, event.job, event.queue, name, data)
            except (BadEnvelope, NotDeserializable) as error:
                outcome = Outcome(0, [error], {})
            yield first, outcome


def _good(outcome: Outcome) -> list[int]:
    return [at for at in range(len(outcome.values)) if at not in outcome.errors and at not in outcome.later]


def _same(origin: Any, source: Any) -> bool:
    return bool(origin == source or (isinstance(origin, list | tuple) and tuple(origin) == source))
