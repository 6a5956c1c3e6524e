"""events: what it costs that monitors such as Flower are told of every call; beside the same calls
with task events off."""

import time

from celery import Celery

from benchmarks.functions import noop
from benchmarks.harness import LASTCALL, Row, Stand, Stopwatch, check_sum

CALLS = 10_000
_ANSWER_S = 10.0


def run(stand: Stand) -> list[Row]:
    """Calls per second, gathered. Nobody listens: it is the slots' cost, not a monitor's."""
    client = stand.client
    n = stand.size(CALLS)

    def calls() -> float:
        with Stopwatch() as watch:
            futures = [client.submit(noop, i) for i in range(n)]
            check_sum((future.result() for future in futures), n)
        return n / watch.seconds

    with Celery(broker=client.settings.broker, set_as_current=False) as monitor:

        def switch(command: str) -> None:
            replies = monitor.control.broadcast(command, reply=True, limit=1, timeout=_ANSWER_S)
            if not replies:
                raise TimeoutError(f"no worker answered {command} within {_ANSWER_S:g} s")
            # A slot that is under way goes on as it began, until its slice is over.
            end = time.monotonic() + 1.5 * client.settings.slice_s
            while time.monotonic() < end:
                client.submit(noop, 0).result()

        def told() -> float:
            switch("enable_events")
            return calls()

        def silent() -> float:
            switch("disable_events")
            return calls()

        seen = stand.race({LASTCALL: told, "events off": silent})
    return [
        Row(
            "events",
            "single no-op calls, task events on",
            "/s",
            seen[LASTCALL],
            "events off",
            seen["events off"],
        )
    ]
