"""Permits: what this process holds of locks and semaphores, each a lease that the heart renews."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lastcall.current import current, running
from lastcall.errors import HoldLost, NotHeld, WaitTimeout
from lastcall.place import here
from lastcall.state.scripts import Code, script
from lastcall.waiting import AWAY, Deadline, Outage, warn_of_loop

if TYPE_CHECKING:
    from lastcall.shared.lock import Semaphore

_LOOK_S: Final = 1.0
_Owner = tuple[int, object]


@dataclass(slots=True, eq=False)
class Held:
    """A permit. token: grows with every one that is given out. times: how often an RLock was taken."""

    holder: str
    token: int
    owner: _Owner
    times: int = 1
    lost: bool = False


def _owner() -> _Owner:
    """Who takes and gives permits here: a thread; in a slot, the function that it runs, not the one that waits."""
    return threading.get_ident(), here()


def who() -> str:
    """The same in words, for others that wait."""
    if current:
        return f"item {current.item} of {current.job}/{current.queue} on {current.worker}"
    return f"process {os.getpid()} on {socket.gethostname()}"


class Seeking:
    """A wait for a permit, a look at a time. timeout: seconds; None: without end."""

    def __init__(self, thing: Semaphore, timeout: float | None, *, owner: _Owner | None = None) -> None:
        self.deadline = Deadline(timeout)
        self._thing = thing
        self._holder, self._owner, self._who = uuid.uuid4().hex, owner or _owner(), who()
        self._gives_up = timeout is None and running.get() is not None
        self._last: int | None = None
        self._since = time.monotonic()

    def look(self, *, waits: bool) -> Held | float:
        """A permit; or for how many seconds to wait at the thing's bell before the next look.

        Raises WaitTimeout where a worker's function waits without a timeout, and nobody has come to hold it for
        worker_wait_s: it may be held by who waits for this slot.
        """
        thing, connection = self._thing, self._thing._connection
        code, *found = thing._run(
            script("hold"), self._holder, connection.lease_ms, thing._permits, self._who, int(waits), asking=True
        )  # fmt: skip
        if code == Code.OK:
            return connection.permits._hold(thing, Held(self._holder, found[0], self._owner))
        free_ms, token, by = found
        if token != self._last:
            self._last, self._since = token, time.monotonic()
        if waits and self._gives_up and time.monotonic() - self._since >= connection.settings.worker_wait_s:
            said = f"{thing.kind} {thing.name}, held by {by.decode() or 'nobody: it has no permits'}"
            raise WaitTimeout(f"{said}, which did not give it back", self.deadline.waited_s)
        return max(self.deadline.left(min(_LOOK_S, max(free_ms / 1000, 0.001))), 0.001)


class Permits:
    """Those of one connection."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[Semaphore, list[Held]]] = {}
        self._lock = threading.RLock()  # the garbage collector may let go of a handle while this is held

    def of(self, thing: Semaphore) -> list[Held]:
        """What this process holds of a thing, the oldest first."""
        with self._lock:
            return list(self._held.get(thing.name, (thing, []))[1])

    def own(self, thing: Semaphore) -> Held | None:
        """The newest that was taken by who asks."""
        me = _owner()
        return next((held for held in reversed(self.of(thing)) if held.owner == me), None)

    def take(self, thing: Semaphore, *, blocking: bool, timeout: float | None) -> Held | None:
        """Wait for a permit. None at the timeout, or where there is none and `blocking` is false.

        Raises WaitTimeout as Seeking does; BlocksLoop where a coroutine on a worker would block what runs beside it,
        maybe the one that holds what it waits for.
        """
        if blocking and (here_runs := running.get()) is not None:
            here_runs.check_wait(f"{thing.kind} {thing.name}", thing._twin)
        connection = thing._connection
        seeking, outage = Seeking(thing, timeout), Outage(connection)
        while True:
            try:
                waits = blocking and not seeking.deadline.passed
                found = seeking.look(waits=waits)
                outage.over()
                if isinstance(found, Held):
                    return found
                if not waits:
                    return None
                warn_of_loop(f"{thing.kind} {thing.name}", thing._twin)
                connection.asking.blpop([thing._key("bell")], timeout=found)
            except AWAY as error:
                if not blocking:
                    raise
                outage.bear(error, seeking.deadline.left(_LOOK_S))
                if seeking.deadline.passed:
                    return None

    def give(self, thing: Semaphore, held: Held) -> None:
        """Give a permit back. Raises HoldLost if it was lost before."""
        with self._lock:
            _, all_held = self._held.get(thing.name, (thing, []))
            if held not in all_held:
                raise NotHeld(thing.kind, thing.name)
            all_held.remove(held)
            if not all_held:
                del self._held[thing.name]
                thing._connection.heart.let_go(thing._keys[0])
        (code, *_) = thing._run(script("letgo"), held.holder, 1)
        if code == Code.LOST:
            raise HoldLost(thing.kind, thing.name, held.token)

    def renew(self, thing: Semaphore) -> None:
        """Put off the end of the leases on a thing."""
        there = self.of(thing)
        if not there:
            return
        lease_ms = thing._connection.lease_ms
        _, lost = thing._run(script("keep"), lease_ms, *(held.holder for held in there), asking=True)
        for held in there:
            held.lost = held.lost or held.holder.encode() in lost

    def _hold(self, thing: Semaphore, held: Held) -> Held:
        with self._lock:
            self._held.setdefault(thing.name, (thing, []))[1].append(held)
            thing._connection.heart.keep(thing._keys[0], lambda: self.renew(thing))
        return held
