"""lastcall dead: the items that were given up on, to be looked at, run again, or forgotten."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from reprlib import Repr
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from lastcall.cli import server
from lastcall.client import Client
from lastcall.errors import BadEnvelope, ConfigError, UnknownJob
from lastcall.letters import DeadLetter
from lastcall.queue import StatusableQueue, attach
from lastcall.state.ledger import queues_of
from lastcall.state.records import address, split

_repr = Repr()
_repr.maxstring = _repr.maxother = 60


@click.group()
def command() -> None:
    """Dead letters: items whose function raised, took too long, or killed its process, after all their tries.

    QUEUE is a queue's name, or JOB/QUEUE.
    """


@command.command("list")
@click.argument("queue")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(queue: str, as_json: bool) -> None:
    """Show a queue's dead letters, one a row."""
    with _queue(queue) as found:
        console = Console()
        table = Table("item", "attempts", "error", "worker", "value")
        items = found.dead_items()
        for item in items:
            letter = _read(found, item)
            if as_json:
                click.echo(json.dumps(_plain(letter)))
            elif console.is_terminal:
                table.add_row(
                    letter.item, str(letter.attempts), _short_error(letter), letter.worker or "-",
                    _repr.repr(letter.value),
                )  # fmt: skip
            else:
                value = _repr.repr(letter.value)
                click.echo(f"{letter.item} attempts={letter.attempts} value={value} {_short_error(letter)}")
        if table.row_count:
            console.print(table)
        if not items:
            dropped = found.status().dead
            click.echo(f"no dead letters{f', {dropped} were dropped' if dropped else ''}", err=True)


@command.command()
@click.argument("queue")
@click.argument("item")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(queue: str, item: str, as_json: bool) -> None:
    """Show one dead letter whole: its value, its error with the traceback, where and how often it was tried."""
    with _queue(queue) as found:
        letter = _read(found, item)
    if as_json:
        click.echo(json.dumps(_plain(letter)))
        return
    click.echo(f"item      {letter.item}")
    click.echo(f"value     {letter.value!r}")
    click.echo(f"attempts  {letter.attempts}")
    click.echo(f"worker    {letter.worker or 'not known'}")
    cause = letter.error.__cause__
    click.echo(str(cause).strip() if cause is not None else f"{type(letter.error).__name__}: {letter.error}")


@command.command()
@click.argument("queue")
@click.argument("items", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of the queue's dead letters.")
def retry(queue: str, items: tuple[str, ...], everything: bool) -> None:
    """Run dead letters again, with all their retries. A queue that has ended goes on until they are through."""
    _check(items, everything)
    with _queue(queue) as found:
        click.echo(f"{found.retry_dead(*items)} retried")


@command.command()
@click.argument("queue")
@click.argument("items", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of the queue's dead letters.")
def drop(queue: str, items: tuple[str, ...], everything: bool) -> None:
    """Forget dead letters. They still count as dead."""
    _check(items, everything)
    with _queue(queue) as found:
        click.echo(f"{found.drop_dead(*items)} dropped")


@contextlib.contextmanager
def _queue(name: str) -> Iterator[StatusableQueue[Any]]:
    server.settings("set to the server of the queue")
    with Client() as client:
        job, queue = split(name)
        if "/" not in name:
            # A job that has but one queue, such as a map, is meant by its own name.
            with contextlib.suppress(UnknownJob):
                names = queues_of(client._connection.redis, job)
                if len(names) > 1 and queue not in names:
                    raise ConfigError("QUEUE", "a queue's name", f"{name}, a job of several queues",
                                      f"name one: {', '.join(address(job, one) for one in sorted(names))}")  # fmt: skip
                queue = queue if queue in names else names[0]
        yield attach(client.settings, address(job, queue))


def _check(items: tuple[str, ...], everything: bool) -> None:
    if bool(items) == everything:
        raise click.UsageError("Name the items, or give --all" + (", not both." if items else "."))


def _read(queue: StatusableQueue[Any], item: str) -> DeadLetter:
    """A letter, or one that says why it cannot be read here."""
    try:
        return queue.dead_letter(item)
    except BadEnvelope as error:
        return DeadLetter(item, "(not readable here)", error, 0, "")


def _plain(letter: DeadLetter) -> dict[str, Any]:
    return {
        "item": letter.item,
        "value": repr(letter.value),
        "attempts": letter.attempts,
        "worker": letter.worker,
        "error": f"{type(letter.error).__name__}: {letter.error}",
        "traceback": str(letter.error.__cause__ or ""),
    }


def _short_error(letter: DeadLetter) -> str:
    first, *_ = str(letter.error).splitlines() or [""]
    return f"{type(letter.error).__name__}: {first}"
