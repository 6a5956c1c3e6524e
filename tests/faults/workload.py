"""Work of every kind under way at once: producers and a consumer in processes of their own, a map, workers.

A fault comes while all of it moves; then all of it must move again, and end with every item once.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any

from lastcall import Client
from tests.workers import until

_context = multiprocessing.get_context("spawn")

ITEMS = 300  # of each producer, and of the map
PACE_S = 0.004


def slow(n: int) -> int:
    time.sleep(PACE_S)
    return n


def slower(n: int) -> int:
    time.sleep(3 * PACE_S)
    return n


def produce(queue: Any, table: Any, name: str, first: int, accepted: Any, go_on: Any) -> None:
    """Put numbers into both queues, and say how many are known to be in them; all but one when all parts have begun."""
    with queue.producer(name) as numbers, table.producer(name) as food:
        for n in range(first, first + ITEMS):
            if n == first + 1:
                numbers.flush()
                food.flush()
                accepted.value = 1
                go_on.wait()
            numbers.put(n)
            food.put(n)
            accepted.value = min(numbers.position, food.position)
            time.sleep(PACE_S)
    accepted.value = ITEMS


def consume(table: Any, read: Any, got: Any) -> None:
    items = []
    for item in table:
        items.append(item)
        read.value = len(items)
    got.put(items)


class Workload:
    """Started when its block is entered; `moves()` waits until all of it has moved on, `check()` until it has ended."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.queue = client.queue(f"{name}-numbers", slow, maxsize=200, producers=2)
        self.table = client.queue(f"{name}-table", maxsize=200, producers=2)
        self.accepted = [_context.Value("q", 0) for _ in range(2)]
        self.read = _context.Value("q", 0)
        self.got = _context.Queue()
        self._go_on = _context.Event()
        self.processes = [
            _context.Process(
                target=produce, args=(self.queue, self.table, f"p{at}", at * ITEMS, accepted, self._go_on), daemon=True
            )
            for at, accepted in enumerate(self.accepted)
        ]
        self.processes.append(_context.Process(target=consume, args=(self.table, self.read, self.got), daemon=True))
        self.mapped: list[int] = []
        self.error: BaseException | None = None
        self._map = threading.Thread(target=self._run_map, daemon=True)

    def __enter__(self) -> Workload:
        for process in self.processes:
            process.start()
        until(lambda: all(accepted.value for accepted in self.accepted), "both producers to begin")
        until(lambda: self.read.value, "the consumer to begin")
        self._map.start()
        until(lambda: self.mapped or self.error, "the map to begin")
        self._go_on.set()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.got.close()

    def _run_map(self) -> None:
        try:
            self.mapped.extend(self.client.map(slower, range(ITEMS), chunksize=4))
        except BaseException as error:  # of another thread: check() raises it
            self.error = error

    def _seen(self) -> list[int]:
        return [*(value.value for value in (*self.accepted, self.read)), len(self.mapped)]

    def moves(self, timeout_s: float = 40.0) -> None:
        """Wait until every part has moved on from where it is, or is through."""
        before = self._seen()
        most = [ITEMS, ITEMS, 2 * ITEMS, ITEMS]

        def moved() -> bool:
            if self.error is not None:
                raise self.error
            return all(now >= min(was + 20, end) for was, now, end in zip(before, self._seen(), most, strict=True))

        until(moved, "every part of the work to move", timeout_s)

    @property
    def under_way(self) -> bool:
        """Whether no part is through."""
        return all(process.is_alive() for process in self.processes) and self._map.is_alive()

    def check(self) -> None:
        """Wait for the end; every item must have come out once."""
        eaten = self.got.get(timeout=90)
        for process in self.processes:
            process.join(90)
            assert process.exitcode == 0
        self._map.join(90)
        if self.error is not None:
            raise self.error
        assert self.mapped == list(range(ITEMS))
        whole = Counter(range(2 * ITEMS))
        assert Counter(eaten) == whole
        assert self.queue.join(90).done == 2 * ITEMS
        assert self.table.join(90).done == 2 * ITEMS
        assert Counter(self.queue.results(timeout=30)) == whole
