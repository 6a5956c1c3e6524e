"""Dead letters: items that were given up on, kept with what is needed to understand and to retry them.

A letter is a kind, what is said about it, and the item as it was put, sealed: as a chunk of its own, so that it can be
run again without being opened. What is said is sealed, too, where a slot writes it whose function raised (kind S); a
script, which cannot sign, says of an item whose slots died (L) or that ran for too long (T) no more than where and how.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lastcall.errors import BadEnvelope, ItemTimeout, LastcallError, NotDeserializable, WorkerLost
from lastcall.outcome import PackedError, unpack_error
from lastcall.payload import open_items
from lastcall.state.records import Chunk, part_of

if TYPE_CHECKING:
    from lastcall.envelope import Sealer
    from lastcall.state.ledger import Ledger

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An item that was given up on.

    item: "chunk#number"; value: the item as it was put, or, where it cannot be rebuilt here, the error that says why;
    error: what it raised last, its cause the remote traceback; attempts: how often it was tried; worker: where last, ""
    if not known.
    """

    item: str
    value: Any
    error: BaseException
    attempts: int
    worker: str


def write_letter(
    sealer: Sealer, job: str, queue: str, item: str, error: PackedError, attempts: int, worker: str, payload: bytes,
    chunk: Chunk,
) -> bytes:  # fmt: skip
    """A letter for the ledger, but for its kind. payload: the item as it was put, alone or in its chunk."""
    about = sealer.seal((error, attempts, worker), job, queue, item, "dead")
    alone = part_of(chunk, int(item.rpartition("#")[2]))._replace(payload=payload, crashes=0, losses=0, raises=0)
    return b"".join((_LENGTH.pack(len(about)), about, alone.record))


def read_letter(sealer: Sealer, ledger: Ledger, item: str, record: bytes) -> DeadLetter:
    """A letter from the ledger. Raises BadEnvelope."""
    at = 1 + _LENGTH.size + _LENGTH.unpack_from(record, 1)[0]
    about = record[1 + _LENGTH.size : at]
    chunk = Chunk.stored(item.rpartition("#")[0], record[at:])
    value: Any
    try:
        (value,) = open_items(sealer, ledger.job, ledger.name, chunk)
    except (NotDeserializable, BadEnvelope) as error:
        value = error
    if record[:1] == b"S":
        packed, attempts, worker = sealer.open(about, ledger.job, ledger.name, item, "dead")
        return DeadLetter(item, value, unpack_error(packed, sealer.keyed), attempts, worker)
    worker = about.decode().partition("\t")[0]
    return DeadLetter(item, value, given_up(ledger.shown, item, record[:1], chunk.tries, about), chunk.tries, worker)


def given_up(queue: str, item: str, kind: bytes, attempts: int, about: bytes) -> LastcallError:
    """The error that stands for what a script says of an item."""
    worker, _, said = about.decode().partition("\t")
    if kind == b"T":
        return ItemTimeout(queue, item, int(said) / 1000, attempts)
    return WorkerLost(queue, item, attempts, f"{said} on {worker}" if worker else said)
