"""Moved: the tickets that slots run besides those that they were sent: of queues that they have moved to, and of those
that they help.

In shared memory, as in limits.py: the worker's main process renews them and, where a slot's process dies, ends them.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from lastcall_worker.limits import ROWS

_ROW: Final = 16384  # bytes; memory is taken of those rows alone that were written
_HEAD = struct.Struct("<II")  # pid, bytes of text


class Held(NamedTuple):
    """A queue's address, and a ticket of it."""

    address: str
    ticket: str


class Table:
    """The rows of one worker, one a station: made in its main process, inherited by its children."""

    def __init__(self) -> None:
        # Heads first, side by side, so that who looks touches no more texts than there are.
        memory = memoryview(mmap.mmap(-1, ROWS * (_HEAD.size + _ROW)))
        self._heads, self._texts = memory[: ROWS * _HEAD.size], memory[ROWS * _HEAD.size :]

    def write(self, row: int, held: Sequence[Held]) -> bool:
        """Say what is run from now on. False if there is no room for it, and so nobody would know."""
        text = "\n".join(map(" ".join, held)).encode()
        if row >= ROWS or len(text) > _ROW:
            return False
        _HEAD.pack_into(self._heads, row * _HEAD.size, os.getpid(), 0)  # nothing, until all is written
        self._texts[row * _ROW : row * _ROW + len(text)] = text
        _HEAD.pack_into(self._heads, row * _HEAD.size, os.getpid(), len(text))
        return True

    def of(self, pids: Collection[int]) -> list[Held]:
        """What processes run."""
        found: list[Held] = []
        for row, (pid, size) in enumerate(_HEAD.iter_unpack(self._heads)):
            if size and pid in pids:
                text = bytes(self._texts[row * _ROW : row * _ROW + size]).decode(errors="replace")
                found += [Held(*line.rsplit(" ", 1)) for line in text.split("\n") if " " in line]
        return found


table = Table()  # made as the worker's module is loaded, before it has children
