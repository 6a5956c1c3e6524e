"""Barrier: threading.Barrier, between machines."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from threading import BrokenBarrierError
from typing import TYPE_CHECKING, Any, ClassVar

from lastcall.announced import Changed, block
from lastcall.checks import positive
from lastcall.errors import BlocksLoop
from lastcall.shared.thing import Thing
from lastcall.state.scripts import Code, script
from lastcall.waiting import AWAY, reaching

if TYPE_CHECKING:
    from lastcall.connection import Connection


class Barrier(Thing):
    """threading.Barrier, without an action. A party that dies while it waits has not come: another is waited for.

    timeout: of wait(), where that does not say; seconds, None for none.
    """

    kind: ClassVar[str] = "barrier"

    def __init__(self, connection: Connection, name: str, parties: int, timeout: float | None = None) -> None:
        positive("parties", parties)
        super().__init__(connection, name, (parties, timeout))

    @property
    def _said(self) -> str:
        return f"{self.kind} {self.parties}"  # the timeout is the handle's own

    @property
    def parties(self) -> int:
        """How many it waits for."""
        return int(self._options[0])

    @property
    @reaching
    def n_waiting(self) -> int:
        """How many wait."""
        seconds, micros = self._redis.time()
        return int(self._redis.zcount(self._key("holders"), seconds * 1000 + micros // 1000, "+inf"))

    @property
    @reaching
    def broken(self) -> bool:
        """Whether it is broken: somebody's time was over, or it was aborted."""
        return bool(self._redis.hexists(self._key("meta"), "broken"))

    @reaching
    def wait(self, timeout: float | None = None) -> int:
        """Block until all have come; gives a number from 0 to parties - 1, another to each.

        Raises threading.BrokenBarrierError at the timeout, which breaks it for all, and if it is or becomes broken, or
        is reset. A worker's function runs other work meanwhile, which may be another party.
        """
        arrival = Arrival(self)
        try:
            through = block(arrival, self._limit(timeout))
        except (BrokenBarrierError, BlocksLoop):  # which comes before it has come here: it breaks nothing
            raise
        except BaseException:
            arrival.abort()
            raise
        return arrival.number if through else arrival.give_up()

    def _limit(self, timeout: float | None) -> float | None:
        own: float | None = self._options[1]
        return own if timeout is None else timeout

    def reset(self) -> None:
        """As it was at first. Those who wait get a BrokenBarrierError."""
        self._disband("reset", "")

    def abort(self) -> None:
        """Break it: those who wait, or come, get a BrokenBarrierError until it is reset."""
        self._disband("abort", "")

    @reaching
    def _disband(self, how: str, party: str) -> list[Any]:
        return self._run(script("disband"), how, party)


class Arrival(Changed):
    """One party that has come, and waits for the others. Its looks raise BrokenBarrierError. number: when it is
    through."""

    takes = True

    def __init__(self, barrier: Barrier) -> None:
        super().__init__(barrier, self._is_through, twin="await client.twin(barrier).wait()")
        self.number = -1
        self._barrier, self._party, self._generation = barrier, uuid.uuid4().hex, b""

    def _is_through(self) -> bool:
        barrier = self._barrier
        code, *found = barrier._run(
            script("arrive"), self._party, self.connection.lease_ms, barrier.parties, self._generation, asking=True
        )  # fmt: skip
        if code == Code.ENDED:
            raise BrokenBarrierError(f"barrier {barrier.name} is broken, or was reset")
        if code == Code.OK:
            self.number = int(found[0])
            return True
        self._generation = found[0]
        return False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        heart, party = self.connection.heart, self._party.encode()
        heart.keep(party, self._renew)
        try:
            yield
        finally:
            heart.let_go(party)

    def give_up(self) -> int:
        """Its time is over: breaks the barrier, unless it was let through meanwhile."""
        code, *found = self.abort()
        if code == Code.OK:
            parties = self._barrier.parties
            raise BrokenBarrierError(f"barrier {self._barrier.name}: not all {parties} parties came in time")
        return int(found[0])

    def abort(self) -> list[Any]:
        """Break the barrier, unless it was let through."""
        return self._barrier._disband("abort", self._party)

    def leave(self) -> None:
        """As if it had not come. Where the server is away, its lease runs out."""
        with contextlib.suppress(*AWAY):
            self._barrier._run(script("letgo"), self._party, 0)

    def _renew(self) -> None:
        self._barrier._run(script("keep"), self.connection.lease_ms, self._party, asking=True)
