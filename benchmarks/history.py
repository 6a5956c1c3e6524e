"""history: what it costs that all that happens to items is recorded; beside the same work where failures alone are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.functions import busy_1ms, noop
from benchmarks.harness import LASTCALL, Goal, Row, Stand, Stopwatch, check_sum
from lastcall import Flow

MS_ITEMS = 3_000
SHORT_ITEMS = 200_000
SINGLE_ITEMS = 3_000
_GOAL = Goal(0.9)


def run(stand: Stand) -> list[Row]:
    """Items per second, with the results read: items of 1 ms, of none, and of none that each are a chunk."""
    flow, short = Flow(busy_1ms) | noop, Flow(noop) | noop
    return [
        _beside(stand, "two stages streaming, items of 1 ms, all recorded", stand.size(MS_ITEMS), flow, (_GOAL,)),
        _beside(stand, "two stages streaming, no-op items, all recorded", stand.size(SHORT_ITEMS), short, ()),
        _singles(stand, stand.size(SINGLE_ITEMS)),
    ]


def _beside(stand: Stand, what: str, n: int, flow: Flow, goals: tuple[Goal, ...]) -> Row:
    def through(record: str) -> Callable[[], float]:
        def rate() -> float:
            with Stopwatch() as watch:
                check_sum(stand.client.run(flow, range(n), mode="streaming", record=record).results(), n)
            return n / watch.seconds

        return rate

    return _row(stand, what, through, goals)


def _singles(stand: Stand, n: int) -> Row:
    """The most that there is to be recorded for an item: each is put and completed alone."""
    client = stand.client
    numbers = iter(range(1_000_000))

    def through(record: str) -> Callable[[], float]:
        def rate() -> float:
            queue: Any = client.queue(f"singles-{next(numbers)}", noop, record=record)
            with Stopwatch() as watch:
                with queue.producer() as out:
                    for at in range(n):
                        out.put(at)
                        out.flush()
                queue.join()
            return n / watch.seconds

        return rate

    return _row(stand, "chunks of one no-op item, all recorded", through, ())


def _row(stand: Stand, what: str, through: Callable[[str], Callable[[], float]], goals: tuple[Goal, ...]) -> Row:
    seen = stand.race({LASTCALL: through("all"), "failures alone": through("failures")})
    return Row("history", what, "items/s", seen[LASTCALL], "failures alone", seen["failures alone"], goals)
