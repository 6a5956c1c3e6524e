"""efficiency: items that take 1 ms each, in automatic chunks, against the ideal of two slots that
do nothing else; beside Pool.map."""

import statistics
from collections.abc import Callable

from benchmarks.functions import busy_1ms, sleep_1ms
from benchmarks.harness import LASTCALL, SLOTS, Goal, Row, Stand, Stopwatch, check_sum

ITEMS = 4_000
_ALONE = 200  # items, to see what one takes


def run(stand: Stand) -> list[Row]:
    """1 is ideal. What an item takes is measured in a plain loop: to sleep 1 ms takes 1.06."""
    client, pool = stand.client, stand.pool
    n = stand.size(ITEMS)
    rows = []
    for function, what in ((busy_1ms, "busy for 1 ms"), (sleep_1ms, "asleep for 1 ms")):

        def through(
            mapping: Callable[[Callable[[int], int]], float], function: Callable[[int], int]
        ) -> Callable[[], float]:
            return lambda: n * _alone_s(function) / SLOTS / mapping(function)

        def lastcall(function: Callable[[int], int]) -> float:
            with Stopwatch() as watch:
                check_sum(client.map(function, range(n)), n)
            return watch.seconds

        def pool_map(function: Callable[[int], int]) -> float:
            with Stopwatch() as watch:
                check_sum(pool.map(function, range(n)), n)
            return watch.seconds

        seen = stand.race({LASTCALL: through(lastcall, function), "Pool.map": through(pool_map, function)})
        rows.append(
            Row(
                "efficiency",
                f"items {what}, automatic chunks",
                "of ideal",
                seen[LASTCALL],
                "Pool.map",
                seen["Pool.map"],
                (Goal(0.88, absolute=True),),
            )
        )
    return rows


def _alone_s(function: Callable[[int], int]) -> float:
    times = []
    for i in range(_ALONE):
        with Stopwatch() as watch:
            function(i)
        times.append(watch.seconds)
    return statistics.median(times)
