"""Lock, RLock, Semaphore, BoundedSemaphore: threading's, between machines. A holder that dies does not keep them."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from lastcall.checks import natural
from lastcall.errors import HoldLost, NotHeld
from lastcall.shared.permits import Held
from lastcall.shared.thing import Thing
from lastcall.state.scripts import script
from lastcall.waiting import reaching

if TYPE_CHECKING:
    from lastcall.connection import Connection


class Semaphore(Thing):
    """threading.Semaphore. Each permit is a lease: renewed while the process lives that took it, free when it is dead.

    A holder that was silent for LASTCALL_LEASE_S may have lost its permit to another: check() and release() then raise
    HoldLost, as does the end of a `with` block. `token` is a number that grows with every permit that is given out:
    what the holder writes to should refuse a token that is smaller than the last it saw.
    release() gives back what this thread took, else what another of this process did; where the process holds none, it
    makes a permit more, as threading's does.
    """

    kind: ClassVar[str] = "semaphore"
    _twin: ClassVar[str] = "async with client.twin(semaphore)"

    def __init__(self, connection: Connection, name: str, value: int = 1) -> None:
        natural("value", value)
        super().__init__(connection, name, (value,))

    @property
    def _permits(self) -> int:
        return int(self._options[0])

    @reaching
    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take a permit. False at the timeout, in seconds (None, -1: none), or if none is free and blocking is false.

        In a worker's function, without a timeout: raises WaitTimeout, which says who has it, where that has not changed
        for worker_wait_s (60 s).
        """
        timeout = _timeout(blocking, timeout)
        return self._take(blocking, timeout) is not None

    def _take(self, blocking: bool, timeout: float | None) -> Held | None:
        return self._connection.permits.take(self, blocking=blocking, timeout=timeout)

    def release(self) -> None:
        """Give a permit back. Raises HoldLost if it was lost before."""
        held = self._mine() or self._any()
        if held is None:
            self._release_none()
        else:
            self._give(held)

    @reaching
    def _release_none(self) -> None:
        self._run(script("letgo"), "", self._permits)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self.release()
        except HoldLost:
            if kind is None:  # else what went wrong first is what is told
                raise

    @property
    def token(self) -> int:
        """Of the permit that this thread (else this process) took last. Raises NotHeld."""
        return self._held().token

    def check(self) -> None:
        """Ask the server whether this thread (else this process) still holds it. Raises HoldLost, NotHeld."""
        self._check(self._held())

    @reaching
    def _check(self, held: Held) -> None:
        self._connection.permits.renew(self)
        if held.lost:
            raise HoldLost(self.kind, self.name, held.token)

    @reaching
    def _give(self, held: Held) -> None:
        self._connection.permits.give(self, held)

    @reaching
    def holders(self) -> list[str]:
        """Who holds it, in words."""
        seconds, micros = self._redis.time()
        live = self._redis.zrangebyscore(self._key("holders"), seconds * 1000 + micros // 1000, "+inf")
        said = self._redis.hmget(self._key("who"), live) if live else []
        return [one.decode().partition(" ")[2] for one in said if one is not None]

    def locked(self) -> bool:
        """Whether it is held (a semaphore: by anybody)."""
        return bool(self.holders())

    def _held(self) -> Held:
        held = self._mine() or self._any()
        if held is None:
            raise NotHeld(self.kind, self.name)
        return held

    def _mine(self) -> Held | None:
        return self._connection.permits.own(self)

    def _any(self) -> Held | None:
        there = self._connection.permits.of(self)
        return there[-1] if there else None


class BoundedSemaphore(Semaphore):
    """threading.BoundedSemaphore: release() without a permit raises NotHeld, a ValueError."""

    kind = "bounded semaphore"

    def _release_none(self) -> None:
        raise NotHeld(self.kind, self.name)


class Lock(Semaphore):
    """threading.Lock. Any thread of the process that took it may release it, others cannot: NotHeld, a RuntimeError."""

    kind = "lock"
    _twin = "async with client.twin(lock)"

    def __init__(self, connection: Connection, name: str) -> None:
        Thing.__init__(self, connection, name)

    @property
    def _permits(self) -> int:
        return 1

    def _release_none(self) -> None:
        raise NotHeld(self.kind, self.name)


class RLock(Lock):
    """threading.RLock: who has it may take it again, and gives it back as often.

    "Who" is a thread; on a worker, the function that its slot runs (its coroutines are one). Raises HoldLost when taken
    again after it was lost.
    """

    kind = "reentrant lock"

    def _take(self, blocking: bool, timeout: float | None) -> Held | None:
        held = self._mine()
        if held is None:
            return super()._take(blocking, timeout)
        if held.lost:
            raise HoldLost(self.kind, self.name, held.token)
        held.times += 1
        return held

    def release(self) -> None:
        """Give it back, once."""
        held = self._mine()
        if held is None:
            raise NotHeld(self.kind, self.name)
        if held.times > 1:
            held.times -= 1
        else:
            self._give(held)


def _timeout(blocking: bool, timeout: Any) -> float | None:
    if timeout is None or timeout == -1:
        return None
    if not isinstance(timeout, int | float) or isinstance(timeout, bool):
        raise TypeError(f"timeout must be a number of seconds, or None, got {timeout!r}")
    if not blocking:
        raise ValueError("can't specify a timeout for a non-blocking call")
    if timeout < 0:
        raise ValueError(f"timeout value must be a non-negative number, got {timeout!r}")
    return timeout
