"""AsyncValue, AsyncCounter: one value between machines, awaited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from lastcall.aio.thing import AsyncThing
from lastcall.shared.value import Counter, Value

T = TypeVar("T")


class AsyncValue(AsyncThing[Value[T]], Generic[T]):
    """A value that can be pickled; made by client.value()."""

    async def get(self) -> T:
        """What it is. Raises LookupError if it has expired, or its manager is shut down."""
        return await self._ask(Value.get)

    async def set(self, value: T) -> None:
        """Make it another."""
        await self._do(Value.set, value)

    async def update(self, function: Callable[[T], T]) -> T:
        """Make it function(value), and give that. The function is called in a thread, and again where another program
        was faster."""
        return await self._do(Value.update, function)


class AsyncCounter(AsyncThing[Counter]):
    """An int of 64 bits; made by client.counter()."""

    async def add(self, n: int = 1) -> int:
        """Add, and give what it then is."""
        return await self._do(Counter.add, n)

    async def get(self) -> int:
        """What it is."""
        return await self._ask(Counter.get)

    async def set(self, n: int) -> None:
        """Make it another."""
        await self._do(Counter.set, n)
