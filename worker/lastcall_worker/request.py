"""SlotRequest: the slot task as the worker's main process sees it. It notices at once when the
process that runs a slot is lost, and gives back what the slot held.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.worker import state
from celery.worker.request import Request
from kombu.asynchronous import get_event_loop
from redis.exceptions import RedisError

from lastcall.connection import Connection
from lastcall.errors import LastcallError, UnknownJob
from lastcall.state.ledger import Ledger
from lastcall.state.records import shown, split
from lastcall.waiting import AWAY
from lastcall_worker import moved
from lastcall_worker.moved import Held
from lastcall_worker.starters import Worn

if TYPE_CHECKING:
    from lastcall.settings import Settings

_log = logging.getLogger(__name__)

_AGAIN_S = 0.2
_LOST = (WorkerLostError, Terminated, TimeLimitExceeded, SystemExit, KeyboardInterrupt)


class SlotRequest(Request):
    """One delivery of the slot task."""

    _lost = False

    def __init__(self, message: Any, *, eventer: Any = None, **options: Any) -> None:
        super().__init__(message, eventer=eventer, **options)
        # The slot reads it as self.request.lastcall_events, in whatever process it runs.
        self.request_dict["lastcall_events"] = wants_task_events(eventer)

    def __init_subclass__(cls, **options: Any) -> None:
        # Celery makes a subclass for each consumer, whose on_success() never asks this class.
        super().__init_subclass__(**options)
        if "on_success" in cls.__dict__:
            cls.on_success = _on_success(cls.on_success)

    @property
    def address(self) -> str:
        """Of the queue that the slot works on."""
        return str(self.args[0])

    @property
    def ticket(self) -> str:
        return str(self.args[1])

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """The slot ran into a time limit; a hard one kills its process."""
        if soft:
            super().on_timeout(soft, timeout)
        else:
            self._on_lost(TimeLimitExceeded(timeout))

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """The slot raised, or is gone."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, Worn):  # its slot had ended before
            state.task_ready(self)
        elif isinstance(error, _LOST):
            self._on_lost(error)
        else:
            # What it held comes back when its ticket's time is over, and not sooner: a slot that
            # fails each time would run in circles.
            super().on_failure(exc_info, send_failed_event, return_ok)
        wake_loop()

    def _on_lost(self, error: BaseException) -> None:
        state.task_ready(self)
        if not self._lost:
            self._lost = True
            # Read here: the process that takes the place of this one may write there.
            held = moved.table.of({self.worker_pid}) if self.worker_pid != os.getpid() else []
            # Not here: this is the worker's event loop, which must not wait for Redis.
            threading.Thread(
                target=_give_back_all,
                args=(self.app.lastcall_settings, [Held(self.address, self.ticket), *held]),
                kwargs={
                    "crashed": state.should_terminate is None,
                    "why": _reason(error),
                    "node": str(self.hostname),
                },
                name="lastcall-give-back",
            ).start()


def _give_back_all(settings: Settings, held: Sequence[Held], **how: Any) -> None:
    for address, ticket in held:
        give_back(settings, address, ticket, **how)


def give_back(settings: Settings, address: str, ticket: str, *, crashed: bool, why: str, node: str) -> None:
    """End a ticket whose slot is gone, and send the tickets that its chunks need now."""
    queue = shown(*split(address))
    until = time.monotonic() + settings.lease_s
    while True:
        try:
            connection = Connection.of(settings)
            ledger = Ledger.open(connection.asking, *split(address))
            celery_queue = ledger.celery_queue()
            tickets = ledger.release(ticket, crashed=crashed, cap=connection.slots(celery_queue), worker=node, why=why)
            if tickets is None:
                return  # it was not its ticket any more
            connection.send(celery_queue, address, tickets)
            break
        except UnknownJob:
            break  # it has expired: there is nothing to give back
        except (LastcallError, RedisError, OSError) as error:
            if isinstance(error, AWAY) and time.monotonic() < until:
                time.sleep(_AGAIN_S)  # a server that is started again shall not cost a lease more
                continue
            _log.error(
                "queue %s: the slot that ran ticket %s is gone (%s), and what it held cannot be given "
                "back now (%s): that happens when its lease has run out, in %g s at most",
                *(queue, ticket, why, error, settings.lease_s),
            )
            return
    _log.error(
        "queue %s: the slot that ran ticket %s is gone (%s); what it held is ready again",
        *(queue, ticket, why),
    )


def wants_task_events(eventer: Any) -> bool:
    """Whether a worker sends task events: started with -E, or asked to by a monitor."""
    return bool(eventer is not None and eventer.enabled and (not eventer.groups or "task" in eventer.groups))


def wake_loop() -> None:
    """Have the worker's event loop look again, which waits up to a second otherwise.

    A thread that has become free tells nobody: only a process's end is seen by the loop.
    """
    loop = get_event_loop()
    if loop is not None:
        loop.call_soon(_nothing)  # type: ignore[no-untyped-call]


def _nothing() -> None:
    pass


def _on_success(generated: Callable[..., None]) -> Callable[..., None]:
    def on_success(self: SlotRequest, result: Any, **options: Any) -> None:
        if isinstance(result, ExceptionInfo):  # a thread's function raised a SystemExit or the like
            self.on_failure(result)
        else:
            generated(self, result, **options)
            wake_loop()

    return on_success


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeLimitExceeded):
        return f"it ran into the time limit of {error.args[0]:g} s"
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return f"it ended by {error!r}"
    # WorkerLostError: "Worker exited prematurely: signal 9 (SIGKILL) Job: 3."
    return str(error).removeprefix("Worker exited prematurely: ").partition(" Job:")[0]
