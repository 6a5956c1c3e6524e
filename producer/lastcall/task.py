"""@task: the functions that a worker without a key accepts, by name.

    @task
    def resize(path): ...

The worker must import the module that holds them, as it does Celery tasks.
"""

from collections.abc import Callable
from typing import Any, TypeVar, overload

from lastcall.coroutine import check_concurrency
from lastcall.errors import ConfigError
from lastcall.policy import RetryOn, remember, told

F = TypeVar("F", bound=Callable[..., Any])

_functions: dict[str, Callable[..., Any]] = {}
_names: dict[Callable[..., Any], str] = {}


@overload
def task(function: F, /) -> F: ...
@overload
def task(
    *, name: str | None = None, retries: int | None = None, backoff_s: float | None = None,
    retry_on: RetryOn | None = None, timeout: float | None = None, crash_limit: int | None = None,
    concurrency: int | None = None,
) -> Callable[[F], F]: ...  # fmt: skip
def task(
    function: F | None = None, /, *, name: str | None = None, retries: int | None = None,
    backoff_s: float | None = None, retry_on: RetryOn | None = None, timeout: float | None = None,
    crash_limit: int | None = None, concurrency: int | None = None,
) -> F | Callable[[F], F]:  # fmt: skip
    """Register a function under a name; it stays as it is.

    name: what clients and workers know it by, default "module:qualname". The others are what map, submit and queue
    take for an item of this function where they are not told otherwise: see Client.queue(); timeout is seconds an item;
    concurrency is how many coroutines of it a slot runs at the same time (500).
    Raises ConfigError, also where another function has that name.
    """
    options = told(
        retries=retries, backoff_s=backoff_s, retry_on=retry_on, timeout=timeout, crash_limit=crash_limit,
        concurrency=concurrency,
    )  # fmt: skip

    def register(function: F) -> F:
        check_concurrency(function, options)
        known = name or _default_name(function)
        other = _functions.get(known)
        if other is not None and _place(other) != _place(function):
            raise ConfigError(
                "name",
                f"a name of its own for each task, {known!r} is {_place(other)}",
                f"{_place(function)}",
                'give one of them another with @task(name="...")',
            )
        _functions[known] = function
        _names[function] = known
        remember(function, options)
        return function

    return register if function is None else register(function)


def named(name: str) -> Callable[..., Any] | None:
    """The function that is registered under a name, None if there is none."""
    return _functions.get(name)


def name_of(function: Callable[..., Any]) -> str | None:
    """The name that a function is registered under, None if it is not."""
    try:
        return _names.get(function)
    except TypeError:  # it cannot be hashed, so it was not registered
        return None


def names() -> tuple[str, ...]:
    """All registered names, sorted."""
    return tuple(sorted(_functions))


def _default_name(function: Callable[..., Any]) -> str:
    if not hasattr(function, "__qualname__"):
        raise ConfigError("name", "given for a callable that has none of its own", repr(function), "@task(name=)")
    return _place(function)


def _place(function: Callable[..., Any]) -> str:
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{function.__module__}:{kind.__qualname__}"
