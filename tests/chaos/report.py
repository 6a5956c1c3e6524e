"""The table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.run import Result
from tests.chaos.stand import LEASE_S
from tests.chaos.storm import CHILD_KILLED, NODE_KILLED

_WIDTH = 150  # in a pipe


def show(results: Sequence[Result]) -> None:
    """Print what came of the runs."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    table = Table(title="What came of it")
    for head in ("", "jobs", "items", "faults", "lost", "doubled", "run again", "reported", "hung", "time"):
        table.add_column(head, justify="left" if not head else "right")
    for result in results:
        table.add_row(
            result.name, f"{result.jobs:,}", f"{result.items:,}", f"{result.faults.total():,}", f"{result.lost:,}",
            f"{result.doubled:,}", f"{result.again:,}", f"{result.reported:,}", f"{result.hung:,}",
            f"{result.took_s:.0f} s",
        )  # fmt: skip
    console.print(table)
    console.print(
        "lost: items whose result never came; doubled: results that came twice (lastcall), tasks that ran more "
        "than once (Celery);\nrun again: runs beyond an item's first; reported: items that came back as an error since "
        "processes died with them; hung: waits that did not end."
    )
    kinds = Table(title="Faults by kind")
    kinds.add_column("fault")
    for result in results:
        kinds.add_column(result.name, justify="right")
    for kind in sorted({kind for result in results for kind in result.faults}):
        kinds.add_row(kind, *(f"{result.faults[kind]:,}" for result in results))
    console.print(kinds)
    for result in results:
        if result.recovery:
            console.print(_times(result))
        if result.kinds:
            console.print("jobs: " + ", ".join(f"{count} {kind}" for kind, count in sorted(result.kinds.items())))
        for note, count in result.notes.items():
            console.print(f"note, {count} x: {note}", markup=False)
        if result.said:
            console.print(f"{result.name}: {result.said}", markup=False)
    console.print(", ".join(f"{name} {value}" for name, value in machine().items()))
    for result in results:
        for violation in result.violations:
            console.print(f"VIOLATION (seed {result.seed}): {violation}", markup=False)
    console.print("seeds: " + ", ".join(sorted({str(result.seed) for result in results})))


def write(path: str, results: Sequence[Result]) -> None:
    """All numbers, and every time that was measured."""
    report = {"machine": machine(), "runs": [_plain(result) for result in results]}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
        file.write("\n")


def machine() -> dict[str, Any]:
    """What it was seen on."""
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("celery", "kombu", "redis")},
    }


def _measured(result: Result) -> list[tuple[str, str, list[float], str]]:
    rows = []
    for kind, goal in ((CHILD_KILLED, "1 s"), (NODE_KILLED, f"the lease, {LEASE_S:g} s")):
        found = result.recovery[kind]
        rows.append((f"{kind}, alone: until its item runs again", goal, found.alone_s, "s"))
        rows.append((f"{kind}, amid other faults: the same", "", found.all_s, "s"))
    rows.append(("queue ended: until a waiting consumer has ended", "p50 20 ms", result.ends_ms, "ms"))
    return rows


def _times(result: Result) -> Table:
    table = Table(title="Recovery")
    for head in ("from", "goal", "n", "p50", "max"):
        table.add_column(head, justify="left" if head in ("from", "goal") else "right")
    for what, goal, times, unit in _measured(result):
        if times:
            table.add_row(what, goal, str(len(times)), _time(statistics.median(times), unit), _time(max(times), unit))
        else:
            table.add_row(what, goal, "0", "-", "-")
    return table


def _time(value: float, unit: str) -> str:
    return f"{value:.2f} {unit}" if unit == "s" else f"{value:.1f} {unit}"


def _plain(result: Result) -> dict[str, Any]:
    fields = dict(vars(result))
    fields["recovery"] = {kind: vars(found) for kind, found in result.recovery.items()}
    return fields
