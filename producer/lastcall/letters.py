"""Dead letters: items that were given up on, kept with what is needed to understand and to retry them.

A letter is written by the slot whose function raised, sealed; or by a script, for an item whose slot kept dying, out of
the chunk as it was put.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lastcall.errors import WorkerLost
from lastcall.outcome import PackedError, unpack_error
from lastcall.payload import open_items
from lastcall.state.ledger import Chunk

if TYPE_CHECKING:
    from lastcall.envelope import Sealer
    from lastcall.state.ledger import Ledger

_HEADER = struct.Struct("<IIH")


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
        value, error, attempts, worker = sealer.open(data, ledger.job, ledger.name, item, "dead")
        return DeadLetter(item, value, unpack_error(error, sealer.keyed), attempts, worker)
    items, start, tries = _HEADER.unpack_from(data)
    root = item.rpartition("#")[0]
    chunk = Chunk(root, items, start, tries, data[_HEADER.size :])
    (value,) = open_items(sealer, ledger.job, ledger.name, chunk)
    return DeadLetter(item, value, WorkerLost(ledger.shown, start, tries), tries, "")
