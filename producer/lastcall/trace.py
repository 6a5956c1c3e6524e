"""Trace: one item's way through the queues of its job, from its first arguments on, as it was recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

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
        return f"{self.event.chunk.partition('/')[0]}#{self.event.first + self.index}"


@dataclass(frozen=True, slots=True)
class Trace:
    """An item's way. source: its number in the input; results: what came of it, as far as they were kept."""

    job: str
    source: int
    steps: tuple[Step, ...]
    results: tuple[Any, ...]


def trace(connection: Connection, job: str, item: str | int) -> Trace:
    """An item's way through its job.

    item: its number in the input, from 0; or its id in a queue, "chunk#number", as dead letters have it, with
    "queue:" before it where several queues have one. Raises UnknownJob, UnknownItem, ConfigError.
    """
    events = list(History(connection, job))
    source = source_of(events, job, item)
    queues = queues_in_order(connection, job)
    steps: list[Step] = []
    made_ms: dict[int, float] = {}  # place of a queue -> when this was put there
    of_it = [(event, at) for event in events if (at := event.index_of(source)) is not None]
    for event, index in of_it:
        place = queues.index(event.queue) if event.queue in queues else len(queues)
        if event.kind == "put":
            made_ms.setdefault(place, event.at_ms)
        if event.kind in ("put", "started", "ended"):
            continue
        since = made_ms.get(place)
        began = event.began_ms if event.runtime_s else None
        waited_s = max(0.0, began - since) / 1000 if since is not None and began is not None else None
        steps.append(Step(event, index, value_of(connection, event, index), waited_s))
        if event.kind == "done":
            made_ms.setdefault(place + 1, event.at_ms)
    results = [value for event, _ in of_it if event.kind == "done" for value in results_of(connection, event, source)]
    order = {name: place for place, name in enumerate(queues)}
    steps.sort(key=lambda step: (order.get(step.event.queue, len(order)), step.event.at_ms))
    return Trace(job, source, tuple(steps), tuple(results))


def source_of(events: Sequence[Event], job: str, item: str | int) -> int:
    """The number in the input of an item that is named in any way. Raises UnknownItem, ConfigError."""
    if isinstance(item, int) or item.isdigit():
        if any(event.index_of(int(item)) is not None for event in events):
            return int(item)
        raise UnknownItem(job, str(item))
    queue, _, named = item.rpartition(":") if ":" in item.partition("#")[0] else ("", "", item)
    root, mark, number = named.partition("#")
    if not mark or not number.isdigit():
        raise ConfigError("item", 'a number of the input, or an id such as "1-17#3"', repr(item))
    found = set()
    for event in events:
        at = int(number) - event.first
        if event.chunk.partition("/")[0] == root and queue in ("", event.queue) and 0 <= at < len(event.source):
            found.add(event.source[at])
    if not found:
        raise UnknownItem(job, item)
    if len(found) > 1:
        raise ConfigError("item", "one item's id", f"{item!r}, which several queues have", 'say which: "queue:chunk#n"')
    (one,) = found
    return one if isinstance(one, int) else one[0]


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


def results_of(connection: Connection, event: Event, source: int) -> list[Any]:
    """What came of an item of the source in a chunk of the last queue, as far as it was kept."""
    if event.gave is None:
        return []
    try:
        outcome = open_outcome(connection.sealer, event.job, event.queue, event.chunk, event.gave)
    except (BadEnvelope, NotDeserializable) as error:
        return [error]
    origins: Sequence[Any] = outcome.origins if outcome.origins is not None else event.source
    return [
        value
        for at, (value, origin) in enumerate(zip(outcome.values, origins, strict=False))
        if at not in outcome.errors and at not in outcome.later
        and (origin == source or (isinstance(origin, tuple | list) and source in origin))
    ]  # fmt: skip
