"""flows: three stages of one-line functions in each mode, beside Celery's chord of chunk chains; what a stage of 1 ms
an item leaves of the ideal; and a client's memory while a flow's input has no end."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks.functions import busy_1ms, noop
from benchmarks.harness import LASTCALL, SLOTS, Goal, Row, Sample, Stand, Stopwatch, check_sum
from lastcall import Flow, FlowJob

SIZES = (10_000, 1_000_000)
GOALS = {"auto": 400_000, "streaming": 100_000}  # items/s
MODES = ("auto", "streaming", "horizontal", "vertical")
MS_ITEMS = 4_000
ENDLESS = 2_000_000  # results that are read of an endless input
_A_ROUND = 100_000  # items at least: of shorter jobs a round has several, one after the other
_CHUNK = 1_000  # items of a Celery task
_MOST_CELERY = 50_000  # items of a chord, whose rate does not grow with their number
_ALONE = 200


def plus_one(n: int) -> int:
    """The one-line functions."""
    return n + 1


def minus_one(n: int) -> int:
    """..."""
    return n - 1


FLOW = Flow(plus_one) | noop | minus_one


def run(stand: Stand) -> list[Row]:
    """Items per second, with the results read; the share of the ideal; megabytes."""
    return [*_modes(stand), _efficiency(stand), _memory(stand)]


def _modes(stand: Stand) -> list[Row]:
    client, rows = stand.client, []
    for size in SIZES:
        n = stand.size(size)

        def through(mode: str, n: int) -> Callable[[], float]:
            return _rate(n, lambda: check_sum(client.run(FLOW, range(n), mode=mode).results(), n))

        seen = stand.race({mode: through(mode, n) for mode in MODES} | {"Celery": _chord(stand, min(n, _MOST_CELERY))})
        for mode in MODES:
            goals = (Goal(GOALS[mode], absolute=True),) if mode in GOALS else ()
            what = f"three one-line stages over {n:,} ints, {mode}"
            rows.append(Row("flows", what, "items/s", seen[mode], "chord of chunk chains", seen["Celery"], goals))
    return rows


def _chord(stand: Stand, n: int) -> Callable[[], float]:
    """Celery's own way: a chain of three tasks for each chunk, and a chord that adds up what they give."""
    app = stand.celery
    step, total = app.tasks["benchmarks.step"], app.tasks["benchmarks.total"]

    chunks = [list(range(at, min(at + _CHUNK, n))) for at in range(0, n, _CHUNK)]

    def job() -> None:
        from celery import chain, chord

        parts = [chain(step.s(chunk, 1), step.s(0), step.s(-1)) for chunk in chunks]
        got: Any = chord(parts)(total.s()).get(timeout=600)
        assert got == n * (n - 1) // 2

    return _rate(n, job)


def _rate(n: int, job: Callable[[], None]) -> Callable[[], float]:
    """What measures items per second, of jobs of so many."""

    def rate() -> float:
        jobs = max(1, _A_ROUND // n)
        with Stopwatch() as watch:
            for _ in range(jobs):
                job()
        return jobs * n / watch.seconds

    return rate


def _efficiency(stand: Stand) -> Row:
    client, n = stand.client, stand.size(MS_ITEMS)
    flow = Flow(plus_one) | busy_1ms | minus_one

    def through(mode: str) -> Callable[[], float]:
        def share() -> float:
            alone = []
            for i in range(_ALONE):
                with Stopwatch() as watch:
                    busy_1ms(i)
                alone.append(watch.seconds)
            with Stopwatch() as watch:
                check_sum(client.run(flow, range(n), mode=mode).results(), n)
            return n * statistics.median(alone) / SLOTS / watch.seconds

        return share

    seen = stand.race({LASTCALL: through("auto"), "streaming": through("streaming")})
    return Row(
        "flows", "a stage of 1 ms between two of none, auto", "of ideal", seen[LASTCALL],
        "streaming", seen["streaming"], (Goal(0.88, absolute=True),),
    )  # fmt: skip


def _memory(stand: Stand) -> Row:
    """How this process has grown from a tenth of the results to the last: an endless input, streamed."""
    process, n = psutil.Process(), stand.size(ENDLESS)
    first = largest = 0
    with stand.client.run(FLOW, itertools.count(), mode="streaming") as job:
        assert isinstance(job, FlowJob)
        for at, _ in enumerate(itertools.islice(job.results(), n), 1):
            if at % (n // 100) == 0:
                largest = max(largest, process.memory_info().rss)
                if at <= n // 10:
                    first = largest
    return Row(
        "flows", f"client's largest RSS, {n:,} results of an endless input", "MB", Sample((largest / 1e6,)),
        f"after {n // 10:,}", Sample((first / 1e6,)), (Goal(1.1, at_least=False),),
    )  # fmt: skip
