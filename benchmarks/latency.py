"""latency: from a call to its answer, one at a time; beside Celery's delay().get()."""

from collections.abc import Callable

from benchmarks.functions import noop
from benchmarks.harness import LASTCALL, Goal, Row, Sample, Stand, Stopwatch, percentile

CALLS = 1_000
CELERY_CALLS = 300


def run(stand: Stand) -> list[Row]:
    """Milliseconds, of a pool that is warm: the answer before has just come."""
    client, app, pool = stand.client, stand.celery, stand.pool
    task = app.tasks["benchmarks.noop"]
    tails: dict[str, list[float]] = {"lastcall": [], "Celery": [], "Pool": []}

    def timed(name: str, calls: int, call: Callable[[int], object]) -> Callable[[], float]:
        def contender() -> float:
            times = []
            for i in range(calls):
                with Stopwatch() as watch:
                    call(i)
                times.append(watch.seconds * 1000)
            tails[name].append(percentile(times, 0.99))
            return percentile(times, 0.5)

        return contender

    seen = stand.race(
        {
            LASTCALL: timed("lastcall", stand.size(CALLS), lambda i: client.submit(noop, i).result()),
            "Celery": timed("Celery", stand.size(CELERY_CALLS), lambda i: task.delay(i).get()),
            "Pool": timed("Pool", stand.size(CALLS), lambda i: pool.apply(noop, (i,))),
        }
    )
    # The first of them is the warm-up's.
    tail = {name: Sample(tuple(values[1:])) for name, values in tails.items()}
    return [
        Row(
            "latency",
            "call to answer, p50",
            "ms",
            seen[LASTCALL],
            "Celery delay().get()",
            seen["Celery"],
            (Goal(1 / 3, at_least=False),),
        ),
        Row(
            "latency",
            "call to answer, p99",
            "ms",
            tail["lastcall"],
            "Celery delay().get()",
            tail["Celery"],
        ),
        Row("latency", "call to answer, p50", "ms", seen[LASTCALL], "Pool.apply", seen["Pool"]),
    ]
