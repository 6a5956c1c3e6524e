"""lastcall status: the queues that have not ended, the workers, and what was refused."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from lastcall.cli import server, show
from lastcall.connect import connect
from lastcall.errors import LastcallError
from lastcall.registry import Registry
from lastcall.state import keys
from lastcall.state.ledger import Ledger, queues_of, split


@click.command()
@click.argument("names", nargs=-1, metavar="[QUEUE|JOB|JOB/QUEUE]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(names: tuple[str, ...], as_json: bool) -> None:
    """Show queues, producers' leases and workers.

    Without arguments: every queue that has not ended. A job's name shows all its queues, ended ones too.
    """
    redis = connect(server.settings("set to the server to look at"))
    statuses = []
    if names:
        for name in names:
            job, queue = split(name)
            found = [queue] if "/" in name else queues_of(redis, job)
            statuses += [Ledger(redis, job, [one]).status() for one in sorted(found)]
    else:
        addresses: Any = redis.hkeys(keys.QUEUES)
        for address in addresses:
            job, queue = split(address.decode())
            try:
                status = Ledger(redis, job, [queue]).status()
            except LastcallError:  # it expired meanwhile
                continue
            if not status.ended:
                statuses.append(status)
    statuses.sort(key=lambda status: (status.created_ms, status.job, status.name))
    live = Registry(redis).live()
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
        click.echo("no queue that has not ended" if not names else "no such queue", err=True)
    if not live:
        click.echo("no live worker: start one with: lastcall worker", err=True)
    for node, count in refused.items():
        click.echo(f"{node} refused {count} envelopes: sealed with another key, or changed on the way", err=True)
