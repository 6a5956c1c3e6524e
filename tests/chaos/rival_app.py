"""Raw Celery as its documentation sets it up; the workers' `-A tests.chaos.rival_app`."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

from tests.chaos.items import log

LATE = "LASTCALL_CHAOS_LATE"  # the variable: "1" for acks_late
VISIBILITY = "LASTCALL_CHAOS_VISIBILITY_S"  # the variable: seconds, "" for Celery's default
URL = "LASTCALL_CHAOS_URL"


def make(url: str, *, late: bool, visibility_s: float | None) -> Celery:
    """An app. What is not set here is as Celery has it."""
    app = Celery("rival", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        # The guide's pair: acknowledge after the task, and give it back where its process died.
        task_acks_late=late,
        task_reject_on_worker_lost=late,
    )
    if late:
        app.conf.worker_prefetch_multiplier = 1  # the guide's advice where acks_late is wanted
    if visibility_s is not None:
        # kombu's advice for a low one: look for what is to be restored every 10 s, not every 100.
        app.conf.broker_transport_options = {"visibility_timeout": visibility_s, "unacked_restore_throttle": 1}
        app.conf.result_backend_transport_options = {"visibility_timeout": visibility_s}
        app.conf.visibility_timeout = visibility_s
    app.task(work, name="rival.work")
    return app


def work(job: str, number: int, ms: float) -> int:
    """The same kind of item as lastcall's jobs have."""
    log("begins", job, "task", number)
    time.sleep(ms / 1000)
    log("ends", job, "task", number)
    return number * 3 + 1


def _of_environment() -> Any:
    visibility = os.environ.get(VISIBILITY, "")
    return make(
        os.environ[URL], late=os.environ.get(LATE) == "1", visibility_s=float(visibility) if visibility else None
    )


if URL in os.environ:  # in a worker
    app = _of_environment()
