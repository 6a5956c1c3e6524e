"""backlog: the server's memory for an item that waits, 100 bytes each, put one by one; beside a
Celery message with the same argument."""

import secrets
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Goal, Row, Sample, Stand, progress
from lastcall.connect import connect

ITEMS = 200_000
CELERY_MESSAGES = 5_000
ITEM_BYTES = 100
_NOBODY = "nobody"  # a Celery queue that no worker serves


def run(stand: Stand) -> list[Row]:
    """Bytes an item, what the queue itself takes included."""
    client, app = stand.client, stand.celery
    n, celery_n = stand.size(ITEMS), stand.size(CELERY_MESSAGES)
    queue = client.queue("backlog")
    task = app.tasks["benchmarks.noop"]

    def put() -> None:
        with queue.producer() as out:
            for _ in range(n):
                out.put(secrets.token_bytes(ITEM_BYTES))

    def send() -> None:
        for _ in range(celery_n):
            task.apply_async((secrets.token_hex(ITEM_BYTES // 2),), queue=_NOBODY)

    progress(f"{n:,} items are put")
    with connect(client.settings) as server:
        mine = _grown(server, put) / n
    queue.cancel()
    progress(f"{celery_n:,} messages are sent")
    theirs = _grown(app.backend.client, send) / celery_n
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge(_NOBODY)
    return [
        Row(
            "backlog",
            f"memory for a waiting item of {ITEM_BYTES} bytes",
            "bytes",
            Sample((mine,)),
            "Celery message",
            Sample((theirs,)),
            (Goal(150, at_least=False, absolute=True),),
        )
    ]


def _grown(server: Any, fill: Callable[[], None]) -> float:
    before = server.info("memory")["used_memory"]
    fill()
    return float(server.info("memory")["used_memory"] - before)
