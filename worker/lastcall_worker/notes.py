"""notes: what a slot writes into the history of a job, with the completion of a chunk, so that it is true."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lastcall.outcome import PackedError, in_short
from lastcall.state.records import Note

if TYPE_CHECKING:
    from lastcall.payload import Origin
    from lastcall.state.records import Chunk
    from lastcall_worker.slot import Slot
    from lastcall_worker.station import Work

_MOST_BYTES = 65_536  # of a failed item's arguments
_MOST_TEXT = 10_000  # characters of a traceback, from its end


def notes_of(
    slot: Slot, work: Work, chunk: Chunk, origins: Sequence[Origin] | None, made: int,
    errors: Mapping[int, PackedError], again: Collection[int], alone: Mapping[int, bytes], busy_us: int,
) -> list[Note]:  # fmt: skip
    """Of a chunk and of its failed items, as the queue's `record` says.

    made: outputs, those that were emitted before included; alone: payloads of failed items.
    """
    if not work.record:
        return []
    ended = time.perf_counter()
    told: dict[str, Any] = {
        "first": chunk.start, "attempt": chunk.tries + 1, "us": busy_us, "worker": slot.station.node,
        "slot": slot_name(slot), "ticket": slot.ticket,
    }  # fmt: skip
    notes = []
    if work.record != "failures":
        done = {**told, "items": chunk.items, "made": made, **_source(origins)}
        if errors:
            done["failed"] = list(errors)
        notes.append(Note("done", chunk.id, ended, done))
    letters = "dead" if work.on_error == "dead" else "failed"
    for at, packed in errors.items():
        item = {**told, "first": chunk.start + at, "error": in_short(packed), "traceback": packed[3][-_MOST_TEXT:]}
        if origins is not None:
            item["source"] = [origins[at]]
        if len(payload := alone.get(at, b"")) <= _MOST_BYTES and payload:
            item["payload"] = payload
        number = chunk.start + at
        notes.append(Note("retried" if at in again else letters, f"{chunk.root}/{number}:{number + 1}", ended, item))
    return notes


def slot_name(slot: Slot) -> str:
    """A word for where it runs, in which nothing else runs at the same time: a process, or a lane of one."""
    if threading.current_thread() is threading.main_thread():
        return str(os.getpid())
    return f"{os.getpid()}/{slot.station.row}"


def _source(origins: Sequence[Origin] | None) -> dict[str, Any]:
    if not origins:
        return {}
    first = origins[0]
    if isinstance(first, int) and list(origins) == list(range(first, first + len(origins))):
        return {"from": first}
    return {"source": list(origins)}
