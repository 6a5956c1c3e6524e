"""Celery tasks as functions: what a client needs to know of one. It travels by its name; lastcall_worker runs it.

A client needs no Celery for this: who has a task has imported it.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from lastcall.coroutine import is_async
from lastcall.errors import ConfigError

KIND = "celery"  # of the wire of such a function: see functions.py

_OWN = ("celery.", "lastcall.")  # names of tasks that are machinery


def task_of(function: Any) -> Any:
    """The Celery task (or a proxy of one, as @app.task and @shared_task give) that a function is, or is a partial of;
    else None.

    Raises ConfigError for a signature.
    """
    function, _, _ = unbound(function)
    tasks, canvas = sys.modules.get("celery.app.task"), sys.modules.get("celery.canvas")
    if canvas is not None and isinstance(function, canvas.Signature):
        raise ConfigError(
            "function", "a Celery task", f"a signature of one, {function.task}()",
            "give the task itself, with arguments as functools.partial(task, ...)",
        )  # fmt: skip
    return function if tasks is not None and isinstance(function, tasks.Task) else None


def unbound(function: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A function without the arguments that functools.partial gave it; and these."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        args, kwargs = (*function.args, *args), {**function.keywords, **kwargs}
        function = function.func
    return function, args, kwargs


def timeout_s(task: Any) -> float | None:
    """Its time limit: the soft one, which comes first; not one of the app's that is above a hard one of its own."""
    limits = [float(limit) for limit in (task.soft_time_limit, task.time_limit) if limit]
    return min(limits, default=None)


def workers_of(function: Any) -> str:
    """The Celery queue whose workers run a function where nothing else is said: "cpu"; of a task, where Celery sends it
    to: task_routes, the task's own queue, or the app's default."""
    task = task_of(function)
    if task is None:
        return "cpu"
    own = {name: value for name in ("queue", "exchange", "routing_key") if (value := getattr(task, name, None))}
    amqp = task.app.amqp
    route = amqp.router.route(own, task.name)
    queue = route.get("queue")
    return str(getattr(queue, "name", queue) or amqp.default_queue.name)


def check(task: Any) -> None:
    """Whether lastcall can run it as Celery does. Raises ConfigError for an option that it cannot keep."""
    if task.name.startswith(_OWN):
        raise ConfigError("function", "a Celery task of your own", f"{task.name}")
    if is_async(task.run) and task.__class__.__call__ is sys.modules["celery.app.task"].Task.__call__:
        raise ConfigError(
            "function", "a Celery task of a plain function, since Celery's tracer awaits nothing",
            f"{task.name}, an `async def`", "give the function itself, which runs as a coroutine: task.run",
        )  # fmt: skip
    for option, instead in (
        ("rate_limit", "bound how many run at the same time: max_workers="),
        ("expires", "cancel what is too late: job.cancel(), or future.cancel()"),
    ):
        value = getattr(task, option, None)
        if value:
            raise ConfigError(
                f"{option} of Celery task {task.name}", "not set where lastcall runs it, which does not keep it",
                repr(value), f"leave it to Celery (task.delay()), or {instead}",
            )  # fmt: skip
    if task.acks_late and not task.acks_on_failure_or_timeout:
        raise ConfigError(
            f"acks_on_failure_or_timeout of Celery task {task.name}", "True where lastcall runs it", "False",
            "say what is tried again: autoretry_for= of the task, or retries= of a map or a queue",
        )  # fmt: skip
