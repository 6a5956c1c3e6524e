"""attach(): the workers of any Celery app run lastcall's slots, beside the app's own tasks. docs/celery.md tells how to
go from Celery to lastcall.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from celery import Celery, signals
from celery.bin.base import CeleryOption

from lastcall import place
from lastcall.current import running
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

_AMQP = "celery.app.amqp:AMQP"

_log = logging.getLogger(__name__)


def attach(app: Celery, settings: Settings | None = None) -> Celery:
    """lastcall_worker.attach()"""
    settings = _of_app(app) if settings is None else settings
    if settings.broker is None:
        raise ConfigError(
            "url (LASTCALL_URL)",
            "set, so that the worker knows its server",
            "nothing",
            "such as LASTCALL_URL=redis://host:6379/0",
        )
    if getattr(app, "lastcall_settings", None) is not None:
        raise ConfigError("app", "one that attach() has not been called with", f"{app!r}, which it has")
    _check(app)
    app.lastcall_settings = settings
    app.add_defaults(_defaults(app, settings.broker))
    slot.register(app, settings)
    signals.worker_process_shutdown.connect(_close_places)  # a prefork process does not end as others do
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


def _of_app(app: Celery) -> Settings:
    """The environment's settings, with the app's broker: its worker takes tickets from nowhere else."""
    settings = Settings.load()
    broker = app.conf.broker_read_url or app.conf.broker_url
    broker = broker[0] if isinstance(broker, (list, tuple)) else str(broker or "").split(";")[0]
    if settings.url is None and broker.startswith(("redis://", "rediss://")):
        settings = Settings.load(url=broker)
    if settings.url is None:
        raise ConfigError(
            "LASTCALL_URL", "set where the app's broker is no redis:// or rediss://: queues and results are kept there",
            "nothing", "such as LASTCALL_URL=redis://host:6379/0",
        )  # fmt: skip
    return replace(settings, broker_url=broker) if broker else settings


def _check(app: Celery) -> None:
    """Refuse what would keep tickets from their slots. Raises ConfigError."""
    conf = app.conf
    if not {"json", "application/json"} & set(conf.accept_content or ()):
        raise ConfigError(
            "accept_content", "with json, in which tickets travel", repr(list(conf.accept_content or ())),
            "add it: tickets hold two names, no data",
        )  # fmt: skip
    if (conf.broker_transport_options or {}).get("global_keyprefix"):
        raise ConfigError(
            "broker_transport_options", "without global_keyprefix, which tickets do not have",
            repr(conf.broker_transport_options["global_keyprefix"]), "use a database of its own for the broker",
        )  # fmt: skip


def _defaults(app: Celery, broker: str) -> dict[str, Any]:
    """What the app has not said."""
    defaults = _DEFAULTS | (_REDIS_DEFAULTS if broker.startswith("redis") else {})
    conf = app.conf
    if conf.value_set_for("worker_prefetch_multiplier") and not conf.value_set_for("worker_disable_prefetch"):
        del defaults["worker_disable_prefetch"]  # its own choice stands: without prefetching, it would mean nothing
        if conf.worker_prefetch_multiplier != 1:
            _log.warning(
                "worker_prefetch_multiplier is %s: a busy worker takes tickets of lastcall that an idle one could run, "
                "and keeps them for up to some seconds; leave it out, or set it to 1",
                conf.worker_prefetch_multiplier,
            )
    return defaults


def _close_places(**_: Any) -> None:
    place.close_all()


def _no_tickets(record: logging.LogRecord) -> bool:
    """Not a line for each ticket that comes and goes, one a slot and second; nor for each item that is done."""
    data = getattr(record, "data", None)
    if record.levelno > logging.INFO or not isinstance(data, dict):
        return True
    return data.get("name") != SLOT_TASK and running.get() is None
