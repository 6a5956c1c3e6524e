"""lastcall status: the queues that have not ended, the workers, and what was refused."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click
from redis.exceptions import RedisError
from rich.console import Console

from lastcall.cli import server, show
from lastcall.connect import connect
from lastcall.errors import LastcallError, UnknownJob
from lastcall.progress import Progress
from lastcall.registry import Registry
from lastcall.stages import in_order
from lastcall.state import keys
from lastcall.state.ledger import Ledger, jobs, queues_of
from lastcall.state.records import Status, split

if TYPE_CHECKING:
    from redis import Redis

_LOOK_S = 1.0


@click.command()
@click.argument("names", nargs=-1, metavar="[QUEUE|JOB|JOB/QUEUE]...")
@click.option("--all", "ended_too", is_flag=True, help="Those that have ended, too, until they expire.")
@click.option("--watch", is_flag=True, help="Go on showing them until all that are named have ended, or Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(names: tuple[str, ...], ended_too: bool, watch: bool, as_json: bool) -> None:
    """Show queues, producers' leases and workers.

    Without arguments: every queue that has not ended. A job's name shows all its queues, ended ones too. Only looks, so
    that LASTCALL_URL may be a replica here.
    """
    if watch and as_json:
        raise click.UsageError("--watch is for people and --json for scripts: leave one of them out")
    redis = connect(server.settings("set to the server to look at"), replica=True)
    statuses = _look(redis, names, ended_too)
    if watch:
        _watch(redis, names, ended_too)
        return
    live = Registry(redis).seen()
    stored: Any = redis.hgetall(keys.REFUSED)
    refused = show.numbers(stored)
    if as_json:
        click.echo(show.as_json(statuses, live, refused))
        return
    console = Console()
    show.queues(console, statuses)
    for status in statuses:
        for producer in status.producers:
            if producer.state in ("lost", "absent"):
                click.echo(f"{status.name}: producer {producer.name} is {producer.state}")
    show.workers(console, live)
    if not statuses:
        click.echo("no queue" if ended_too else "no queue that has not ended", err=True)
    if not live:
        click.echo("no live worker: start one with: lastcall worker", err=True)
    for node, count in refused.items():
        click.echo(f"{node} refused {count} envelopes: sealed with another key, or changed on the way", err=True)


def _look(redis: Redis, names: Iterable[str], ended_too: bool) -> list[Status]:
    """The queues that are asked for. Raises UnknownJob for one that is named."""
    statuses = []
    for name in names:
        job, queue = split(name)
        found = [queue] if "/" in name else queues_of(redis, job)
        statuses += [Ledger(redis, job, [one]).status() for one in sorted(found)]
    if not names:
        for job, queue in _addresses(redis, ended_too):
            try:
                status = Ledger(redis, job, [queue]).status()
            except LastcallError:  # it expired meanwhile
                continue
            if ended_too or not status.ended:
                statuses.append(status)
    return in_order(statuses, key=lambda job: (min(status.created_ms for status in job), job[0].job))


def _addresses(redis: Redis, ended_too: bool) -> Iterator[tuple[str, str]]:
    if not ended_too:
        open_ones: Any = redis.hkeys(keys.QUEUES)
        yield from (split(address.decode()) for address in open_ones)
        return
    for job in jobs(redis):
        with contextlib.suppress(UnknownJob):  # it expired meanwhile
            yield from ((job, queue) for queue in queues_of(redis, job))


def _watch(redis: Redis, names: tuple[str, ...], ended_too: bool) -> None:
    def look() -> list[Status]:
        return _look(redis, names, ended_too)

    with contextlib.suppress(KeyboardInterrupt), Progress(look, console=Console()):
        while True:
            with contextlib.suppress(RedisError):  # it may be back at the next look
                if names and all(status.ended for status in look()):
                    return
            time.sleep(_LOOK_S)
