"""What several commands print: queues as a table on a terminal, as plain lines in a pipe, as JSON for scripts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from lastcall.registry import WorkerInfo
from lastcall.state.records import Status, shown

_COLUMNS = ("ready", "leased", "delayed", "done", "dead", "cancelled", "put")
_STYLES = {"DRAINED": "green", "INCOMPLETE": "red", "CANCELLED": "yellow", "OPEN": "cyan"}


def as_json(statuses: Sequence[Status], workers: Sequence[WorkerInfo], refused: dict[str, int]) -> str:
    """Everything that is known, for a script."""
    return json.dumps(
        {
            "queues": [
                {**dataclasses.asdict(status), "address": shown(status.job, status.name)} for status in statuses
            ],
            "workers": [dataclasses.asdict(worker) for worker in workers],
            "refused_envelopes": refused,
        }
    )


def queues(console: Console, statuses: Sequence[Status]) -> None:
    """Queues, one a row."""
    if not console.is_terminal:
        for status in statuses:
            counts = " ".join(f"{name}={getattr(status, name)}" for name in _COLUMNS)
            click.echo(f"{shown(status.job, status.name)} {status.state} producers={status.live} {counts}")
        return
    table = Table("queue", "state", "producers", *_COLUMNS, "workers", "function")
    for column in table.columns[2:-2]:
        column.justify = "right"
    for status in statuses:
        table.add_row(
            shown(status.job, status.name), f"[{_STYLES.get(status.state, 'default')}]{status.state}",
            str(status.live), *(f"{getattr(status, name):,}" for name in _COLUMNS),
            status.workers or "consumers", status.function or "-",
        )  # fmt: skip
    console.print(table)


def workers(console: Console, live: Sequence[WorkerInfo]) -> None:
    """Worker nodes, one a row."""
    if not console.is_terminal:
        for worker in live:
            click.echo(f"worker {worker.node} {worker.pool} slots={worker.slots} queues={','.join(worker.queues)}")
        return
    table = Table("worker", "pool", "slots", "queues")
    for worker in live:
        table.add_row(worker.node, worker.pool, str(worker.slots), ", ".join(worker.queues))
    console.print(table)


def numbers(stored: dict[Any, Any]) -> dict[str, int]:
    """A stored hash of counters."""
    return {name.decode(): int(value) for name, value in stored.items()}
