"""What a coroutine may raise: not what would mean something else where it is awaited."""

from __future__ import annotations

import asyncio


def raisable(error: BaseException, whose: str = "the function") -> BaseException:
    """An error of the user's, to be raised in a coroutine: a RuntimeError where it would end a loop, or look as if who
    awaits were cancelled (a TaskGroup would then take a call that failed for one that nobody wants)."""
    if not isinstance(error, StopIteration | StopAsyncIteration | asyncio.CancelledError):
        return error
    told = RuntimeError(f"{whose} raised {error!r}")
    told.__cause__ = error
    return told
