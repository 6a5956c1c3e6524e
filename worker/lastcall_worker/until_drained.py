"""UntilDrained: lets a worker leave when its queues have ended, with an exit code that says how."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from lastcall.connection import Connection
from lastcall.errors import LastcallError, UnknownJob
from lastcall.state import keys
from lastcall.state.ledger import Ledger
from lastcall.state.records import Status, shown, split

if TYPE_CHECKING:
    from lastcall.settings import Settings

_log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0  # between two looks at queues whose end was not announced


class Exit(IntEnum):
    """A worker's exit code with --until-drained."""

    DRAINED = 0  # every queue
    STOPPED = 1  # the worker was told to end before the queues had
    INCOMPLETE = 3  # a queue ended incomplete, or was cancelled
    DEAD_LETTERS = 4  # every queue was drained, but items were given up


def exit_code(ended: Sequence[Status]) -> Exit:
    """What a worker that waited for these queues exits with."""
    if any(status.state != "DRAINED" for status in ended):
        return Exit.INCOMPLETE
    return Exit.DEAD_LETTERS if any(status.dead for status in ended) else Exit.DRAINED


class UntilDrained:
    """A thread that waits until queues have ended, then calls `leave` with the exit code.

    queues: names or addresses; one that does not exist yet is waited for.
    """

    def __init__(self, settings: Settings, queues: Sequence[str], leave: Callable[[Exit], None]) -> None:
        self._settings = settings
        self._queues = [split(queue) for queue in dict.fromkeys(queues)]
        self._leave = leave
        self._ended: dict[tuple[str, str], Status] = {}
        self._stopped = threading.Event()
        self.code: Exit | None = None  # once all have ended
        self._thread = threading.Thread(target=self._run, name="lastcall-until", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The worker ends: wait no more."""
        self._stopped.set()

    def _run(self) -> None:
        away = False
        while not self._stopped.is_set():
            try:
                if self._wait():
                    break
                away = False
            except (LastcallError, RedisError, OSError) as error:
                # They may end meanwhile: that is seen when Redis is back.
                if not away:
                    _log.warning("the end of queues cannot be seen now: %s", error)
                away = True
                self._stopped.wait(_LOOK_S)
        else:
            return
        self.code = exit_code(list(self._ended.values()))
        self._leave(self.code)

    def _wait(self) -> bool:
        """Until all have ended; False if the worker ends first."""
        redis: Any = Connection.of(self._settings).redis
        with redis.pubsub(ignore_subscribe_messages=True) as announced:
            # First subscribed, then looked: an end is either announced or seen.
            announced.subscribe(*(keys.of_queue(*queue, "results") for queue in self._queues))
            while not self._stopped.is_set():
                self._look(redis)
                if len(self._ended) == len(self._queues):
                    return True
                announced.get_message(timeout=_LOOK_S)
        return False

    def _look(self, redis: Any) -> None:
        for queue in self._queues:
            if queue in self._ended:
                continue
            try:
                status = Ledger(redis, queue[0], [queue[1]]).status()
            except UnknownJob:
                continue  # it is yet to come
            if status.ended:
                self._ended[queue] = status
                _log.info("queue %s has ended: %s", shown(*queue), status.state)
