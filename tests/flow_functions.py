"""Functions that stages of test flows run, on workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def double(n: int) -> int:
    return 2 * n


def add(a: Any, b: Any) -> Any:
    return a + b


def join(a: str, b: str) -> str:
    """Not commutative, so that it tells the order."""
    return f"{a}{b}"


def odd(n: int) -> list[int]:
    return [n] if n % 2 else []


def repeat(n: int) -> list[int]:
    return [n] * (n % 4)


def count(n: int) -> Iterator[int]:
    """Many outputs, which are emitted."""
    yield from range(n)


def text(n: int) -> str:
    return f"{n};"


def fail_at_three(n: int) -> int:
    if n % 10 == 3:
        raise ValueError(f"not {n}")
    return n


class Once:
    """Something that is done the first time only, in the whole of a test: a file tells."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def first(self, what: object) -> bool:
        try:
            os.close(os.open(f"{self.folder}/{what}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


class FailsFirst(Once):
    """Raises for each third item, the first time."""

    def __call__(self, n: int) -> int:
        if n % 3 == 0 and self.first(n):
            raise ValueError(n)
        return n


class ManyFailFirst(Once):
    """Emits many; for each second item its generator raises in the middle, the first time."""

    def __init__(self, folder: Path, outputs: int) -> None:
        super().__init__(folder)
        self.outputs = outputs

    def __call__(self, n: int) -> Iterator[tuple[int, int]]:
        for at in range(self.outputs):
            if at == self.outputs // 2 and n % 2 and self.first(n):
                self.end(n)
            yield n, at

    def end(self, n: int) -> None:
        raise ValueError(n)


class ManyDieFirst(ManyFailFirst):
    """The same, but its process dies."""

    def end(self, n: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Times:
    """Each item many times, one by one."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self, n: int) -> Iterator[int]:
        for _ in range(self.times):
            yield n


class SlowMany:
    """Yields with pauses, which its time limit cannot bear."""

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s

    def __call__(self, n: int) -> Iterator[int]:
        for at in range(4):
            time.sleep(self.pause_s)
            yield 10 * n + at


class JoinDiesFirst(Once):
    """Joins texts; its process dies once for each fifth of them."""

    def __call__(self, a: str, b: str) -> str:
        number = int(b.split(";")[0])
        if number % 5 == 0 and self.first(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return a + b
