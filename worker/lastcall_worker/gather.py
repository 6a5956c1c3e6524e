"""gather: what a slot does that is given many chunks together: lists of their items, or all of them folded into one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lastcall.current import running as running_here
from lastcall.errors import NotSerializable
from lastcall.flowoptions import REDUCE
from lastcall.outcome import PackedError, pack_error
from lastcall.payload import Origin, Outcome, seal_outcome, seal_traced
from lastcall.state.records import AGAIN, ERROR, Completion, Output, Segment
from lastcall_worker.notes import notes_of
from lastcall_worker.outputs import last_way, origins_of, seal_output, split
from lastcall_worker.packing import failures, given_up

if TYPE_CHECKING:
    from lastcall.state.records import Chunk, Claim, Note
    from lastcall_worker.slot import Slot
    from lastcall_worker.station import Work

_MOST_OUTPUTS = 256  # in a chunk


def complete(slot: Slot, work: Work, claim: Claim) -> list[Completion]:
    """Make one thing of what was claimed; the last of the completions has the outputs."""
    return _Gather(slot, work, claim).completions()


class _Gather:
    """What was claimed: items with their errors and origins, by chunk."""

    def __init__(self, slot: Slot, work: Work, claim: Claim) -> None:
        self.slot, self.work, self.claim = slot, work, claim
        self.keyed = slot.station.sealer.keyed
        self.began = time.perf_counter()
        self.items: list[list[Any]] = []
        self.errors: list[dict[int, PackedError]] = []
        self.origins: list[list[Origin]] = []
        for chunk in claim.chunks:
            items, errors = slot.open(work, chunk)
            self.items.append(items)
            self.errors.append(errors)
            self.origins.append(origins_of(slot, chunk, range(len(items))) or [()] * len(items))
        self.rest = 0  # items at the end of the last chunk
        unable = work.error
        if unable is not None:
            self.errors = [dict.fromkeys(range(len(items)), unable) for items in self.items]

    def completions(self) -> list[Completion]:
        segments = self._reduce() if self.work.gather == REDUCE else self._batch()
        found = []
        last = len(self.claim.chunks) - 1
        for number, chunk in enumerate(self.claim.chunks):
            errors, rest = self.errors[number], self.rest if number == last else 0
            letters, _ = given_up(self.slot, self.work, chunk, errors, {})
            told = [self._told(chunk, errors, self.origins[number])] if errors and not letters else []
            done = chunk.items - len(letters) - rest
            found.append(
                Completion(
                    chunk.id,
                    done,
                    len(letters),
                    letters=letters,
                    rest=rest,
                    segments=[*told, *(segments if number == last else ())],
                    notes=self._notes(number, chunk, rest),
                    failed=failures(errors, {}, letters),
                )
            )
        return found

    def _notes(self, number: int, chunk: Chunk, rest: int) -> Sequence[Note]:
        errors, origins = self.errors[number], self.origins[number]
        kept = chunk._replace(items=chunk.items - rest) if rest else chunk
        busy_us = int((time.perf_counter() - self.began) * 1e6)
        share_us = busy_us // len(self.claim.chunks)
        return notes_of(
            self.slot, self.work, kept, origins[: kept.items], kept.items - len(errors), errors, (), {}, share_us
        )  # fmt: skip

    def _batch(self) -> list[Segment]:
        good = [
            (items[at], origins[at])
            for items, errors, origins in zip(self.items, self.errors, self.origins, strict=True)
            for at in range(len(items))
            if at not in errors
        ]
        size = int(self.work.gather.split(":")[1])
        over = len(good) % size
        # Where items could not be opened it may be that a batch is short of them.
        if over and not self.claim.last and over < len(self.items[-1]) and not any(self.errors):
            self.rest = over
            del good[-over:]
        values = [[value for value, _ in good[at : at + size]] for at in range(0, len(good), size)]
        origins: list[Origin] = [
            _flat([origin for _, origin in good[at : at + size]]) for at in range(0, len(good), size)
        ]
        return self._outputs(values, origins)

    def _reduce(self) -> list[Segment]:
        fold: Any = self.work.function
        so_far: Any = None
        found = False
        before = running_here.set(self.slot.running(self.work, self.claim.chunks[-1]))
        try:
            for items, errors in zip(self.items, self.errors, strict=True):
                for at, item in enumerate(items):
                    if at in errors:
                        continue
                    try:
                        so_far, found = (fold(so_far, item), True) if found else (item, True)
                    except Exception as error:  # whatever a function raises is its item's outcome
                        errors[at] = pack_error(error, self.keyed)
        finally:
            running_here.reset(before)
        if not found:
            return []
        if self.claim.last:
            return self._outputs([so_far], [()])
        ledger, name = self.work.ledger, f"fold-{self.claim.position}"
        try:
            payload = seal_traced(self.slot.station.sealer, ledger.job, ledger.name, name, [so_far], [()])
        except NotSerializable as error:
            return self._unsendable(error)
        return [Segment(0, 0, AGAIN, [Output(name, 1, payload)])]

    def _outputs(self, values: list[Any], origins: list[Origin]) -> list[Segment]:
        work, position = self.work, self.claim.position
        busy_us = int((time.perf_counter() - self.began) * 1e6)
        prefix = f"{work.down_index}-" if len(work.ledger.names) > 1 else ""
        name = f"{prefix}gather-{work.made[1].decode()}-{position}"
        parts = []
        try:
            for number, those in enumerate(split(len(values), _MOST_OUTPUTS) if values else ()):
                part = seal_output(
                    self.slot, work, f"{name}.{number}", values[those], origins[those], busy_us=busy_us
                )  # fmt: skip
                parts.append(part)
        except NotSerializable as error:
            return self._unsendable(error)
        if last_way(work) != "n" and work.results == "discard":
            parts = []
        return [Segment(0, 0, last_way(work), parts)]

    def _unsendable(self, error: NotSerializable) -> list[Segment]:
        """What they come to cannot be sent: that is the error of the last of them."""
        said = NotSerializable("the result of items", self.claim.position, error.type_name, error.reason)
        self.errors[-1][len(self.items[-1]) - self.rest - 1] = pack_error(said, self.keyed)
        return []

    def _told(self, chunk: Chunk, errors: dict[int, PackedError], origins: Sequence[Origin]) -> Segment:
        """Errors, for the results of the last queue."""
        ledger = self.work.ledger
        name = f"{ledger.name}-{chunk.root}/{chunk.start}:{chunk.start + chunk.items}"
        failed = sorted(errors)
        outcome = Outcome(
            0, [None] * len(failed), {index: errors[at] for index, at in enumerate(failed)}, (),
            [origins[at] for at in failed],
        )  # fmt: skip
        data = seal_outcome(self.slot.station.sealer, ledger.job, ledger.names[-1], name, outcome)
        return Segment(0, 0, ERROR, [Output(name, len(failed), data)])


def _flat(origins: Sequence[Origin]) -> tuple[int, ...]:
    flat: list[int] = []
    for origin in origins:
        flat += origin if isinstance(origin, tuple) else (origin,)
    return tuple(flat)
