"""What the processes of jobs do: produce, consume, read results, map. Each tells its journal all that it saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from lastcall import Client, StatusableQueue
from lastcall.errors import LastcallError, LeaseLost, ProducerLost, QueueFinished, ServerUnreachable
from lastcall.settings import Settings
from tests.chaos.items import Item, last
from tests.chaos.processes import Journal

AWAY_S = 60.0
T = TypeVar("T")


def steady(ask: Callable[[], T]) -> T:
    """Ask again while the server is away, for a minute: waits bear that by themselves, single questions do not."""
    deadline = time.monotonic() + AWAY_S
    while True:
        try:
            return ask()
        except ServerUnreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)  # nothing tells when the server is back


def connect(settings: Settings) -> Client:
    """A client with these settings."""
    return steady(lambda: Client(settings.url, settings.key, lease_s=settings.lease_s, reap_s=settings.reap_s))


def _attach(settings: Settings, job: str, name: str) -> StatusableQueue[Item]:
    client = connect(settings)
    return steady(lambda: client.queue(name, job=job))


def produce(
    journal: Journal, settings: Settings, job: str, queue_name: str, name: str,
    items: Sequence[Item], pause_s: float, chunk_items: int, resumable: bool,
) -> None:  # fmt: skip
    """Put what the queue has not accepted yet of this producer's items, and leave."""
    queue = _attach(settings, job, queue_name)
    while True:
        try:
            with steady(lambda: queue.producer(name, chunk_items=chunk_items)) as out:
                journal.say("joined", position=out.position)
                for number, item in enumerate(items[out.position :], 1):
                    out.put(item)
                    if number % 10 == 0:
                        out.flush()
                        journal.say("flushed", position=out.position)
                    time.sleep(pause_s)  # so slowly that the storm meets it
            journal.say("left")
            return
        except LeaseLost:
            journal.say("lease lost")
            if not resumable:
                return
        except QueueFinished as error:  # it was given up, and the queue has ended without it
            journal.say("finished", state=error.state)
            return
        except ServerUnreachable:  # as it was about to leave
            journal.say("server away")


def consume(journal: Journal, settings: Settings, job: str, queue_name: str) -> None:
    """Read until the queue has ended. Another consumer goes on where one has lost its lease."""
    queue = _attach(settings, job, queue_name)
    while True:
        consumer = queue.consumer()
        journal.say("begins")
        try:
            for item in consumer:
                made = Item(*item)
                journal.say("got", number=made.number)
                time.sleep(made.ms / 1000)  # the work
            journal.say("drained")
            return
        except ProducerLost:
            journal.say("incomplete")
            return
        except (LeaseLost, ServerUnreachable) as error:
            journal.say("lost", why=repr(error))


def read(journal: Journal, settings: Settings, job: str, queue_name: str, cursor: str) -> None:
    """Read a queue's results from a cursor on, and tell each with the cursor behind it."""
    queue = _attach(settings, job, queue_name)
    results = steady(lambda: queue.results(cursor=cursor))
    while True:
        try:
            journal.say("value", value=next(results), cursor=results.cursor)
        except StopIteration:
            journal.say("end", how="drained")
            return
        except ValueError as error:  # an item's own
            journal.say("raised", number=error.args[1], cursor=results.cursor)
        except ProducerLost:
            journal.say("end", how="incomplete")
            return
        except LastcallError as error:
            journal.say("error", type=type(error).__name__, cursor=results.cursor, text=str(error))
            if type(error).__name__ != "WorkerLost":
                return


def map_items(journal: Journal, settings: Settings, items: Sequence[Item], ordered: bool) -> None:
    """client.map() over the items."""
    client = connect(settings)
    results = steady(lambda: client.map(last, items, ordered=ordered))
    journal.say("job", job=results.job)
    try:
        for value in results:
            journal.say("value", value=value)
    except Exception as error:  # whatever it is, the check looks whether it had to be
        journal.say("raised", type=type(error).__name__, args=[str(arg) for arg in error.args], text=str(error))
    journal.say("end")
