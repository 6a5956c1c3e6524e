"""The stand on which the contenders run: starts them, takes turns, and keeps what was measured."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing.pool import Pool
from typing import Any, Final

from benchmarks import celery_app, huey_app
from lastcall import Client
from lastcall.local import LocalCluster
from lastcall.settings import Settings

SLOTS: Final = 2
LASTCALL: Final = "lastcall"
_START_S: Final = 60.0  # for workers to come up, on a machine that is busy


@dataclass(frozen=True, slots=True)
class Sample:
    """What one contender came to, a value a round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.values), max(self.values)

    def per(self, other: Sample) -> Sample:
        """The ratio of each round: what slowed down both sides of a round falls out of it."""
        pairs = zip(self.values, other.values, strict=True)
        return Sample(tuple(mine / theirs for mine, theirs in pairs))


@dataclass(frozen=True, slots=True)
class Goal:
    """What was promised: of the ratio to the other contender or, `absolute`, of lastcall's value."""

    bound: float
    at_least: bool = True
    absolute: bool = False

    def met(self, row: Row) -> bool:
        sample = row.lastcall if self.absolute else row.ratio
        if sample is None:
            raise ValueError(f"{row.benchmark}: a goal for a ratio without another contender")
        return sample.median >= self.bound if self.at_least else sample.median <= self.bound


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. unit: of both samples; other_name: who stands beside lastcall."""

    benchmark: str
    measure: str
    unit: str
    lastcall: Sample
    other_name: str = ""
    other: Sample | None = None
    goals: tuple[Goal, ...] = field(default=())

    @property
    def ratio(self) -> Sample | None:
        return self.lastcall.per(self.other) if self.other is not None else None

    @property
    def ok(self) -> bool | None:
        """Whether all goals are met; None where there is none."""
        return all(goal.met(self) for goal in self.goals) if self.goals else None


class Stand:
    """The contenders, two slots each, started when they are first asked for.

    quick: a fraction of the work and fewer rounds, to see that all runs; its numbers are rough.
    """

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.rounds = 3 if quick else 7
        # What is measured is lastcall as it comes, whatever this shell is set up for.
        for name in [name for name in os.environ if name.startswith("LASTCALL_")]:
            if name != "LASTCALL_SERVER":
                del os.environ[name]
        self._closing = contextlib.ExitStack()
        self._celery: Any = None
        self._huey: Any = None
        self._client: Client | None = None
        # Forked first, while this process has no threads or connections to be inherited.
        self.pool: Final[Pool] = multiprocessing.Pool(SLOTS)
        self._closing.callback(self.pool.terminate)

    def __enter__(self) -> Stand:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def size(self, full: int) -> int:
        """How many items or calls make up a round."""
        return full // 10 if self.quick else full

    @property
    def client(self) -> Client:
        """lastcall on a private server, with one prefork worker."""
        if self._client is None:
            self._client = self._closing.enter_context(Client(slots=SLOTS))
            self._client.submit(abs, -1).result(_START_S)
        return self._client

    @property
    def celery(self) -> Any:
        """A Celery app on a server of its own, the same program, with one prefork worker."""
        if self._celery is None:
            cluster = LocalCluster(SLOTS, _worker_command=_celery_worker)
            self._closing.callback(cluster.close)
            cluster.ensure_workers(celery_app.QUEUE)
            app = celery_app.make(_broker(cluster))
            self._closing.callback(app.close)
            app.tasks["benchmarks.noop"].delay(0).get(timeout=_START_S)
            self._celery = app
        return self._celery

    @property
    def huey(self) -> Any:
        """A huey task on a server of its own, likewise, with one consumer of two processes."""
        if self._huey is None:
            cluster = LocalCluster(SLOTS, _worker_command=_huey_consumer)
            self._closing.callback(cluster.close)
            cluster.ensure_workers("huey")
            app, task = huey_app.make(cluster.url)
            self._closing.callback(app.storage.close)
            task(0).get(blocking=True, timeout=_START_S)
            self._huey = task
        return self._huey

    def race(self, contenders: Mapping[str, Callable[[], float]], rounds: int | None = None) -> dict[str, Sample]:
        """Run the contenders in turns, A B A B, after a round of each that does not count.

        Each gives what it measured itself.
        """
        seen: dict[str, list[float]] = {name: [] for name in contenders}
        total = 1 + (rounds or self.rounds)
        for number in range(total):
            for name, contender in contenders.items():
                progress(f"{name}: {f'round {number} of {total - 1}' if number else 'warm-up'}")
                gc.collect()
                value = contender()
                if number:
                    seen[name].append(value)
        return {name: Sample(tuple(values)) for name, values in seen.items()}


class Stopwatch:
    """with Stopwatch() as watch: ...; watch.seconds"""

    seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began


def check_sum(results: Iterable[int], n: int) -> None:
    """Read results of no-op calls over range(n), and see that none is missing or there twice.

    Raises AssertionError.
    """
    total = sum(results)
    expected = n * (n - 1) // 2
    if total != expected:
        raise AssertionError(f"expected results that add up to {expected}, got {total}")


def progress(text: str) -> None:
    """Say, on a terminal, what is going on; the next call writes over it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)


def percentile(values: Iterable[float], share: float) -> float:
    """The least value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _broker(cluster: LocalCluster) -> str | None:
    return Settings.load(cluster.url, cluster.key).broker


def _celery_worker(celery_queue: str, node: str, slots: int, _threads: int) -> list[str]:
    """As lastcall's own worker is started, but for the app."""
    # fmt: off
    return [
        sys.executable, "-P", "-m", "celery", "-A", "benchmarks.celery_app", "worker",
        "-P", "prefork", "-c", str(slots), "-Q", celery_queue, "-n", node,
        "--without-gossip", "--without-mingle", "-l", "WARNING",
    ]
    # fmt: on


def _huey_consumer(_queue: str, _node: str, slots: int, _threads: int) -> list[str]:
    # fmt: off
    return [
        sys.executable, "-P", "-m", "huey.bin.huey_consumer", "benchmarks.huey_app.huey",
        "-k", "process", "-w", str(slots), "--no-periodic", "--quiet",
    ]
    # fmt: on
