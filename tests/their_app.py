"""A user's own Celery app, as there are many: its tasks, its settings, and one line for lastcall."""

from __future__ import annotations

import os
import time
from typing import Any

import celery
from celery import Celery, Task, shared_task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

BROKER = os.environ.get("THEIR_BROKER", "memory://")

app = Celery("theirs", broker=BROKER, backend=BROKER if "redis" in BROKER else "cache+memory://")
app.conf.update(task_default_queue="theirs", task_routes={"tests.their_app.routed": {"queue": "elsewhere"}})

if "THEIR_BROKER" in os.environ:  # their workers; a program that submits needs no more than the tasks
    from lastcall_worker import attach

    attach(app)


@app.task
def add(x: int, y: int = 1) -> int:
    return x + y


@app.task(bind=True)
def sum_up(self: Any, *numbers: int, y: int) -> tuple[int | str, ...]:
    return *numbers, y, self.request.hostname


@shared_task
def shared(x: int) -> int:
    return x * 10


@app.task(bind=True)
def ask(self: Any, x: int) -> dict[str, Any]:
    request = self.request
    return {
        "id": request.id, "retries": request.retries, "hostname": request.hostname, "args": tuple(request.args),
        "delivery_info": request.delivery_info, "called_directly": request.called_directly, "task": request.task,
        "current": celery.current_task.name,
    }  # fmt: skip


@app.task(bind=True, autoretry_for=(KeyError,), retry_kwargs={"countdown": 0.01, "max_retries": 2})
def automatic(self: Any, until: int) -> int:
    if self.request.retries < until:
        raise KeyError(f"try {self.request.retries}")
    return int(self.request.retries)


@app.task(bind=True, default_retry_delay=0, max_retries=3)
def by_hand(self: Any, until: int) -> int:
    try:
        if self.request.retries < until:
            raise ConnectionError(f"try {self.request.retries}")
    except ConnectionError as error:
        raise self.retry(exc=error, countdown=0.01) from error
    return int(self.request.retries)


@app.task(bind=True)
def otherwise(self: Any, x: int) -> None:
    raise self.retry(args=(x + 1,), countdown=0.01)


@app.task(bind=True)
def ends(self: Any, how: str) -> str:
    if how == "ignore":
        raise Ignore
    if how == "reject":
        raise Reject("broken", requeue=False)
    if how == "requeue" and not self.request.retries:
        raise Reject("later", requeue=True)
    return how


@app.task(soft_time_limit=0.3)
def slow(s: float, careful: bool) -> str:
    try:
        time.sleep(s)
    except SoftTimeLimitExceeded:
        if not careful:
            raise
        return "tidied up"
    return "done"


@app.task(soft_time_limit=60, time_limit=0.3)  # as one with a limit of its own in an app that has a soft one
def hard(s: float) -> str:
    time.sleep(s)
    return "done"


@app.task
def calls_another(x: int) -> str:
    return str(add.delay(x, 1).id)


class Noting(Task):  # type: ignore[misc]
    """Its hooks note what they are told in Redis, by the item."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._note("call", args[0])
        return self.run(*args, **kwargs)

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        self._note("before_start", args[0])

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        self._note(f"on_success {retval}", args[0])

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self._note(f"on_retry {exc!r}", args[0])

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self._note(f"on_failure {exc!r}", args[0])

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self._note(f"after_return {status}", args[0])

    def _note(self, what: str, key: str) -> None:
        self.app.broker_connection().default_channel.client.rpush(f"noted:{key}", what)


@app.task(base=Noting, bind=True, autoretry_for=(KeyError,), max_retries=1, default_retry_delay=0)
def noted(self: Any, key: str, raising: int) -> str:
    if self.request.retries < raising:
        raise KeyError(key)
    return "fine"


@app.task
def routed(x: int) -> int:
    return x


@app.task
async def awaits(x: int) -> int:
    return x + 1


@app.task(rate_limit="10/m")
def limited(x: int) -> int:
    return x


@app.task(expires=10)
def expiring(x: int) -> int:
    return x


@app.task(acks_late=True, acks_on_failure_or_timeout=False)
def redelivered(x: int) -> int:
    return x
