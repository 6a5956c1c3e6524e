"""outputs: what a chunk of a flow's queue came to, as the ledger wants it.

That is: the runs of its items between those that are tried again, each with the outputs that go on, in chunks that are
not too large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lastcall.errors import NotSerializable
from lastcall.flowoptions import MANY
from lastcall.outcome import PackedError, pack_error
from lastcall.payload import Origin, Outcome, seal_outcome, seal_traced
from lastcall.state.records import ERROR, NEXT, SHOWN, Completion, Output, Segment
from lastcall_worker.packing import failures, find_unserializable, given_up

if TYPE_CHECKING:
    from lastcall.state.records import Chunk
    from lastcall_worker.slot import Slot
    from lastcall_worker.station import Work

MOST_ITEMS = 256  # outputs that go on in a chunk, or as many as the chunk had that they are of
MOST_BYTES = 4 << 20


def pack(
    slot: Slot, work: Work, chunk: Chunk, values: list[Any], errors: dict[int, PackedError], again: dict[int, int],
    busy_us: int,
) -> Completion:  # fmt: skip
    """What a chunk came to. values: for each item its output, or where the function gives many, a list of these."""
    if work.fold is not None:
        _fold(slot, work, values, errors, again)
    while True:
        try:
            segments = _Packer(slot, work, chunk, values, errors, again, busy_us).segments()
            break
        except NotSerializable:
            find_unserializable(slot, chunk, values, errors)
    letters, retried = given_up(slot, work, chunk, errors, again)
    done = len(values) - len(letters) - len(retried)
    failed = failures(errors, again, letters)
    return Completion(
        chunk.id, done, len(letters), again=retried, letters=letters, segments=segments, failed=failed
    )  # fmt: skip


def last_way(work: Work) -> str:
    """Where outputs go."""
    return NEXT if len(work.ledger.names) > 1 else SHOWN


def seal_output(
    slot: Slot, work: Work, name: str, values: Sequence[Any], origins: Sequence[Origin] | None,
    errors: dict[int, PackedError] | None = None, busy_us: int = 0,
) -> Output:  # fmt: skip
    """A chunk for the queue downstream or, in the last queue, for its results. Raises NotSerializable."""
    ledger, sealer = work.ledger, slot.station.sealer
    if last_way(work) == NEXT:
        payload = seal_traced(sealer, ledger.job, ledger.names[1], name, values, origins)
    else:
        outcome = Outcome(busy_us, list(values), errors or {}, (), origins)
        payload = seal_outcome(sealer, ledger.job, ledger.name, name, outcome)
    return Output(name, len(values), payload)


def name_of(work: Work, chunk: Chunk, first: int, past: int, number: int | None = None) -> str:
    """Of what these items of a chunk came to, or of one of several parts of that; no other chunk's has it.

    In results it tells which items they were.
    """
    whole = "/" not in chunk.id and (first, past) == (chunk.start, chunk.start + chunk.items)
    part = "" if number is None else f".{number}"
    if last_way(work) == SHOWN:
        return chunk.root if whole and not part else f"{chunk.root}/{first}:{past}{part}"
    return f"{work.down_index}-{chunk.root}" + ("" if whole else f"-{first}-{past}") + part


def origins_of(slot: Slot, chunk: Chunk, positions: Sequence[int]) -> list[Origin] | None:
    """Where items of a chunk came from; None where that is not known."""
    if slot.origins is not None:
        return [slot.origins[at] for at in positions]
    if not chunk.path or "/" in chunk.path:
        return None
    first = int(chunk.path.partition(":")[0]) + chunk.start
    return [first + at for at in positions]


def split(count: int, most: int) -> list[slice]:
    """Even slices of so many outputs, none larger than `most`."""
    pieces = -(-count // most) or 1
    return [slice(count * at // pieces, count * (at + 1) // pieces) for at in range(pieces)]


class _Packer:
    """One chunk's results on their way into segments."""

    def __init__(
        self, slot: Slot, work: Work, chunk: Chunk, values: list[Any], errors: dict[int, PackedError],
        again: dict[int, int], busy_us: int,
    ) -> None:  # fmt: skip
        self.slot, self.work, self.chunk = slot, work, chunk
        self.values, self.errors, self.again = values, errors, again
        self.busy_us = busy_us
        self.shown = last_way(work) == SHOWN
        self.tells = work.on_error == "return"  # of errors, in the results
        self.many = work.style == MANY

    def segments(self) -> list[Segment]:
        # An error that the results of another queue tell of has a place of its own among the outputs.
        apart = self.errors.keys() if self.tells and not self.shown and self.chunk.path else self.again.keys()
        segments: list[Segment] = []
        first = 0
        for at in sorted({*apart, *self.again}):
            if at > first:
                segments.append(self._run(first, at))
            if at not in self.again:
                segments.append(self._error(at, at + 1, [at]))
            first = at + 1
        if first < len(self.values):
            segments.append(self._run(first, len(self.values)))
        if self.tells and not self.shown and not self.chunk.path:
            failed = [at for at in self.errors if at not in self.again]
            if failed:
                segments.append(self._error(0, 0, failed))
        return segments

    def _numbers(self, first: int, past: int) -> tuple[int, int]:
        return self.chunk.start + first, self.chunk.start + past

    def _run(self, first: int, past: int) -> Segment:
        """Items none of which is tried again."""
        numbers = self._numbers(first, past)
        values, positions, errors = self._outputs(first, past)
        way = last_way(self.work)
        if not values or (self.shown and self.work.results == "discard"):
            return Segment(*numbers, way)
        return Segment(*numbers, way, self._parts(numbers, values, positions, errors))

    def _outputs(self, first: int, past: int) -> tuple[list[Any], list[int], dict[int, PackedError]]:
        """Values, the item of each, and, in the last queue, errors by index in the values."""
        if not self.many and not self.errors:
            return self.values[first:past], list(range(first, past)), {}
        values: list[Any] = []
        positions: list[int] = []
        errors: dict[int, PackedError] = {}
        for at in range(first, past):
            if at in self.errors:
                if self.shown and self.tells:
                    errors[len(values)] = self.errors[at]
                    values.append(None)
                    positions.append(at)
                continue
            outputs = self.values[at] if self.many else (self.values[at],)
            values += outputs
            positions += [at] * len(outputs)
        return values, positions, errors

    def _parts(
        self, numbers: tuple[int, int], values: list[Any], positions: list[int], errors: dict[int, PackedError]
    ) -> list[Output]:
        origins = self._origins(values, positions)
        emitted = self.chunk.parts

        def seal(those: slice, number: int | None) -> Output:
            name = name_of(self.work, self.chunk, *numbers, number)
            failed = {at - those.start: errors[at] for at in errors if those.start <= at < those.stop}
            traced = origins and origins[those]
            return seal_output(self.slot, self.work, name, values[those], traced, failed, self.busy_us)

        most = max(MOST_ITEMS, self.chunk.items, self.chunk.total)
        if len(values) <= most:
            whole = seal(slice(0, len(values)), emitted or None)
            size = len(whole.payload)
            if size <= MOST_BYTES or len(values) == 1:
                return [whole]
            most = max(1, len(values) * MOST_BYTES // (2 * size))
        return [seal(those, emitted + number) for number, those in enumerate(split(len(values), most))]

    def _origins(self, values: list[Any], positions: list[int]) -> list[Origin] | None:
        chunk = self.chunk
        if (
            self.slot.origins is None
            and not self.many
            and len(values) == chunk.total == chunk.items
            and not self.shown
            and "/" not in chunk.path
        ):
            return None  # they follow from the path, which goes on with it
        return origins_of(self.slot, chunk, positions)

    def _error(self, first: int, past: int, failed: list[int]) -> Segment:
        """Errors of this queue's items, told in the results of the last. As a segment they are of no items where they
        have no place in an order."""
        ledger = self.work.ledger
        numbers = self._numbers(failed[0], failed[-1] + 1)
        name = f"{ledger.name}-{self.chunk.root}/{numbers[0]}:{numbers[1]}"
        errors = {index: self.errors[at] for index, at in enumerate(failed)}
        origins = origins_of(self.slot, self.chunk, failed)
        outcome = Outcome(self.busy_us, [None] * len(failed), errors, (), origins)
        data = seal_outcome(self.slot.station.sealer, ledger.job, ledger.names[-1], name, outcome)
        return Segment(*self._numbers(first, past), ERROR, [Output(name, len(failed), data)])


def _fold(slot: Slot, work: Work, values: list[Any], errors: dict[int, PackedError], again: dict[int, int]) -> None:
    """Make one output of those of each run of items; an item whose output cannot be folded in has an error."""
    assert work.fold is not None
    holder = -1  # the item that has the output of its run, so far
    for at in range(len(values)):
        if at in again:
            holder = -1
        elif at not in errors and values[at]:
            if holder < 0:
                holder = at
                continue
            try:
                values[holder] = [work.fold(values[holder][0], values[at][0])]
                values[at] = []
            except Exception as error:  # whatever a function raises is its item's outcome
                errors[at] = pack_error(error, slot.station.sealer.keyed)
                values[at] = None
