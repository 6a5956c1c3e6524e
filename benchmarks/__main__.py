"""python -m benchmarks: run them all, or those named with --only, and print a table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from benchmarks import (
    aside,
    backlog,
    calls,
    chunks,
    efficiency,
    events,
    flows,
    history,
    joblib,
    latency,
    map,
    memory,
    pool,
    report,
)
from benchmarks.harness import Row, Stand

BENCHMARKS: dict[str, Callable[[Stand], list[Row]]] = {
    "calls": calls.run,
    "map": map.run,
    "pool": pool.run,
    "latency": latency.run,
    "efficiency": efficiency.run,
    "memory": memory.run,
    "backlog": backlog.run,
    "chunks": chunks.run,
    "events": events.run,
    "joblib": joblib.run,
    "aside": aside.run,
    "flows": flows.run,
    "history": history.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for. 0, or 1 with --check where a goal was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="lastcall beside raw Celery, huey and multiprocessing.Pool, two slots each.",
    )
    parser.add_argument(
        "--only", action="append", choices=BENCHMARKS, metavar="NAME",
        help=f"one of {', '.join(BENCHMARKS)}; may be given several times",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: rough numbers")
    parser.add_argument("--json", metavar="FILE", help="write every round's values there")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    with Stand(quick=options.quick) as stand:
        for name in options.only or BENCHMARKS:
            rows += BENCHMARKS[name](stand)
    report.show(rows)
    if options.json:
        report.write(options.json, rows)
    return int(options.check and any(row.ok is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
