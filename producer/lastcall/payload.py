"""What is inside the envelopes: a chunk's items on the way in, its outcome on the way out.

A chunk is bound to its job, queue and id, so that an envelope is good in one place only. A part of a chunk
(after it was halved, or partly processed) keeps the envelope of the whole and says which items it means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lastcall.errors import NotDeserializable
from lastcall.outcome import PackedError

if TYPE_CHECKING:
    from lastcall.envelope import Sealer
    from lastcall.state.records import Chunk

# Items serialized together; or each by itself; or together, with where each came from.
_TOGETHER, _EACH, _TRACED = 0, 1, 2

CALL = "call"  # style of a queue whose items are calls: (function's wire, args, kwargs)
STARTED = ", with an initializer"  # ends the identity of the function of a queue that has one
STAR = "star"  # style of a queue whose items are the arguments of its function
ITEM = "item"  # style of a queue whose items are the one argument of its function


# The number, in the input of a flow, of the item that an output came of; of several, behind a gather.
Origin = int | tuple[int, ...]


class Outcome(NamedTuple):
    """What a chunk came to. `errors`: index in `values` -> packed error, where a value is None.

    later: indices of the items that are tried again, whose outcomes come by themselves. origins: of a flow's outputs,
    one for each of the values, where they are known.
    """

    busy_us: int
    values: list[Any]
    errors: dict[int, PackedError]
    later: Sequence[int] = ()
    origins: Sequence[Origin] | None = None

    @property
    def settled(self) -> int:
        """The items whose outcomes these are."""
        return len(self.values) - len(self.later)


def seal_values(sealer: Sealer, job: str, queue: str, chunk: str, values: Sequence[Any]) -> bytes:
    """A chunk's payload, from its items. Raises NotSerializable."""
    return sealer.seal((_TOGETHER, values), job, queue, chunk, "in")


def seal_dumped(sealer: Sealer, job: str, queue: str, chunk: str, items: Sequence[bytes]) -> bytes:
    """A chunk's payload, from items that went through sealer.dump()."""
    return sealer.seal((_EACH, items), job, queue, chunk, "in")


def seal_traced(
    sealer: Sealer, job: str, queue: str, chunk: str, values: Sequence[Any], origins: Sequence[Origin] | None
) -> bytes:
    """A chunk's payload, from a stage's outputs. origins: None where they follow from the chunk's path.

    Raises NotSerializable.
    """
    return sealer.seal((_TRACED, (values, origins)), job, queue, chunk, "in")


def _open(sealer: Sealer, job: str, queue: str, chunk: Chunk) -> tuple[int, Sequence[Any], Sequence[Any] | None]:
    """How a chunk's items went, those that it means, and where they came from, if that is said."""
    how, items = sealer.open(chunk.payload, job, queue, chunk.root, "in")
    origins = None
    if how == _TRACED:
        items, origins = items
    if len(items) != chunk.items:
        those = slice(chunk.start, chunk.start + chunk.items)
        items, origins = items[those], origins and origins[those]
    return how, items, origins


def open_items(sealer: Sealer, job: str, queue: str, chunk: Chunk) -> list[Any]:
    """A claimed chunk's items. Raises BadEnvelope, NotDeserializable."""
    how, items, _ = _open(sealer, job, queue, chunk)
    if how == _EACH:
        return [sealer.load(item) for item in items]
    return list(items)


def open_traced(
    sealer: Sealer, job: str, queue: str, chunk: Chunk
) -> tuple[list[Any], dict[int, NotDeserializable], list[Origin] | None]:
    """As open_each(), with where the items came from; None where that follows from the chunk's path, or is not known.

    Raises BadEnvelope, and NotDeserializable where the items went together.
    """
    how, items, told = _open(sealer, job, queue, chunk)
    origins: list[Origin] | None = None
    if told is not None:  # without a key what was a tuple is a list by now
        origins = [tuple(origin) if isinstance(origin, list) else origin for origin in told]
    return *_load_each(sealer, how, list(items)), origins


def open_each(sealer: Sealer, job: str, queue: str, chunk: Chunk) -> tuple[list[Any], dict[int, NotDeserializable]]:
    """As open_items(), where an item that cannot be rebuilt spoils no other: index -> why, the item is None.

    Raises BadEnvelope, and NotDeserializable where the items went together.
    """
    how, items, _ = _open(sealer, job, queue, chunk)
    return _load_each(sealer, how, list(items))


def _load_each(sealer: Sealer, how: int, items: list[Any]) -> tuple[list[Any], dict[int, NotDeserializable]]:
    failed: dict[int, NotDeserializable] = {}
    for at in range(len(items) if how == _EACH else 0):
        try:
            items[at] = sealer.load(items[at])
        except NotDeserializable as error:
            items[at], failed[at] = None, error
    return items, failed


def seal_parts(sealer: Sealer, job: str, queue: str, chunk: Chunk, positions: Sequence[int]) -> dict[int, bytes]:
    """Payloads with one item of a claimed chunk each, as it was put, by their places in it.

    Raises BadEnvelope; NotDeserializable where the items went together, and cannot be rebuilt here.
    """
    how, items, origins = _open(sealer, job, queue, chunk)

    def alone(at: int) -> Any:
        return [items[at]] if how != _TRACED else ([items[at]], origins and [origins[at]])

    return {at: sealer.seal((how, alone(at)), job, queue, chunk.root, "in") for at in positions}


def seal_outcome(sealer: Sealer, job: str, queue: str, chunk: str, outcome: Outcome) -> bytes:
    """An outcome for the results stream. Raises NotSerializable."""
    return sealer.seal(tuple(outcome), job, queue, chunk, "out")


def open_outcome(sealer: Sealer, job: str, queue: str, chunk: str, data: bytes) -> Outcome:
    """The outcome of a chunk. Raises BadEnvelope, NotDeserializable."""
    return Outcome(*sealer.open(data, job, queue, chunk, "out"))
