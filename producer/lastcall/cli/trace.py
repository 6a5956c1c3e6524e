"""lastcall trace: an item's way through its job's queues."""

from __future__ import annotations

import json
from reprlib import Repr
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from lastcall.cli import server
from lastcall.client import Client
from lastcall.trace import Step, Trace, trace

_repr = Repr()
_repr.maxstring = _repr.maxother = 80


@click.command()
@click.argument("job")
@click.argument("item")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(job: str, item: str, as_json: bool) -> None:
    """Show what happened to an item, from its first arguments on.

    ITEM is its number in the input, from 0, or its id in a queue, such as 1-17#3 or parse:1-17#3.
    """
    server.settings("set to the server of the job")
    with Client() as client:
        found = trace(client._connection, job, item)
    if as_json:
        click.echo(json.dumps(_plain(found)))
        return
    console = Console()
    if console.is_terminal:
        console.print(_table(found))
    else:
        for step in found.steps:
            click.echo(_line(step))
    if found.results:
        click.echo(f"gave {', '.join(_repr.repr(result) for result in found.results)}")


def _table(found: Trace) -> Table:
    title = f"item {'' if found.source is None else found.source} of {found.job}"
    table = Table("queue", "item", "what", "attempt", "waited", "ran", "where", "value", "error",
                  title=title, title_justify="left")  # fmt: skip
    for step in found.steps:
        event = step.event
        table.add_row(
            event.queue, step.item, event.kind, str(event.attempt or ""), _ms(step.waited_s), _ran(step),
            f"{event.worker} {event.slot}".strip(), _repr.repr(step.value), event.error or event.said,
        )  # fmt: skip
    return table


def _line(step: Step) -> str:
    event = step.event
    parts = [
        event.queue, step.item, event.kind, f"attempt={event.attempt}", f"waited={_ms(step.waited_s)}",
        f"ran={_ran(step)}", f"where={event.worker} {event.slot}".strip(), f"value={_repr.repr(step.value)}",
    ]  # fmt: skip
    return " ".join([*parts, event.error or event.said]).strip()


def _ran(step: Step) -> str:
    ran = _ms(step.event.runtime_s or None)
    return f"{ran} (of {step.event.items} items)" if step.event.items > 1 else ran


def _ms(duration_s: float | None) -> str:
    return "-" if duration_s is None else f"{1000 * duration_s:.1f} ms"


def _plain(found: Trace) -> dict[str, Any]:
    steps = [
        {
            "queue": step.event.queue, "item": step.item, "kind": step.event.kind, "attempt": step.event.attempt,
            "at_ms": step.event.at_ms, "waited_s": step.waited_s, "runtime_s": step.event.runtime_s,
            "items": step.event.items, "worker": step.event.worker, "slot": step.event.slot,
            "value": repr(step.value), "error": step.event.error, "traceback": step.event.traceback,
            "said": step.event.said,
        }
        for step in found.steps
    ]  # fmt: skip
    return {"job": found.job, "item": found.source, "steps": steps, "results": [repr(one) for one in found.results]}
