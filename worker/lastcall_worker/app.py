"""The Celery app of lastcall's workers: celery -A lastcall_worker.app worker -Q cpu

It has nothing but slots; attachment.py puts them beside the tasks of any other app.
"""

from __future__ import annotations

import os
from typing import Any

import billiard.pool
from celery import Celery

from lastcall.prints import VARIABLE
from lastcall.settings import Settings
from lastcall_worker.attachment import attach
from lastcall_worker.prints import show_prints

# What the command line does not say.
_OWN_DEFAULTS: dict[str, Any] = {
    "task_default_queue": "cpu",
    "task_default_exchange_type": "direct",
    "accept_content": ["json"],
    "task_serializer": "json",
    "task_ignore_result": True,
}

_CONSUMED_TRIES = 10  # 0.1 s apart


def _make() -> Celery:
    settings = Settings.load()
    # A child that leaves waits for up to 30 s until its parent has taken its last result, which a parent that leaves
    # may not do any more. Slots have no results.
    billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = _CONSUMED_TRIES
    app = Celery("lastcall", broker=settings.broker, set_as_current=False)
    # Beside broker_url, which CELERY_BROKER_URL overrides: tickets come where LASTCALL_URL says.
    app.conf.broker_read_url = app.conf.broker_write_url = settings.broker
    # Tickets are acknowledged early, so that a lost connection is no reason to end a slot.
    app.conf.worker_cancel_long_running_tasks_on_connection_loss = True
    app.add_defaults(_OWN_DEFAULTS)
    attach(app, settings)
    if path := os.environ.get(VARIABLE):  # a private cluster's
        show_prints(app, path)
    return app


app = _make()
