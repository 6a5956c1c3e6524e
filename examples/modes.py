"""One flow in each of its modes, drawn from what really ran: python modes.py [FOLDER]

Twelve items go through three steps, which take from 5 to 80 ms. What docs/modes.md shows was drawn by this, on a
worker with two slots. Needs matplotlib: pip install 'lastcall[plots]'
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lastcall import Client, Event, Flow, gantt

ITEMS = 12


def took(least_s: float, most_s: float, item: int) -> int:
    """Some time, which another item takes otherwise."""
    time.sleep(least_s + (most_s - least_s) * (item * 7 % ITEMS) / (ITEMS - 1))
    return item


def fetch(item: int) -> int:
    return took(0.02, 0.08, item)


def parse(item: int) -> int:
    took(0.02, 0.04, ITEMS - 1 - item)
    return item


def score(item: int) -> int:
    return took(0.005, 0.03, item)


STEPS: tuple[Callable[[int], int], ...] = (fetch, parse, score)
NAMES = [step.__name__ for step in STEPS]


def serially(began: float) -> Iterator[Event]:
    """Each step of each item, one after the other in this process, as workers would have told of it."""
    for item in range(ITEMS):
        for step in STEPS:
            at = time.perf_counter()
            step(item)
            now = time.perf_counter()
            ended_ms = 1000 * (now - began)
            yield Event(
                "done", "serial", step.__name__, f"1-{item + 1}", int(ended_ms), attempt=1, runtime_s=now - at,
                ended_ms=ended_ms, worker="this process",
            )  # fmt: skip


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    flow = Flow(fetch) | parse | score
    with Client() as client:
        list(client.map(score, range(4), chunksize=1))  # the worker's processes are up
        for mode in ("serial", "horizontal", "vertical", "streaming", "auto"):
            began = time.perf_counter()
            if mode == "serial":
                events = list(serially(began))
                seconds = time.perf_counter() - began
            else:
                job = client.run(flow, range(ITEMS), mode=mode)
                assert list(job.results()) == list(range(ITEMS))
                seconds = time.perf_counter() - began
                events = list(job.history.events("done"))
            path = gantt.save(events, folder / f"{mode}.svg", title=f"{mode}: {seconds:.2f} s", stages=NAMES)
            print(f"{mode:<10} {seconds:.2f} s  {len(events):>2} chunks  {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "modes"))
