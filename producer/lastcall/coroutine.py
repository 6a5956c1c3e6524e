"""Which functions are coroutines, and how many of one a slot runs at the same time."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Final

from lastcall.errors import ConfigError

if TYPE_CHECKING:
    from lastcall.policy import Told

# Where nothing is said: below the 1,024 open files that a process may usually have.
CONCURRENCY: Final = 500


def is_async(function: Any) -> bool:
    """Whether calling it gives a coroutine: `async def`, also as a method, a partial, or a class's __call__."""
    return any(map(inspect.iscoroutinefunction, _called(function)))


def check_function(function: Any) -> None:
    """Raise ConfigError for an async generator function, which no slot runs."""
    if any(map(inspect.isasyncgenfunction, _called(function))):
        raise ConfigError(
            "a function", "a function, or one with `async def` that returns", f"the async generator {function!r}",
            "return a list, or yield from a plain generator",
        )  # fmt: skip


def _called(function: Any) -> tuple[Any, Any]:
    """What may be the function that is run."""
    while isinstance(function, functools.partial):
        function = function.func
    return function, getattr(type(function), "__call__", None)  # noqa: B004  # not whether, but which


def check_concurrency(function: Any, options: Told) -> None:
    """Raise ConfigError where it is given for a function that is no coroutine."""
    if options.concurrency is not None and not is_async(function):
        raise ConfigError(
            "concurrency", "given with an `async def` function, whose coroutines it counts", repr(function),
            "max_workers= says how many slots work at the same time",
        )  # fmt: skip
