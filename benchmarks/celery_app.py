"""Raw Celery, set up as its documentation advises for speed; the worker's `-A benchmarks.celery_app`.

What its defaults do already (`-O fair`, early acknowledgement, no events, no "started" state, a pool
of broker connections, a prefetch multiplier of 4) is left alone.
"""

import os

from celery import Celery

from benchmarks.functions import noop
from lastcall.settings import Settings

QUEUE = "celery"


def make(broker: str | None) -> Celery:
    """An app on this broker, with the same server for its results: calls need their answers."""
    app = Celery("benchmarks", broker=broker, backend=broker)
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_send_sent_event=False,
        worker_send_task_events=False,
        worker_disable_rate_limits=True,
        broker_connection_retry_on_startup=True,
    )
    app.task(noop, name="benchmarks.noop")
    app.task(_step, name="benchmarks.step")
    app.task(_total, name="benchmarks.total")
    return app


def _step(chunk: list[int], more: int) -> list[int]:
    """One stage of a chain: a one-line function, over a chunk."""
    return [n + more for n in chunk]


def _total(chunks: list[list[int]]) -> int:
    return sum(map(sum, chunks))


if "LASTCALL_URL" in os.environ:  # in the worker, whose server is a private one, too
    app = make(Settings.load().broker)
