"""Running: what `lastcall.current` tells of the chunk that a slot runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lastcall_worker import limits

if TYPE_CHECKING:
    from lastcall.settings import Settings
    from lastcall.state.ledger import Ledger
    from lastcall.state.records import Chunk
    from lastcall_worker.emission import Emission
    from lastcall_worker.slot import Slot
    from lastcall_worker.station import Work


class Running:
    """One chunk while it runs; `at` is the index in it of the item that does."""

    __slots__ = (
        "_values", "_work", "celery", "chunk", "emission", "job", "made", "positions", "queue", "slot", "worker",
    )  # fmt: skip

    def __init__(self, slot: Slot, work: Work, chunk: Chunk) -> None:
        self.slot = slot
        self._work = work
        self.job, self.queue = work.ledger.job, work.ledger.name
        self.made = work.made[0].decode()
        self.celery = work.celery
        self.worker = slot.station.node
        self.chunk = chunk
        self.positions: Sequence[int] | None = None  # of the items that are run, where it is not all of them
        self._values: Sequence[Any] = ()
        self.emission: Emission | None = None  # of a generator's outputs, where they can be sent before it is done

    def into(self, values: Sequence[Any], positions: Sequence[int] | None) -> None:
        """What is returned comes to lie here: their number tells which item runs."""
        self._values, self.positions = values, positions

    @property
    def at(self) -> int:
        done = len(self._values)
        return self.positions[done] if self.positions is not None else done

    @property
    def item(self) -> str:
        return f"{self.chunk.root}#{self.chunk.start + self.at}"

    @property
    def attempt(self) -> int:
        return self.chunk.tries + 1

    def check_wait(self, what: str, twin: str) -> None:
        """Raise BlocksLoop where this may not block."""

    @property
    def settings(self) -> Settings:
        return self.slot.station.settings

    def help(self, ledger: Ledger) -> bool:
        """Run a ready chunk of another queue here and now, if this worker serves that; else the next of the calls that
        its slot has in hand, which nobody else can run."""
        with limits.no_alarm():  # the time limit of who waits is not that of what it does meanwhile
            return self.slot.help(ledger) or self.slot.run_next()
