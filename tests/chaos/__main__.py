"""python -m tests.chaos: run jobs under faults, print the table; exit code 1 where a promise was broken."""

from __future__ import annotations

import argparse
import random
import signal
import sys
from collections.abc import Sequence

from tests.chaos import report, rival, run
from tests.chaos.storm import CHILD_KILLED, NODE_KILLED, WEIGHTS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="Random jobs under random faults, checked one by one."
    )
    parser.add_argument("--jobs", type=int, default=20, help="how many (20)")
    parser.add_argument("--minutes", type=float, help="begin no job after that; without --jobs' bound")
    parser.add_argument("--seed", type=int, help="of the plan; what meets what is up to the machine")
    parser.add_argument("--rate", type=float, default=run.RATE, help=f"faults a second ({run.RATE:g})")
    parser.add_argument(
        "--fault", action="append", metavar="WORDS", help="only faults with these words in their name; may be repeated"
    )
    parser.add_argument("--celery", action="store_true", help="raw Celery under the same kills as well")
    parser.add_argument("--only-celery", action="store_true", help="raw Celery alone")
    parser.add_argument("--celery-jobs", type=int, metavar="JOBS", help="how many of each of its kinds (as --jobs)")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    parser.add_argument("--quiet", action="store_true", help="no line for each job")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**9)
    count = options.jobs if options.minutes is None else 10**9

    def tell(said: str) -> None:
        if not options.quiet:
            print(said, file=sys.stderr, flush=True)

    kinds = [kind for kind in WEIGHTS if not options.fault or any(words in kind for words in options.fault)]
    if not kinds:
        parser.error(f"--fault: expected words of one of {', '.join(WEIGHTS)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever ends this, workers and servers are ended first
    print(f"seed {seed}", file=sys.stderr, flush=True)
    results = []
    if not options.only_celery:
        results.append(run.run(count, seed, minutes=options.minutes, rate=options.rate, kinds=kinds, tell=tell))
    if options.celery or options.only_celery:
        results += rival.run(options.celery_jobs or options.jobs, seed, rate=_kills(results, options.rate), tell=tell)
    report.show(results)
    if options.json:
        report.write(options.json, results)
    return int(any(result.violations for result in results))


def _kills(results: Sequence[run.Result], rate: float) -> float:
    """Kills of slots' processes and nodes a second: as lastcall had, or would have."""
    for result in results:
        return (result.faults[CHILD_KILLED] + result.faults[NODE_KILLED]) / result.took_s
    return rate * (WEIGHTS[CHILD_KILLED] + WEIGHTS[NODE_KILLED]) / sum(WEIGHTS.values())


if __name__ == "__main__":
    sys.exit(main())
