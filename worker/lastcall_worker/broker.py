"""The worker's connection to Celery's broker: tried again soon, so that a server that is back has its workers back."""

from __future__ import annotations

import logging
from typing import Any

from celery.app.amqp import AMQP
from kombu.connection import Connection

_log = logging.getLogger(__name__)

# Celery's own pauses begin at 2 s and grow to 30 s, for which a worker would stand idle after a long outage.
_PAUSES_S: dict[str, float] = {"interval_start": 0.2, "interval_step": 0.3, "interval_max": 2.0}


class PromptConnection(Connection):
    """A kombu connection that does not pause for long between two tries."""

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        """Connect, as kombu does."""
        return super().ensure_connection(*args, **{**_PAUSES_S, **options})  # type: ignore[no-untyped-call]

    def release(self) -> None:
        """Close the connection."""
        try:
            super().release()  # type: ignore[no-untyped-call]
        except AttributeError as error:
            # After an outage Celery collects a connection before it closes it. Its channel then asks for the address of
            # one that it has no more, an error that Celery does not expect there and that would end the worker.
            _log.debug("a lost connection to the broker was closed in part: %s", error)

    close = release


class PromptAMQP(AMQP):
    """What a Celery app makes its connections by."""

    Connection = PromptConnection
