"""calls: single no-op calls, all sent and all answers gathered; beside Celery's group()."""

from celery import group

from benchmarks.functions import noop
from benchmarks.harness import LASTCALL, Goal, Row, Stand, Stopwatch, check_sum

CALLS = 10_000
CELERY_CALLS = 2_000  # rates are compared, and Celery's does not grow with the number


def run(stand: Stand) -> list[Row]:
    """Calls per second, from the first one sent to the last answer."""
    client, app = stand.client, stand.celery
    task = app.tasks["benchmarks.noop"]
    n, celery_n = stand.size(CALLS), stand.size(CELERY_CALLS)

    def lastcall() -> float:
        with Stopwatch() as watch:
            futures = [client.submit(noop, i) for i in range(n)]
            check_sum((future.result() for future in futures), n)
        return n / watch.seconds

    def celery() -> float:
        with Stopwatch() as watch:
            result = group(task.s(i) for i in range(celery_n)).apply_async()
            check_sum(result.get(), celery_n)
        result.forget()
        return celery_n / watch.seconds

    seen = stand.race({LASTCALL: lastcall, "Celery group": celery})
    return [
        Row(
            "calls",
            "single no-op calls, gathered",
            "/s",
            seen[LASTCALL],
            "Celery group",
            seen["Celery group"],
            (Goal(12),),
        )
    ]
