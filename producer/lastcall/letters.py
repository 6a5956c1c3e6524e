"""Dead letters: items that were given up on, kept with what is needed to understand and to retry them.

A letter is written by the slot whose function raised, sealed; or by a script, for an item whose slot kept dying or that
ran for too long, out of the chunk as it was put.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lastcall.errors import ItemTimeout, WorkerLost
from lastcall.outcome import PackedError, unpack_error
from lastcall.payload import open_items
from lastcall.state.ledger import Chunk

if TYPE_CHECKING:
    from lastcall.envelope import Sealer
    from lastcall.state.ledger import Ledger

_HEADER = struct.Struct("<IIBBB")  # as _queue.lua packs it: items, first item, crashes, losses, raises
_TIMEOUT = struct.Struct("<I")  # ms


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An item that was given up on.

    item: "chunk#number"; value: the item as it was put; error: what it raised last, its cause the remote traceback;
    attempts: how often it was tried; worker: where last, "" if not known.
    """

    item: str
    value: Any
    error: BaseException
    attempts: int
    worker: str


def write_letter(
    sealer: Sealer, job: str, queue: str, item: str, value: Any, error: PackedError, attempts: int, worker: str
) -> bytes:
    """A letter for the ledger. Raises NotSerializable."""
    return sealer.seal((value, error, attempts, worker), job, queue, item, "dead")


def read_letter(sealer: Sealer, ledger: Ledger, item: str, record: bytes) -> DeadLetter:
    """A letter from the ledger. Raises BadEnvelope, NotDeserializable."""
    kind, data = record[:1], record[1:]
    if kind == b"S":
        value, packed, attempts, worker = sealer.open(data, ledger.job, ledger.name, item, "dead")
        return DeadLetter(item, value, unpack_error(packed, sealer.keyed), attempts, worker)
    at = _TIMEOUT.size if kind == b"T" else 0
    items, start, *counts = _HEADER.unpack_from(data, at)
    chunk = Chunk(item.rpartition("#")[0], items, start, data[at + _HEADER.size :], *counts)
    (value,) = open_items(sealer, ledger.job, ledger.name, chunk)
    error: Exception = WorkerLost(ledger.shown, start, chunk.tries)
    if kind == b"T":
        error = ItemTimeout(ledger.shown, start, _TIMEOUT.unpack_from(data)[0] / 1000, chunk.tries)
    return DeadLetter(item, value, error, chunk.tries, "")
