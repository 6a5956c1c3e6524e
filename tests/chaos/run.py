"""A run: jobs that overlap, under a storm, on one stand; and what came of it."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.chaos import jobs, recovery
from tests.chaos.checks import Outcome
from tests.chaos.jobs import HANG_S, Job
from tests.chaos.parts import connect, steady
from tests.chaos.recovery import Recovery
from tests.chaos.stand import Stand
from tests.chaos.storm import WEIGHTS, Storm

OVERLAP = 4  # jobs at the same time
RATE = 2.0  # faults a second


@dataclass
class Result:
    """What came of a run. again: runs of items beyond the first, which at-least-once allows; reported: items that came
    back as an error because a process died, not silently; complaints: violations that belong to no job.
    """

    name: str
    seed: int
    said: str = ""  # how it was set up
    jobs: int = 0
    items: int = 0
    lost: int = 0
    doubled: int = 0
    again: int = 0
    reported: int = 0
    hung: int = 0
    took_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    recovery: dict[str, Recovery] = field(default_factory=dict)
    ends_ms: list[float] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def count(self, outcome: Outcome) -> None:
        self.jobs += 1
        self.items += outcome.items
        self.kinds[outcome.kind] += 1
        self.lost += outcome.lost
        self.doubled += outcome.doubled
        self.reported += outcome.given_up
        self.hung += outcome.hung
        self.ends_ms += outcome.ends_ms
        self.notes.update(outcome.notes)
        self.violations += [f"{outcome.job} ({outcome.kind}): {wrong}" for wrong in outcome.wrong]


def run(
    count: int, seed: int, *, minutes: float | None = None, rate: float = RATE, kinds: Iterable[str] = WEIGHTS,
    tell: Callable[[str], None] = lambda said: None,
) -> Result:  # fmt: skip
    """Run `count` jobs, or as many as begin within the minutes."""
    rng = random.Random(seed)
    result = Result("lastcall", seed)
    running: list[Job] = []
    numbers = itertools.count(1)
    lock = threading.Lock()
    began = time.monotonic()
    with Stand() as stand, connect(stand.settings) as client:
        storm = Storm(stand, random.Random(rng.random()), lambda: list[Any](running), rate=rate, kinds=kinds)

        def work() -> None:
            while True:
                with lock:
                    number = next(numbers)
                    if number > count or (minutes is not None and time.monotonic() - began > minutes * 60):
                        return
                    job = jobs.choose(stand, client, rng, number)
                    running.append(job)
                outcome = job.run(storm)
                with lock:
                    running.remove(job)
                    result.count(outcome)
                    said = f"{outcome.job}: {outcome.items} items, {outcome.took_s:.1f} s; {result.jobs} jobs"
                    all_s = time.monotonic() - began
                    tell(f"{'BAD ' if outcome.bad else ''}{said}, {len(storm.faults)} faults, {all_s:.0f} s")
                    if outcome.bad:
                        for wrong in outcome.wrong:
                            tell(f"    {wrong}")
                    if outcome.hung:
                        tell(stand.tails())

        with storm:
            threads = [threading.Thread(target=work, name=f"chaos-{n}", daemon=True) for n in range(OVERLAP)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        _nothing_open(client, result)
        result.took_s = time.monotonic() - began
        runs = recovery.Runs.read(stand.runs)
        result.again = runs.again
        result.recovery = recovery.measure(runs, storm)
        result.faults = storm.counts
    result.violations += stand.complaints
    return result


def _nothing_open(client: Any, result: Result) -> None:
    """Every queue ends, also those of clients that were killed before they could say its name."""
    deadline = time.monotonic() + HANG_S
    while still := steady(client.status):
        if time.monotonic() > deadline:
            result.hung += len(still)
            result.violations.append(f"{len(still)} queues have not ended: {still}")
            return
        time.sleep(0.2)  # a subscription would be cut by what the storm left
