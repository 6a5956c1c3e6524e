"""Tasks that joblib sends to workers in tests; they import them from here."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import joblib
import redis

import lastcall.joblib


def here(n: int) -> tuple[int, int]:
    return n, os.getpid()


class AtOnce:
    """Tells how many of its calls run at the same time, by the test's own server."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, f"test:{name}:now"

    def __call__(self, _: int) -> int:
        with redis.Redis.from_url(self.url) as server:
            now: Any = server.incr(self.name)
            threading.Event().wait(0.02)
            server.decr(self.name)
        return int(now)


def in_parallel_in_turn(n: int, backend: str | None) -> tuple[list[int], set[int], int]:
    """A task that calls joblib itself: squares, the processes that made them, and this one."""
    lastcall.joblib.register()
    done = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(here)(i) for i in range(n))
    return [i * i for i, _ in done], {pid for _, pid in done}, os.getpid()


def with_a_bad_end(n: int) -> Iterator[Any]:
    """joblib tasks, until it raises."""
    for i in range(n):
        yield joblib.delayed(here)(i)
    raise LookupError("no more tasks")
