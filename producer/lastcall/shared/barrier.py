"""Barrier: threading.Barrier, between machines."""

from __future__ import annotations

import uuid
from threading import BrokenBarrierError
from typing import TYPE_CHECKING, ClassVar

from lastcall.checks import positive
from lastcall.shared.thing import Thing
from lastcall.state.scripts import Code, script
from lastcall.waiting import reaching

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
        self._check_wait()  # before it has come: who leaves breaks the barrier
        connection, party = self._connection, uuid.uuid4().hex
        generation, number = b"", -1

        def passed() -> bool:
            nonlocal generation, number
            code, *found = self._run(
                script("arrive"), party, connection.lease_ms, self.parties, generation, asking=True
            )  # fmt: skip
            if code == Code.ENDED:
                raise BrokenBarrierError(f"barrier {self.name} is broken, or was reset")
            if code == Code.OK:
                number = int(found[0])
                return True
            generation = found[0]
            return False

        connection.heart.keep(party.encode(), lambda: self._renew(party))
        try:
            through = self._wait(passed, self._options[1] if timeout is None else timeout)
        except BrokenBarrierError:
            raise
        except BaseException:
            self._run(script("disband"), "abort", party)
            raise
        finally:
            connection.heart.let_go(party.encode())
        if not through:
            code, *found = self._run(script("disband"), "abort", party)
            if code == Code.OK:
                raise BrokenBarrierError(f"barrier {self.name}: not all {self.parties} parties came in time")
            number = int(found[0])
        return number

    @reaching
    def reset(self) -> None:
        """As it was at first. Those who wait get a BrokenBarrierError."""
        self._run(script("disband"), "reset", "")

    @reaching
    def abort(self) -> None:
        """Break it: those who wait, or come, get a BrokenBarrierError until it is reset."""
        self._run(script("disband"), "abort", "")

    def _renew(self, party: str) -> None:
        self._run(script("keep"), self._connection.lease_ms, party, asking=True)
