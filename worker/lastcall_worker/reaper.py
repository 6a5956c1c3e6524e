"""Reaper: a worker's thread that looks for what fell silent, in turn with the other workers'."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from lastcall.connect import Refusal
from lastcall.connection import Connection
from lastcall.errors import LastcallError
from lastcall.reaper import Sweep, reap_once
from lastcall.state import keys
from lastcall.state.records import shown, split
from lastcall_worker.notifier import Teller

if TYPE_CHECKING:
    from redis import Redis

    from lastcall.settings import Settings

_log = logging.getLogger(__name__)

_TURN: Final = 0.9  # of a period: a worker alone must find its own turn over when the next begins


class Reaper:
    """One worker's thread. node: the worker's name."""

    def __init__(self, settings: Settings, node: str) -> None:
        self._settings = settings
        self._node = node
        self._lacking: set[str] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False
        self._teller = Teller(settings)
        self._said: dict[str, str] = {}  # queue -> the error that was logged last
        self.swept = threading.Event()  # set after each sweep
        self._thread = threading.Thread(target=self._run, name="lastcall-reaper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Does not wait longer for a sweep that is under way."""
        self._stopped = True
        self._wake.set()
        self._thread.join(timeout_s)

    def top_up(self, celery_queues: Iterable[str]) -> None:
        """Slots have come that serve these: send the tickets that are lacking, at once."""
        with self._lock:
            self._lacking.update(celery_queues)
        self._wake.set()

    def _run(self) -> None:
        away = False
        while not self._stopped:
            with self._lock:
                lacking, self._lacking = self._lacking, set()
            try:
                self._sweep(lacking)
                away = False
            except (LastcallError, RedisError, OSError) as error:
                # All that is found is found again when Redis is back.
                if not away:
                    _log.warning("queues cannot be looked after now: %s", error)
                away = True
                with self._lock:
                    self._lacking |= lacking
            self._wake.wait(self._settings.reap_s)
            self._wake.clear()

    def _sweep(self, lacking: set[str]) -> None:
        connection = Connection.of(self._settings)
        # Which does not wait long: a connection that the network has forgotten must not keep it for a lease.
        redis = connection.asking
        if lacking:
            chosen: set[str] | None = lacking
        elif self._is_its_turn(redis):
            chosen = None
        else:
            return
        self._teller.begin()
        sweep = reap_once(
            redis, connection.registry, connection.tickets, celery_queues=chosen, tell=self._teller.hand_over
        )
        self._tell(sweep)
        self.swept.set()

    def _is_its_turn(self, redis: Redis) -> bool:
        turn_ms = max(1, int(self._settings.reap_s * 1000 * _TURN))
        try:
            return bool(redis.set(keys.REAPER, self._node, nx=True, px=turn_ms))
        except Refusal as error:
            if not error.out_of_memory:
                raise
            return True  # no turn can be noted; what comes back is all the more needed

    def _tell(self, sweep: Sweep) -> None:
        for queue, producer in sweep.lost:
            _log.warning("queue %s: producer %s was lost, its lease ran out", shown(*split(queue)), producer)
        said, self._said = self._said, {}
        for queue, error in sweep.failed:
            self._said[queue] = str(error)
            if said.get(queue) != str(error):
                _log.error("queue %s cannot be looked after: %s", shown(*split(queue)), error)
