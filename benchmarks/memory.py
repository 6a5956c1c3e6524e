"""memory: what the client holds while it maps ten million items out of a generator.

It runs in a process of its own, `python -m benchmarks.memory URL N`, key on the standard input: this
one's memory has been through the other benchmarks.
"""

import json
import subprocess
import sys
from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]

from benchmarks.functions import noop
from benchmarks.harness import Goal, Row, Sample, Stand, check_sum, progress
from lastcall import Client

ITEMS = 10_000_000
_FIRST = 0.1  # of the items: by then it has grown to what it is to be
_LOOKS = 1_000


def run(stand: Stand) -> list[Row]:
    """The client's largest resident size, at the end and when a tenth was through."""
    n = stand.size(ITEMS)
    settings = stand.client.settings
    assert settings.url is not None
    assert settings.key is not None
    progress(f"map of {n:,} items in a process of its own")
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", settings.url, str(n)],
        input=settings.key,
        stdout=subprocess.PIPE,
        check=True,
    )
    first, last = json.loads(process.stdout)
    return [
        Row(
            "memory",
            f"client's largest RSS in a lazy map of {n:,} items",
            "MB",
            Sample((last / 1e6,)),
            f"after {int(n * _FIRST):,}",
            Sample((first / 1e6,)),
            (Goal(1.1, at_least=False),),
        )
    ]


def watch(url: str, key: bytes, n: int) -> tuple[int, int]:
    """Map n items; the largest RSS (bytes) until a tenth of the results were read, and in all."""
    process = psutil.Process()
    every = max(1, n // _LOOKS)
    first = largest = 0
    with Client(url, key) as client:

        def looked() -> Iterator[int]:
            nonlocal first, largest
            for at, value in enumerate(client.map(noop, (i for i in range(n))), 1):
                if at % every == 0:
                    largest = max(largest, process.memory_info().rss)
                    if at <= n * _FIRST:
                        first = largest
                yield value

        check_sum(looked(), n)
    return first, largest


if __name__ == "__main__":
    print(json.dumps(watch(sys.argv[1], sys.stdin.buffer.read(), int(sys.argv[2]))))
