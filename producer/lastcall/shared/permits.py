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
from lastcall.waiting import AWAY, Deadline, Outage

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


def owner() -> _Owner:
    """Who takes and gives permits here: a thread; in a slot, the function that it runs, not the one that waits."""
    return threading.get_ident(), here()


def who() -> str:
    """The same in words, for others that wait."""
    if current:
        return f"item {current.item} of {current.job}/{current.queue} on {current.worker}"
    return f"process {os.getpid()} on {socket.gethostname()}"


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
        me = owner()
        return next((held for held in reversed(self.of(thing)) if held.owner == me), None)

    def take(self, thing: Semaphore, permits: int, *, blocking: bool, timeout: float | None) -> Held | None:
        """Wait for a permit. None at the timeout, or where there is none and `blocking` is false.

        Raises WaitTimeout where a worker's function waits without a timeout, and nobody has come to hold it for
        worker_wait_s: it may be held by who waits for this slot.
        """
        connection = thing._connection
        holder, deadline, outage = uuid.uuid4().hex, Deadline(timeout), Outage(connection)
        lease_ms, stuck_s = connection.lease_ms, connection.settings.worker_wait_s
        last, since = None, time.monotonic()
        while True:
            try:
                waits = blocking and not deadline.passed
                code, *found = thing._run(
                    script("hold"), holder, lease_ms, permits, who(), int(waits), asking=True
                )  # fmt: skip
                outage.over()
                if code == Code.OK:
                    return self._hold(thing, Held(holder, found[0], owner()))
                free_ms, token, by = found
                if not waits:
                    return None
                if token != last:
                    last, since = token, time.monotonic()
                stuck = time.monotonic() - since
                if timeout is None and running.get() and stuck >= stuck_s:
                    said = f"{thing.kind} {thing.name}, held by {by.decode() or 'nobody: it has no permits'}"
                    raise WaitTimeout(f"{said}, which did not give it back", deadline.waited_s)
                most = min(_LOOK_S, max(free_ms / 1000, 0.001))
                connection.asking.blpop([thing._key("bell")], timeout=max(deadline.left(most), 0.001))
            except AWAY as error:
                if not blocking:
                    raise
                outage.bear(error, deadline.left(_LOOK_S))
                if deadline.passed:
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
