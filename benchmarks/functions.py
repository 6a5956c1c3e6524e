"""The functions that workers run: the same ones for lastcall, Celery and multiprocessing.Pool."""

import time
from typing import Any, TypeVar

T = TypeVar("T")

MILLISECOND = 0.001


def noop(value: T) -> T:
    """Give the argument back."""
    return value


def busy_1ms(value: T) -> T:
    """Keep the processor busy for 1 ms."""
    end = time.perf_counter() + MILLISECOND
    while time.perf_counter() < end:
        pass
    return value


def sleep_1ms(value: T) -> T:
    """Wait for 1 ms, as for an answer from elsewhere."""
    time.sleep(MILLISECOND)
    return value


def first_of(array: Any) -> float:
    """An array's first element."""
    return float(array[0])
