"""What is said where an awaitable twin is used as if it were what it is the twin of, or as if it had been awaited."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Awaited:
    """Base of the classes that are entered, and iterated over, on an event loop alone.

    `with` and `for` raise TypeError, which names `async with` and `async for` where the class has these.
    """

    def __enter__(self) -> NoReturn:
        if hasattr(type(self), "__aenter__"):
            raise TypeError(f"{self!r} is entered by `async with`, got `with`")
        raise TypeError(f"{self!r} is not entered, got `with`: await its methods")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> NoReturn:
        raise AssertionError  # it is never entered

    def __iter__(self) -> NoReturn:
        if hasattr(type(self), "__aiter__"):
            raise TypeError(f"{self!r} is iterated over by `async for`, got `for` or the like")
        raise TypeError(f"{self!r} is not iterated over, got `for` or the like: await its methods")


class Unawaited(Coroutine[Any, Any, T]):
    """A coroutine, of which AttributeError and TypeError say that it is to be awaited first."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("cr_", "__")):  # what asyncio and inspect ask for
            return getattr(self._coroutine, name)
        raise AttributeError(f"{self._said} was not awaited, got .{name}: (await ...).{name}")

    def _refuse(self, *_: Any) -> NoReturn:
        raise TypeError(f"{self._said} was not awaited: `async with await ...`, or `async for ... in await ...`")

    __enter__ = __exit__ = __aenter__ = __aexit__ = __iter__ = __aiter__ = _refuse

    @property
    def _said(self) -> str:
        return f"{getattr(self._coroutine, '__qualname__', 'a coroutine')}()"


def awaited(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Unawaited[T]]:
    """Have a coroutine method that gives something with methods say so where it was not awaited."""

    @functools.wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Unawaited[T]:
        return Unawaited(method(*args, **kwargs))

    return wrapped
