"""Trace: one item's way through the queues of its job, from its first arguments on, as it was recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lastcall.errors import BadEnvelope, ConfigError, NotDeserializable, UnknownItem
from lastcall.history import Event, History
from lastcall.payload import open_items, open_outcome
from lastcall.state.ledger import Chunk, Ledger, queues_of

if TYPE_CHECKING:
    from lastcall.connection import Connection


class _NotKept:
    def __repr__(self) -> str:
        return "(not kept)"


NOT_KEPT: Final = _NotKept()


@dataclass(frozen=True, slots=True)
class Step:
    """What happened to an item in one queue, in one attempt.

    event: its chunk's, or its own. index: which of the event's items it is. value: what it was then, NOT_KEPT where
    arguments were not recorded. waited_s: from when it was put, or made, until it began; None where that is not known.
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
    "queue:" before it where several queues have one. Raises UnknownJob, UnknownItem, ConfigError.
    """
    way = find(list(History(connection, job)), job, item)
    order = {name: place for place, name in enumerate(queues_in_order(connection, job))}
    steps: list[Step] = []
    there_ms: dict[int, float] = {}  # place of a queue -> since when it was there
    results: list[Any] = []
    for event, index in way.events:
        place = order.get(event.queue, len(order))
        if event.kind == "put":
            there_ms.setdefault(place, event.at_ms)
        if event.kind in ("put", "started", "ended") or index in event.failed:
            continue
        since = there_ms.get(place)
        waited_s = max(0.0, event.began_ms - since) / 1000 if since is not None and event.runtime_s else None
        steps.append(Step(event, index, value_of(connection, event, index), waited_s))
        if event.kind == "done":
            there_ms.setdefault(place + 1, event.at_ms)
            if place == len(order) - 1:
                results += results_of(connection, event, index)
    steps.sort(key=lambda step: (order.get(step.event.queue, len(order)), step.event.at_ms))
    return Trace(job, way.source, tuple(steps), tuple(results))


class Way(NamedTuple):
    """The events of an item, the oldest first, each with the item's index in it. source: its number in the input, None
    where that is not known: the job is no flow, or has several sources."""

    source: int | None
    events: list[tuple[Event, int]]


def find(events: Sequence[Event], job: str, item: str | int) -> Way:
    """The events of an item that is named in any way. Raises UnknownItem, ConfigError."""
    source = int(item) if isinstance(item, int) or item.isdigit() else None
    places: set[tuple[str, str, int]] = set()  # where it was: queue, root of the chunk, number in that
    if source is None:
        place = _place(events, str(item))
        known = [event.source[at] for event in events if (at := _index(event, place)) is not None and event.source]
        source = next((one if isinstance(one, int) else one[0] for one in known if one != ()), None)
        places.add(place)
    if source is not None:
        for event in events:
            for at in event.indices_of(source):
                places.add((event.queue, event.root, event.first + at))
    found = [(event, at) for event in events for at in _indices(event, places)]
    if not found:
        raise UnknownItem(job, str(item))
    return Way(source, found)


def _indices(event: Event, places: set[tuple[str, str, int]]) -> list[int]:
    return sorted({at for place in places if (at := _index(event, place)) is not None})


def _index(event: Event, place: tuple[str, str, int]) -> int | None:
    queue, root, number = place
    at = number - event.first
    return at if event.queue == queue and event.root == root and event.chunk and 0 <= at < event.items else None


def _place(events: Sequence[Event], item: str) -> tuple[str, str, int]:
    queue, colon, named = item.partition(":")
    root, mark, number = (named if colon else item).partition("#")
    if not mark or not number.isdigit():
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


def value_of(connection: Connection, event: Event, index: int) -> Any:
    """An event's item, or NOT_KEPT; the error where it cannot be opened here."""
    if event.payload is None:
        return NOT_KEPT
    chunk = Chunk(event.chunk, event.items, event.first, event.payload)
    try:
        return open_items(connection.sealer, event.job, event.queue, chunk)[index]
    except (BadEnvelope, NotDeserializable) as error:
        return error


def results_of(connection: Connection, event: Event, index: int) -> list[Any]:
    """What came of an item of a chunk of the last queue, as far as it was kept, and can be told from its siblings'."""
    results: list[Any] = []
    for name, data in event.gave:
        try:
            outcome = open_outcome(connection.sealer, event.job, event.queue, name, data)
        except (BadEnvelope, NotDeserializable) as error:
            return [error]
        good = [at for at in range(len(outcome.values)) if at not in outcome.errors and at not in outcome.later]
        if outcome.origins is not None and event.source:
            source = event.source[index]
            mine = [outcome.values[at] for at in good if _same(outcome.origins[at], source)]
            siblings = [at for at in range(len(event.source)) if event.source[at] == source]
            if len(siblings) > 1:
                mine = mine[siblings.index(index) :][:1] if len(mine) == len(siblings) else []
            results += mine
        elif outcome.origins is None and index in good:
            results.append(outcome.values[index])
    return results


def _same(origin: Any, source: Any) -> bool:
    return bool(origin == source or (isinstance(origin, list | tuple) and tuple(origin) == source))
