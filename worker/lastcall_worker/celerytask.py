"""CeleryTask: a user's Celery task as a slot runs it, by Celery's own tracer.

So the task is what it is under Celery: `self.request`, its hooks (before_start, on_success, on_failure, on_retry,
after_return), its `__call__`, Celery's signals, autoretry_for with its backoff, and what Retry, Ignore and Reject mean.
Only what Celery would do through the broker or its result backend is lastcall's: to try again, and to give the outcome.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast

from celery import _state
from celery.app.trace import build_tracer
from celery.exceptions import Retry, SoftTimeLimitExceeded
from celery.states import IGNORED, REJECTED, RETRY

from lastcall import functions
from lastcall.current import current, running
from lastcall.errors import FunctionNotAllowed, FunctionNotImportable, ItemTimeout
from lastcall.mainspace import MAIN

if TYPE_CHECKING:
    from lastcall_worker.running import Running

_REQUEUE_S: Final = 1.0
_INSTALL: Final = "start the worker with the app that has it: celery -A their.app worker"


class AskedAgain(Exception):
    """A function asks to be tried again. error: what to say if nobody may; delay_ms: until then."""

    def __init__(self, error: BaseException, delay_ms: int) -> None:
        super().__init__(error, delay_ms)
        self.error, self.delay_ms = error, delay_ms


class SoftItemTimeout(ItemTimeout, SoftTimeLimitExceeded):
    """What is raised in a function whose time is over: a task that minds Celery's soft time limit minds this."""

    @property
    def plain(self) -> ItemTimeout:
        """As its caller gets it."""
        error = ItemTimeout(self.queue, self.item, self.timeout_s, self.attempts)
        error.__cause__ = self.__cause__
        return error.with_traceback(self.__traceback__)


class CeleryTask:
    """A task, to be called as a function. node: the worker's name."""

    def __init__(self, task: Any, node: str) -> None:
        self._task = task
        self._node = node
        self._trace = build_tracer(task.name, task, task.app.loader, node, eager=True, app=task.app)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        here = cast("Running", running.get())
        # Celery's ids are UUIDs; as there, it is the same in every attempt.
        identity = str(uuid.uuid5(uuid.NAMESPACE_URL, current.idempotency_key))
        request = {
            "id": identity, "root_id": identity, "task": self._task.name, "args": args, "kwargs": kwargs,
            "retries": here.chunk.raises, "hostname": self._node, "origin": "lastcall",
            # What it retries is tried again here, not sent through the broker.
            "is_eager": True,
            "delivery_info": {
                "exchange": "", "routing_key": here.celery, "priority": None,
                "redelivered": here.chunk.crashes + here.chunk.losses > 0,
            },
        }  # fmt: skip
        outcome = self._trace(identity, args, kwargs, request)
        if outcome.info is None:
            return outcome.retval
        state, error = outcome.info.state, outcome.info.retval
        if state == IGNORED:
            return None
        if state == RETRY:
            self._refuse_other_arguments(error, args, kwargs)
            raise AskedAgain(error.exc or error, _delay_ms(error)) from error.exc
        if state == REJECTED and error.requeue:
            raise AskedAgain(error, int(_REQUEUE_S * 1000))
        raise error

    def _refuse_other_arguments(self, retry: Retry, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        sent = retry.sig
        if sent is not None and (tuple(sent.args) != tuple(args) or dict(sent.kwargs) != kwargs):
            raise FunctionNotAllowed(
                self._task.name,
                "retry() gave it other arguments, and lastcall tries an item again as it was put: leave args= and "
                "kwargs= out, or submit the other call (task.delay(), or a Client)",
            )


def load(app: Any, wire: Sequence[Any], node: str, keyed: bool) -> Callable[..., Any]:
    """The task that a wire stands for, with the arguments that it was bound to. Raises FunctionNotImportable,
    FunctionNotAllowed.

    app: this worker's, which is asked first. keyed: whether the wire was signed; if not, nothing is imported or
    unpickled.
    """
    _, shown, body = wire
    if isinstance(body, str):
        return _task(app, body, node, keyed)
    if not keyed:
        raise FunctionNotAllowed(str(shown), f"worker {node} has no key: set LASTCALL_KEY on both sides")
    reference, args, kwargs = functions.unpickle(body, str(shown), node)
    return functools.partial(_task(app, reference, node, keyed), *args, **kwargs)


def _task(app: Any, reference: str, node: str, keyed: bool) -> CeleryTask:
    module, _, name = reference.partition(":")
    if name.startswith(("celery.", "lastcall.")):
        raise FunctionNotAllowed(name, "it is no task of a user")
    task = _registered(app, name)
    if task is None and keyed and module not in MAIN:
        functions.import_module(module, node)
        task = _registered(app, name)
    if task is None:
        raise FunctionNotImportable(name, node, f"no Celery app has a task of this name there: {_INSTALL}")
    return CeleryTask(task, node)


def _registered(app: Any, name: str) -> Any:
    for one in (app, *_state._get_active_apps()):
        task = one.tasks.get(name)
        if task is not None:
            return task
    return None


def _delay_ms(retry: Retry) -> int:
    when = retry.when
    seconds = when.timestamp() - time.time() if isinstance(when, datetime) else float(when or 0)
    return max(0, int(seconds * 1000))
