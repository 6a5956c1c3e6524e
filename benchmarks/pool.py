"""pool: lastcall.Pool, its maps beside Client.map and multiprocessing's, its calls beside those of other queues."""

from collections.abc import Callable

from celery import group

import lastcall
from benchmarks.functions import noop
from benchmarks.harness import LASTCALL, Goal, Row, Stand, Stopwatch, check_sum

ITEMS = 1_000_000
CALLS = 10_000
CELERY_CALLS = 2_000  # rates are compared, and Celery's does not grow with the number


def run(stand: Stand) -> list[Row]:
    """Items and calls per second, with the results read."""
    client, app, task, theirs = stand.client, stand.celery, stand.huey, stand.pool
    noop_task = app.tasks["benchmarks.noop"]
    n, calls, celery_calls = stand.size(ITEMS), stand.size(CALLS), stand.size(CELERY_CALLS)

    def rate(of: int, results: Callable[[], object]) -> Callable[[], float]:
        def contender() -> float:
            with Stopwatch() as watch:
                check_sum(results(), of)  # type: ignore[arg-type]
            return of / watch.seconds

        return contender

    def gathered(pool: object) -> list[int]:
        results = [pool.apply_async(noop, (i,)) for i in range(calls)]  # type: ignore[attr-defined]
        return [result.get() for result in results]

    def celery() -> list[int]:
        result = group(noop_task.s(i) for i in range(celery_calls)).apply_async()
        values = result.get()
        result.forget()
        return values

    def huey() -> list[int]:
        results = [task(i) for i in range(calls)]
        return [result.get(blocking=True, backoff=1.0, max_delay=0.01) for result in results]

    with lastcall.Pool(client=client) as pool:
        maps = stand.race(
            {
                LASTCALL: rate(n, lambda: pool.map(noop, range(n))),
                "Client.map": rate(n, lambda: list(client.map(noop, range(n)))),
                "multiprocessing": rate(n, lambda: theirs.map(noop, range(n))),
            }
        )
        seen = stand.race(
            {
                LASTCALL: rate(calls, lambda: gathered(pool)),
                "Celery": rate(celery_calls, celery),
                "huey": rate(calls, huey),
                "multiprocessing": rate(calls, lambda: gathered(theirs)),
            }
        )
    map_of, calls_of = f"Pool.map: no-op over {n:,} ints", f"{calls:,} Pool.apply_async, gathered"
    return [
        Row("pool", map_of, "items/s", maps[LASTCALL], "Client.map", maps["Client.map"], (Goal(0.9),)),
        Row("pool", map_of, "items/s", maps[LASTCALL], "Pool.map", maps["multiprocessing"]),
        Row("pool", calls_of, "/s", seen[LASTCALL], "Celery group", seen["Celery"], (Goal(12),)),
        Row("pool", calls_of, "/s", seen[LASTCALL], "huey", seen["huey"], (Goal(3),)),
        Row("pool", calls_of, "/s", seen[LASTCALL], "Pool.apply_async", seen["multiprocessing"]),
    ]
