"""Watch: a worker's thread that looks at what its slots do: items that run for too long, processes that are frozen.

An item whose time is over is given up, or tried again elsewhere, whatever its slot says later; the slot's process is
killed, a thread cannot be. A process that is stopped (SIGSTOP) does no work: its tickets are not renewed, so that what
it holds goes to others when its lease has run out, and then it is killed, so that another takes its place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from lastcall.connection import Connection
from lastcall.errors import LastcallError, UnknownJob
from lastcall.state.ledger import Ledger
from lastcall.state.records import shown, split
from lastcall_worker import limits

if TYPE_CHECKING:
    from lastcall.settings import Settings
    from lastcall_worker.limits import Late

_log = logging.getLogger(__name__)

_LOOK_S: Final = 0.2


class Watch:
    """One worker's thread. node: its name; pool: Celery's; prefork: whether its slots are processes."""

    def __init__(self, node: str, pool: Any, settings: Settings, *, prefork: bool) -> None:
        self._node = node
        self._pool = pool
        self._settings = settings
        self._prefork = prefork
        self._stopped_since: dict[int, float] = {}  # pid -> when it was first seen
        self._away = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lastcall-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Does not wait for a look that is under way."""
        self._end.set()
        self._thread.join(_LOOK_S)

    def is_frozen(self, pid: int | None) -> bool:
        """Whether a slot's process is stopped now."""
        return pid is not None and pid in self._stopped_since

    def _run(self) -> None:
        while not self._end.wait(_LOOK_S):
            for late in limits.table.late():
                self._end_late(late)
            if self._prefork:
                self._look_for_frozen()

    def _end_late(self, late: Late) -> None:
        queue = shown(*split(late.address))
        try:
            connection = Connection.of(self._settings)
            ledger = Ledger.open(connection.redis, *split(late.address))
            celery_queue = ledger.celery_queue()
            tickets = ledger.overrun(
                late.ticket, late.chunk, late.item, late.delay_ms, late.timeout_ms,
                cap=connection.slots(celery_queue), worker=self._node,
            )  # fmt: skip
            still = limits.table.settled(late)
            if tickets is None:
                # The ticket is over: its queue has ended, or the lease has. What hangs there hangs all the same.
                if still and self._prefork:
                    _log.error(
                        "process %d is killed: an item that nobody waits for any more ran for too long", late.pid
                    )
                    _kill(late.pid)
                return
            _log.error(
                "queue %s: an item of chunk %s ran for longer than its timeout of %g s; it %s%s",
                *(queue, late.chunk, late.timeout_ms / 1000),
                "is given up" if late.delay_ms is None else f"is tried again in {late.delay_ms / 1000:.1f} s",
                ", and the process that ran it is killed" if self._prefork else ", but its thread goes on",
            )
            if self._prefork:
                _kill(late.pid)
            connection.send(celery_queue, late.address, tickets)
            self._away = False
        except UnknownJob:
            if limits.table.settled(late) and self._prefork:
                _kill(late.pid)
        except (LastcallError, RedisError, OSError) as error:
            # The next look tries again.
            if not self._away:
                _log.warning("queue %s: an item that ran for too long cannot be ended now: %s", queue, error)
            self._away = True

    def _look_for_frozen(self) -> None:
        now = time.monotonic()
        stopped = {pid for pid in self._pids() if _is_stopped(pid)}
        for pid in set(self._stopped_since) - stopped:
            self._stopped_since.pop(pid, None)
        for pid in stopped:
            since = self._stopped_since.setdefault(pid, now)
            if now - since >= self._settings.lease_s + _LOOK_S:
                _log.error("process %d of this worker was stopped for %.0f s: it is killed", pid, now - since)
                _kill(pid)

    def _pids(self) -> list[int]:
        pool = getattr(self._pool, "_pool", None)  # billiard's
        return [process.pid for process in tuple(getattr(pool, "_pool", None) or ()) if process.pid is not None]


def _is_stopped(pid: int) -> bool:
    """Whether a child of this process is stopped; asking takes nothing away from who waits for its end."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return False
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    return False


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
