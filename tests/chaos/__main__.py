"""python -m tests.chaos: run jobs under faults, print the table; exit code 1 where a promise was broken."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from tests.chaos import report, rival, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="Random jobs under random faults, checked one by one."
    )
    parser.add_argument("--jobs", type=int, default=20, help="how many (20)")
    parser.add_argument("--minutes", type=float, help="begin no job after that; without --jobs' bound")
    parser.add_argument("--seed", type=int, help="of the plan; what meets what is up to the machine")
    parser.add_argument("--rate", type=float, default=run.RATE, help=f"faults a second ({run.RATE:g})")
    parser.add_argument("--celery", action="store_true", help="raw Celery under the same kills as well")
    parser.add_argument("--only-celery", action="store_true", help="raw Celery alone")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    parser.add_argument("--quiet", action="store_true", help="no line for each job")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**9)
    count = options.jobs if options.minutes is None else 10**9

    def tell(said: str) -> None:
        if not options.quiet:
            print(said, file=sys.stderr, flush=True)

    print(f"seed {seed}", file=sys.stderr, flush=True)
    results = []
    if not options.only_celery:
        results.append(run.run(count, seed, minutes=options.minutes, rate=options.rate, tell=tell))
    if options.celery or options.only_celery:
        results += rival.run(options.jobs, seed, rate=options.rate, tell=tell)
    report.show(results)
    if options.json:
        report.write(options.json, results)
    return int(any(result.violations for result in results))


if __name__ == "__main__":
    sys.exit(main())
