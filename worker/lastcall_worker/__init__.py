"""lastcall_worker: what runs where work is done, on Celery. Start at app.py; the slot is slot.py.

A worker's threads: node.py (it is alive), reaper.py (looks after queues), until_drained.py, all
started by bootsteps.py. The slot task in the worker's main process: request.py. For monitors:
events.py.

attach(app) has the workers of your own Celery app do lastcall's work, too: attachment.py, docs/celery.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery

    from lastcall.settings import Settings

__all__ = ["attach"]


def attach(app: Celery, settings: Settings | None = None) -> Celery:
    """Have the workers of a Celery app run lastcall's slots, beside its own tasks: celery -A their.app worker

    Call it once, when the app is configured. It changes what workers do, not what the app's clients do.
    settings: None: of the LASTCALL_* environment; where that names no server, the app's broker is it, if it is a Redis.
    The app's broker is what tickets travel through: clients that submit work need LASTCALL_BROKER_URL where it is not
    their LASTCALL_URL's. What the app has set itself stays. Raises ConfigError.
    """
    from lastcall_worker import attachment  # here: the containers' health check needs no Celery

    return attachment.attach(app, settings)
