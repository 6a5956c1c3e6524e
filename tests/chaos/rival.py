"""Raw Celery on the same kind of server, under the same kills of processes and nodes at the same rate.

Each job is a group of small tasks, whose caller waits for its results as Celery's documentation shows. Server and
network are left alone here: what is compared is what killed workers cost.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery import group
from celery.exceptions import TimeoutError as CeleryTimeoutError

from lastcall.settings import Settings
from tests.chaos import items, recovery
from tests.chaos.items import RUNS
from tests.chaos.processes import Journal, Part
from tests.chaos.rival_app import LATE, URL, VISIBILITY, make
from tests.chaos.run import OVERLAP, Result
from tests.chaos.stand import Node, Stand
from tests.chaos.storm import CHILD_KILLED, NODE_KILLED, Storm
from tests.workers import Worker

LIMIT_S = 60.0  # how long a caller waits for a group that takes some seconds
_SHORT_S = 10.0


@dataclass(frozen=True)
class Setup:
    """One way to set Celery up."""

    name: str
    late: bool
    visibility_s: float | None

    @property
    def said(self) -> str:
        acks = "task_acks_late, task_reject_on_worker_lost, prefetch multiplier 1" if self.late else "its defaults"
        seen = (
            "1 h, the default" if self.visibility_s is None else f"{self.visibility_s:g} s, unacked_restore_throttle 1"
        )
        return (
            f"{acks}; visibility timeout {seen}; JSON, results in Redis, two prefork workers of 2 slots, "
            f"group().get() with a limit of {LIMIT_S:g} s"
        )


SETUPS = (
    Setup("Celery, defaults", False, None),
    Setup("Celery, acks_late", True, None),
    Setup(f"Celery, acks_late, visibility {_SHORT_S:g} s", True, _SHORT_S),
)


class _Group:
    """A job as the storm sees it; none of its own processes is killed."""

    def __init__(self) -> None:
        self.began = time.time()

    def victims(self) -> list[Part]:
        return []


def call(journal: Journal, url: str, setup: Setup, job: str, made: list[items.Item]) -> None:
    """Send a group, wait for it, tell what came."""
    app = make(url, late=setup.late, visibility_s=setup.visibility_s)
    task: Any = app.tasks["rival.work"]
    result = group(task.s(job, item.number, item.ms) for item in made).apply_async()
    began = time.monotonic()
    try:
        result.get(timeout=LIMIT_S, propagate=False)
        hung = False
    except CeleryTimeoutError:
        hung = True
    took_s = time.monotonic() - began
    states = Counter(one.state for one in result.results)
    right = sum(
        one.state == "SUCCESS" and one.result == items.answer(item)
        for one, item in zip(result.results, made, strict=True)
    )
    journal.say("over", hung=hung, states=states, right=right, took_s=took_s)


def run(count: int, seed: int, *, rate: float, tell: Callable[[str], None]) -> list[Result]:
    """Every way to set it up, `count` groups each."""
    return [_run(setup, count, seed, rate, tell) for setup in SETUPS]


def _run(setup: Setup, count: int, seed: int, rate: float, tell: Callable[[str], None]) -> Result:
    rng = random.Random(seed)
    result = Result(setup.name, seed, setup.said)
    running: list[_Group] = []
    numbers = itertools.count(1)
    lock = threading.Lock()
    began = time.monotonic()

    def start_worker(stand: Stand, node: Node, name: str) -> Worker:
        visibility = "" if setup.visibility_s is None else str(setup.visibility_s)
        more = {URL: _url(stand), LATE: str(int(setup.late)), VISIBILITY: visibility, RUNS: str(stand.runs)}
        # No `--without-...` options and no lastcall in it: Celery as it comes.
        command = (sys.executable, "-m", "celery", "-A", "tests.chaos.rival_app", "worker")
        return Worker(
            stand.server.unix_url, None, name, queues="celery", pool=node.pool, slots=node.slots,
            command=command, more=more,
        )  # fmt: skip

    with Stand(start_worker, pools="pp") as stand:
        storm = Storm(
            stand, random.Random(rng.random()), lambda: list[Any](running), rate=rate, kinds=(CHILD_KILLED, NODE_KILLED)
        )

        def work() -> None:
            while True:
                with lock:
                    number = next(numbers)
                    if number > count:
                        return
                    job = f"group{number}"
                    made = items.make(rng, job, rng.randint(200, 600))
                    one = _Group()
                    running.append(one)
                part = Part("client", f"{setup.name}-{job}", stand.folder, call, _url(stand), setup, job, made)
                deadline = time.monotonic() + 3 * LIMIT_S
                while part.running and time.monotonic() < deadline:
                    time.sleep(0.1)  # its parent may be asked by one thread at a time
                stuck = part.kill(fault=False)
                with lock:
                    running.remove(one)
                    over = next(part.events("over"), None)
                    if over is None:
                        result.violations.append(f"{job}: its caller did not end ({stuck=}):\n{part.log[-2000:]}")
                        continue
                    states = Counter(over["states"])
                    reported = states["FAILURE"] + states["REVOKED"]
                    result.jobs += 1
                    result.items += len(made)
                    result.hung += over["hung"]
                    result.reported += reported
                    result.lost += len(made) - over["right"] - reported
                    tell(f"{setup.name}: {job}: {dict(states)}, {over['took_s']:.1f} s"
                         f"{', hung' if over['hung'] else ''}; {len(storm.faults)} faults")  # fmt: skip

        with storm:
            threads = [threading.Thread(target=work, daemon=True) for _ in range(OVERLAP)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        result.took_s = time.monotonic() - began
        runs = recovery.Runs.read(stand.runs)
        result.again = runs.again
        result.doubled = sum(len(begun) > 1 for begun in runs.begins.values())
        result.faults = storm.counts
    result.violations += stand.complaints
    return result


def _url(stand: Stand) -> str:
    """The server in the words of kombu and of Celery's result backend."""
    return str(Settings.load(stand.server.unix_url).broker)
