"""Items, the functions that workers run them through, and the log of these runs."""

from __future__ import annotations

import os
import random
import time
from typing import NamedTuple

RUNS = "LASTCALL_CHAOS_RUNS"  # the variable that names the log's file


class Item(NamedTuple):
    """number: in its job; ms: what it takes; mood: "first" or "last" for the stage where its function raises, or ""."""

    job: str
    number: int
    ms: float
    mood: str


def make(rng: random.Random, job: str, count: int, moods: tuple[str, ...] = ("",)) -> list[Item]:
    """Items of a job: some quick, some slow, one in twenty in each of `moods`."""
    slow = rng.choice([0.0, 0.1, 0.3])
    items = []
    for number in range(count):
        ms = rng.uniform(30, 120) if rng.random() < slow else rng.choice([0, 0, 1, 3, 8, 15])
        mood = rng.choice(moods) if rng.random() < 0.05 * len(moods) else ""
        items.append(Item(job, number, ms, mood))
    return items


def answer(item: Item) -> int:
    """What becomes of an item."""
    return item.number * 3 + 1


def last(item: tuple[str, int, float, str]) -> int:
    """The function of a map, of a queue, and of the last of two stages."""
    made = Item(*item)
    _run(made, "last")
    return answer(made)


def first(item: tuple[str, int, float, str]) -> tuple[str, int, float, str]:
    """The first of two stages: hands on what it gets."""
    _run(Item(*item), "first")
    return item


def _run(item: Item, stage: str) -> None:
    log("begins", item.job, stage, item.number)
    if item.ms:
        time.sleep(item.ms / 1000)
    log("ends", item.job, stage, item.number)
    if item.mood == stage:
        raise ValueError(item.job, item.number)


_log: int | None = None


def log(what: str, job: str, stage: str, number: int) -> None:
    """One line of the log, in one write: it is there whatever kills this process next."""
    global _log
    if _log is None:
        _log = os.open(os.environ[RUNS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_log, f"{what} {time.time():.6f} {os.getpid()} {job} {stage} {number}\n".encode())
