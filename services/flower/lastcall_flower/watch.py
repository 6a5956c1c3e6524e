"""Watch: the queues to show, those that have ended lately among them."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError
from tornado.ioloop import PeriodicCallback

from lastcall.errors import LastcallError
from lastcall.registry import Registry
from lastcall.stages import in_order
from lastcall.state import keys
from lastcall.state.ledger import Ledger
from lastcall.state.records import Status, shown, split

if TYPE_CHECKING:
    from redis import Redis
    from tornado.ioloop import IOLoop

_log = logging.getLogger(__name__)

MOST_ENDED: Final = 100  # that are kept in view
_EVERY_S: Final = 2.0  # a queue that begins and ends between two looks may not be seen


class Watch:
    """Sees queues come, and remembers them: the server lists those that have not ended. Threads may share it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._registry = Registry(redis)
        self._known: set[str] = set()
        self._lock = threading.Lock()
        self._timer: PeriodicCallback | None = None
        self._away = False

    def start(self, loop: IOLoop) -> None:
        """See queues come also while nobody looks."""

        async def note() -> None:
            try:
                await asyncio.get_running_loop().run_in_executor(None, self._note)
                self._away = False
            except (RedisError, OSError) as error:
                if not self._away:
                    _log.warning("the queues cannot be seen now: %s", error)
                self._away = True

        self._timer = PeriodicCallback(note, _EVERY_S * 1000)
        loop.add_callback(note)
        loop.add_callback(self._timer.start)

    def look(self) -> dict[str, Any]:
        """Jobs that have not ended first, the newest of each kind first; the queues of each, upstream first; and
        workers.

        As `lastcall status --json` tells them, each queue with `ended` and its lost producers' names besides.
        Raises redis-py's errors.
        """
        self._note()
        with self._lock:
            known = sorted(self._known)
        statuses: list[Status] = []
        for address in known:
            job, name = split(address)
            try:
                statuses.append(Ledger(self._redis, job, [name]).status())
            except LastcallError:  # it has expired
                continue
        statuses = in_order(statuses, key=_newest_first)
        live = {status.job for status in statuses if not status.ended}
        statuses = statuses[: sum(status.job in live for status in statuses) + MOST_ENDED]
        with self._lock:
            self._known -= set(known) - {f"{status.job}/{status.name}" for status in statuses}
        return {
            "queues": [_told(status) for status in statuses],
            "workers": [dataclasses.asdict(worker) for worker in self._registry.live()],
        }

    def _note(self) -> None:
        addresses: Any = self._redis.hkeys(keys.QUEUES)
        with self._lock:
            self._known |= {address.decode() for address in addresses}


def _newest_first(job: Sequence[Status]) -> tuple[bool, int, str]:
    return all(status.ended for status in job), -max(status.created_ms for status in job), job[0].job


def _told(status: Status) -> dict[str, Any]:
    return {
        **dataclasses.asdict(status),
        "address": shown(status.job, status.name),
        "ended": status.ended,
        "lost": [name for name, _ in status.lost],
    }
