"""aside: calls with the same large array; beside them the same calls, with which it travels each time."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from benchmarks.functions import first_of
from benchmarks.harness import LASTCALL, Row, Stand, Stopwatch
from lastcall import Client

CALLS = 100
ARRAY_BYTES = 20_000_000
EACH = "sent with each"


def run(stand: Stand) -> list[Row]:
    """Seconds until all answers are there, and what the server received meanwhile."""
    n = stand.size(CALLS)
    received: dict[str, list[float]] = {LASTCALL: [], EACH: []}

    def calls(name: str, client: Client) -> float:
        array = np.random.default_rng().random(ARRAY_BYTES // 8)  # no worker has it
        before = _received(client)
        with Stopwatch() as watch:
            futures = [client.submit(first_of, array) for _ in range(n)]
            values = {future.result() for future in futures}
        received[name].append((_received(client) - before) / 1e6)
        if values != {float(array[0])}:
            raise AssertionError(f"expected {array[0]} of all, got {values}")
        return watch.seconds

    settings = stand.client.settings
    with Client(settings.url, settings.key, aside_bytes=0) as each:
        clients = {LASTCALL: stand.client, EACH: each}
        seen = stand.race({name: functools.partial(calls, name, client) for name, client in clients.items()}, rounds=3)
    sizes = {name: type(seen[name])(tuple(values[1:])) for name, values in received.items()}
    what = f"{n} calls with one array of 20 MB"
    return [
        Row("aside", f"{what}, until all are answered", "s", seen[LASTCALL], EACH, seen[EACH]),
        Row("aside", f"{what}, received by the server", "MB", sizes[LASTCALL], EACH, sizes[EACH]),
    ]


def _received(client: Client) -> int:
    stats: Any = client._connection.redis.info("stats")
    return int(stats["total_net_input_bytes"])
