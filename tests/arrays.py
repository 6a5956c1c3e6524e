"""Functions with large arguments, that workers run in tests; they import them from here."""

from __future__ import annotations

import os
import pickle
import signal
import time
from typing import Any

from lastcall import current


class Block:
    """What an array is to pickle, without numpy: bytes that it gives out of band."""

    def __init__(self, data: Any) -> None:
        self.data = memoryview(data)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Block, (pickle.PickleBuffer(self.data),)


def scribble(array: Any, value: float) -> tuple[float, float]:
    """Write into an array. What its first element was, and is."""
    before = float(array[0])
    array[0] = value
    return before, float(array[0])


def first(array: Any, n: int = 0) -> float:
    return float(array[0]) + n


def first_slowly(array: Any, n: int) -> float:
    time.sleep(0.02)
    return float(array[0]) + n


def firsts(*arrays: Any) -> list[float]:
    return [float(array[0]) for array in arrays]


def total(data: bytes, more: Any = None) -> int:
    return len(data) + (0 if more is None else len(more))


def dies_once(array: Any) -> tuple[int, float]:
    """Kill the process that the first attempt runs in."""
    if current.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return current.attempt, float(array[0])


def fails_once(array: Any) -> tuple[int, float]:
    if current.attempt == 1:
        raise ValueError("not yet")
    return current.attempt, float(array[0])
