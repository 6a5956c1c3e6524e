"""map: a no-op over a million ints in automatic chunks; beside multiprocessing.Pool.map."""

from benchmarks.functions import noop
from benchmarks.harness import LASTCALL, Goal, Row, Stand, Stopwatch, check_sum

ITEMS = 1_000_000


def run(stand: Stand) -> list[Row]:
    """Items per second, with the results read."""
    client, pool = stand.client, stand.pool
    n = stand.size(ITEMS)

    def lastcall() -> float:
        with Stopwatch() as watch:
            check_sum(client.map(noop, range(n)), n)
        return n / watch.seconds

    def pool_map() -> float:
        with Stopwatch() as watch:
            check_sum(pool.map(noop, range(n)), n)
        return n / watch.seconds

    seen = stand.race({LASTCALL: lastcall, "Pool.map": pool_map})
    return [
        Row(
            "map",
            f"no-op over {n:,} ints, automatic chunks",
            "items/s",
            seen[LASTCALL],
            "Pool.map",
            seen["Pool.map"],
            (Goal(0.25), Goal(1e6, absolute=True)),
        )
    ]
