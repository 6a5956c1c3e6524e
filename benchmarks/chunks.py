"""chunks: a no-op map in chunks of one item, each of which travels, is leased and completed by
itself; beside Pool.map with the same chunks."""

from benchmarks.functions import noop
from benchmarks.harness import LASTCALL, Row, Stand, Stopwatch, check_sum

CHUNKS = 5_000


def run(stand: Stand) -> list[Row]:
    """Chunks per second."""
    client, pool = stand.client, stand.pool
    n = stand.size(CHUNKS)

    def lastcall() -> float:
        with Stopwatch() as watch:
            check_sum(client.map(noop, range(n), chunksize=1), n)
        return n / watch.seconds

    def pool_map() -> float:
        with Stopwatch() as watch:
            check_sum(pool.map(noop, range(n), chunksize=1), n)
        return n / watch.seconds

    seen = stand.race({LASTCALL: lastcall, "Pool.map": pool_map})
    return [
        Row(
            "chunks",
            "no-op in chunks of one item",
            "chunks/s",
            seen[LASTCALL],
            "Pool.map",
            seen["Pool.map"],
        )
    ]
