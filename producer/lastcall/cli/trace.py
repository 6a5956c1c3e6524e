"""lastcall trace: an item's way through its job's queues."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from reprlib import Repr
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lastcall.cli import server
from lastcall.client import Client
from lastcall.trace import NOT_KEPT, Step, Trace, trace

_MOST_STEPS: Final = 10  # of a queue that are shown
_MOST_RESULTS: Final = 20
_STYLES: Final = {"done": "green", "failed": "red", "dead": "red", "retried": "yellow", "returned": "magenta"}
_repr = Repr()
_repr.maxstring = _repr.maxother = 80


@click.command()
@click.argument("job")
@click.argument("item")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--all", "-a", "whole", is_flag=True, help=f"More than {_MOST_STEPS} steps of a stage, too.")
def command(job: str, item: str, as_json: bool, whole: bool) -> None:
    """Show what happened to an item, from its first arguments on.

    ITEM is its number in the input, from 0, or its id in a queue, such as 1-17#3 or parse:1-17#3.
    """
    server.settings("set to the server of the job")
    with Client() as client:
        found = trace(client._connection, job, item)
    if as_json:
        click.echo(json.dumps(_plain(found)))
        return
    console = Console(highlight=False)
    shown = list(found.steps if whole else _first(found))
    if console.is_terminal:
        _show(console, found, item, shown)
    else:
        for step in shown:
            click.echo(_line(step))
    hidden = Counter(step.event.queue for step in found.steps) - Counter(step.event.queue for step in shown)
    for queue, number in hidden.items():
        click.echo(f"and {number} more in {queue}: --all")
    if found.results:
        more = len(found.results) - _MOST_RESULTS
        shown_results = found.results if whole else found.results[:_MOST_RESULTS]
        click.echo(
            f"gave {', '.join(map(_repr.repr, shown_results))}" + (f" and {more} more" * (more > 0 and not whole))
        )


def _first(found: Trace) -> Iterator[Step]:
    seen: Counter[str] = Counter()
    for step in found.steps:
        seen[step.event.queue] += 1
        if seen[step.event.queue] <= _MOST_STEPS:
            yield step


def _show(console: Console, found: Trace, item: str, steps: list[Step]) -> None:
    """What came into each stage, and what became of it; below, the traceback of the failure that was the last."""
    named = item if found.source is None else str(found.source)
    console.print(Text.assemble(("item ", "dim"), (named, "bold"), (" of ", "dim"), (found.job, "bold")))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("stage", "came in", "what became of it", "took", "waited", "where"):
        table.add_column(name, header_style="dim", overflow="fold", min_width=len(name),
                         justify="right" if name in ("took", "waited") else "left")  # fmt: skip
    before = ""
    for step in steps:
        event = step.event
        value = Text("not kept", "dim") if step.value is NOT_KEPT else Text(_repr.repr(step.value))
        table.add_row(
            Text("" if event.queue == before else event.queue, "bold"), value, _fate(step), _ran(step).strip("-"),
            _ms(step.waited_s).strip("-"), Text(f"{event.worker} {event.slot}".strip(), "dim"),
        )  # fmt: skip
        before = event.queue
    console.print(table)
    failures = [step.event for step in found.steps if step.event.traceback]
    if failures:
        last = max(failures, key=lambda event: event.at_ms)
        console.print(Text(f"\n{last.queue}, attempt {last.attempt}:", "dim"))
        console.print(Text(last.traceback.rstrip()))
        console.print(Text(f"again, here: lastcall replay {found.job} {item} --pdb", "dim"))


def _fate(step: Step) -> Text:
    event = step.event
    what = {"failed": "failed: ", "dead": "given up: ", "retried": "to be tried again: ", "returned": "came back: "}
    said = event.error or event.said
    text = Text(f"{what.get(event.kind, event.kind)}{said}", _STYLES.get(event.kind, ""))
    if event.attempt > 1:
        text.append(f", attempt {event.attempt}", "yellow")
    return text


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
    if duration_s is None:
        return "-"
    if duration_s < 1e-3:
        return f"{1e6 * duration_s:.0f} µs"
    return f"{1e3 * duration_s:.1f} ms" if duration_s < 1 else f"{duration_s:.1f} s"


def _plain(found: Trace) -> dict[str, Any]:
    steps = [
        {
            "queue": step.event.queue, "item": step.item, "kind": step.event.kind, "attempt": step.event.attempt,
            "at_ms": step.event.at_ms, "waited_s": step.waited_s, "runtime_s": step.event.runtime_s,
            "items": step.event.items, "worker": step.event.worker, "slot": step.event.slot,
            "value": repr(step.value), "kept": step.value is not NOT_KEPT, "error": step.event.error,
            "traceback": step.event.traceback, "said": step.event.said,
        }
        for step in found.steps
    ]  # fmt: skip
    return {"job": found.job, "item": found.source, "steps": steps, "results": [repr(one) for one in found.results]}
