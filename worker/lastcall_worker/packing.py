"""Packing: what a chunk came to, as the ledger wants it; of a flow's queue, outputs.py says most of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lastcall.errors import BadEnvelope, NotDeserializable, NotSerializable
from lastcall.letters import write_letter
from lastcall.outcome import PackedError, pack_error
from lastcall.payload import Outcome, seal_outcome, seal_parts, seal_values
from lastcall.state.records import Again, Completion, Output

if TYPE_CHECKING:
    from lastcall.state.records import Chunk
    from lastcall_worker.slot import Slot
    from lastcall_worker.station import Work


def pack(
    slot: Slot, work: Work, chunk: Chunk, values: list[Any], errors: dict[int, PackedError], again: dict[int, int],
    busy_us: int,
) -> Completion:  # fmt: skip
    """What a chunk of a queue that is no flow's came to."""
    station, ledger = slot.station, work.ledger
    sealer = station.sealer
    last = len(ledger.names) == 1
    sent: list[Output] = []
    outcome = b""
    while True:
        try:
            if last and work.results != "discard" and len(again) < len(values):
                shown = errors if not again else {at: errors[at] for at in errors if at not in again}
                packed = Outcome(busy_us, values, shown, list(again))
                outcome = seal_outcome(sealer, ledger.job, ledger.name, chunk.id, packed)
            elif not last:
                passed = [v for at, v in enumerate(values) if at not in errors]
                sent = _outputs(slot, work, chunk, passed)
            break
        except NotSerializable:
            find_unserializable(slot, chunk, values, errors)
    letters, retried = given_up(slot, work, chunk, errors, again)
    done = len(values) - len(letters) - len(retried)
    failed = failures(errors, again, letters)
    return Completion(chunk.id, done, len(letters), outcome, sent, retried, letters, failed=failed)


def failures(errors: dict[int, PackedError], again: dict[int, int], letters: Sequence[object]) -> int:
    """How many items are done that came to an error."""
    return sum(at not in again for at in errors) - len(letters)


def given_up(
    slot: Slot, work: Work, chunk: Chunk, errors: dict[int, PackedError], again: dict[int, int]
) -> tuple[list[tuple[str, bytes]], list[Again]]:
    """Letters of a chunk's items that are given up, where the queue has letters, and what is to be tried again."""
    station, ledger = slot.station, work.ledger
    dead = [at for at in errors if at not in again] if work.on_error == "dead" else []
    apart = alone(slot, work, chunk, [*dead, *again]) if dead or again else {}
    letters = []
    for at in dead:
        item = f"{chunk.root}#{chunk.start + at}"
        about = (errors[at], chunk.tries + 1, station.node)
        letter = write_letter(station.sealer, ledger.job, ledger.name, item, *about, apart[at], chunk)
        letters.append((item, letter))
    retried = [
        Again(chunk.start + at, chunk.raises + 1, delay_ms, apart[at], chunk.crashes, chunk.losses)
        for at, delay_ms in again.items()
    ]
    return letters, retried


def alone(slot: Slot, work: Work, chunk: Chunk, positions: Sequence[int]) -> dict[int, bytes]:
    """Payloads with one item each, as it was put; the whole chunk's, where it is not genuine."""
    if chunk.items == 1:
        return dict.fromkeys(positions, chunk.payload)
    try:
        return seal_parts(slot.station.sealer, work.ledger.job, work.ledger.name, chunk, positions)
    except (BadEnvelope, NotDeserializable):
        return dict.fromkeys(positions, chunk.payload)


def _outputs(slot: Slot, work: Work, chunk: Chunk, values: list[Any]) -> list[Output]:
    if not values:
        return []
    ledger = work.ledger
    # Parts of one chunk have one root: their items' numbers tell them apart.
    out = f"{work.down_index}-{chunk.root}"
    if "/" in chunk.id:
        out += f"-{chunk.start}-{chunk.start + chunk.items}"
    payload = seal_values(slot.station.sealer, ledger.job, ledger.names[1], out, values)
    return [Output(out, len(values), payload)]


def find_unserializable(slot: Slot, chunk: Chunk, values: list[Any], errors: dict[int, PackedError]) -> None:
    """Give the values that cannot be sent errors in their places."""
    found = False
    for at, value in enumerate(values):
        if at in errors:
            continue
        try:
            slot.station.sealer.dump(value)
        except NotSerializable as error:
            found = True
            said = NotSerializable("the result of item", chunk.start + at, error.type_name, error.reason)
            errors[at] = pack_error(said, slot.station.sealer.keyed)
            values[at] = None
    if not found:  # each goes, all together do not: a value that changes as it is pickled
        changing = NotSerializable("results", None, "list", "they change while they are serialized")
        for at in range(len(values)):
            errors[at] = pack_error(changing, slot.station.sealer.keyed)
            values[at] = None
