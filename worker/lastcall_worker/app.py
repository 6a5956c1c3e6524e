"""The Celery app of lastcall's workers: celery -A lastcall_worker.app worker -Q cpu

attach() makes a worker of any Celery app run lastcall's slots; the app here has nothing else.
"""

from __future__ import annotations

import logging
from typing import Any

import billiard.pool
from celery import Celery
from celery.bin.base import CeleryOption

from lastcall.errors import ConfigError
from lastcall.settings import Settings
from lastcall.tickets import SLOT_TASK
from lastcall_worker import slot
from lastcall_worker.bootsteps import (
    ChildrenStep,
    NodeStep,
    NotifyStep,
    PromptStep,
    ReaperStep,
    UntilDrainedStep,
    WatchStep,
)

# What an app has not set itself.
_DEFAULTS: dict[str, Any] = {
    "task_default_queue": "cpu",
    "task_default_exchange_type": "direct",
    "accept_content": ["json"],
    "task_serializer": "json",
    "task_ignore_result": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,  # for ever, as everything here
    # A server that was made a replica, or is full, is waited for like one that is away.
    "broker_channel_error_retry": True,
    # A worker takes no ticket that it cannot run at once; another worker may.
    "worker_disable_prefetch": True,
    "worker_prefetch_multiplier": 1,
    # From the death of a slot's process until its chunk is given back, where that is not seen at
    # once (brokers without an event loop).
    "worker_lost_wait": 0.05,
}

# Likewise, where the broker is a Redis: a connection that the network has forgotten is noticed, within some 20 s.
_REDIS_DEFAULTS: dict[str, Any] = {
    "broker_transport_options": {
        "socket_connect_timeout": 5.0,
        "socket_timeout": 30.0,
        "socket_keepalive": True,
        "health_check_interval": 10,
    },
}

_CONSUMED_TRIES = 10  # 0.1 s apart
_AMQP = "celery.app.amqp:AMQP"


def attach(app: Celery, settings: Settings) -> Celery:
    """Have the workers of a Celery app run slots. Call it once, before the app's worker starts.

    settings: with the server's URL, without which this raises ConfigError. The app must have the
    broker that clients send tickets to, settings.broker.
    """
    if settings.broker is None:
        raise ConfigError(
            "url (LASTCALL_URL)",
            "set, so that the worker knows its server",
            "nothing",
            "such as LASTCALL_URL=redis://host:6379/0",
        )
    app.lastcall_settings = settings
    app.add_defaults(_DEFAULTS | (_REDIS_DEFAULTS if settings.broker.startswith("redis") else {}))
    slot.register(app, settings)
    if app.amqp_cls in (None, _AMQP):  # not one that has its own
        app.amqp_cls = "lastcall_worker.broker:PromptAMQP"
    app.steps["worker"].update({ReaperStep, WatchStep, NodeStep, ChildrenStep, UntilDrainedStep})
    app.steps["consumer"].update({PromptStep, NotifyStep})
    app.user_options["worker"].add(
        CeleryOption(
            ("--until-drained",),
            multiple=True,
            metavar="QUEUE",
            help_group="Lastcall Options",
            help="Leave when this queue has ended (may be given several times). Exit code 0: all "
            "drained; 3: one ended incomplete or was cancelled; 4: drained, with dead letters; "
            "1: told to leave before.",
        )
    )
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).addFilter(_no_tickets)
    return app


def _no_tickets(record: logging.LogRecord) -> bool:
    """Not a line for each ticket that comes and goes, one a slot and second."""
    data = getattr(record, "data", None)
    return not (record.levelno <= logging.INFO and isinstance(data, dict) and data.get("name") == SLOT_TASK)


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
    return attach(app, settings)


app = _make()
