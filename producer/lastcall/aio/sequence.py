"""AsyncList: a list between machines, awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Generic, NoReturn, TypeVar

from lastcall.aio.thing import AsyncThing
from lastcall.shared.sequence import List

T = TypeVar("T")


class AsyncList(AsyncThing[List[T]], Generic[T]):
    """A list; made by client.shared_list(). What has no name there has one here: get(), set(), delete(), contains(),
    len().

    What a pop() that is cancelled took is put back where it was.
    """

    def __getitem__(self, index: Any) -> Awaitable[Any]:
        """`await shared[index]`, also of a slice. Raises IndexError."""
        return self.get(index)

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TypeError(f"items of {self!r} are set by `await shared.set(index, value)`")

    def __delitem__(self, index: Any) -> NoReturn:
        raise TypeError(f"items of {self!r} are removed by `await shared.delete(index)`")

    def __contains__(self, value: object) -> NoReturn:
        raise TypeError(f"whether a value is in {self!r} is asked by `await shared.contains(value)`")

    async def get(self, index: Any) -> Any:
        """shared[index]"""
        return await self._ask(List.__getitem__, index)

    async def set(self, index: Any, value: Any) -> None:
        """shared[index] = value"""
        await self._do(List.__setitem__, index, value)

    async def delete(self, index: Any) -> None:
        """del shared[index]"""
        await self._do(List.__delitem__, index)

    async def contains(self, value: object) -> bool:
        """value in shared"""
        return await self._ask(List.__contains__, value)

    async def len(self) -> int:
        """len(shared)"""
        return await self._ask(List.__len__)

    async def __aiter__(self) -> AsyncIterator[T]:
        """The items, as they are when the loop begins."""
        for value in await self.copy():
            yield value

    async def copy(self) -> list[T]:
        """What is in it."""
        return await self._ask(List.copy)

    async def append(self, value: T) -> None:
        """Add one at the end."""
        await self._do(List.append, value)

    async def extend(self, values: Iterable[T]) -> None:
        """Add several at the end; in one go for up to 1,000."""
        await self._do(List.extend, values)

    async def insert(self, index: int, value: T) -> None:
        """Add one before another."""
        await self._do(List.insert, index, value)

    async def pop(self, index: int = -1) -> T:
        """Remove one, and give it. Raises IndexError."""

        def undo(shared: List[T], value: T) -> None:
            if index == -1:
                shared.append(value)
            else:
                shared.insert(index if index >= 0 else index + 1, value)

        return await self._take(undo, List.pop, index)

    async def remove(self, value: T) -> None:
        """Remove the first one that is equal. Raises ValueError if there is none."""
        await self._do(List.remove, value)

    async def reverse(self) -> None:
        """Turn it round."""
        await self._do(List.reverse)

    async def sort(self, *, key: Callable[[T], Any] | None = None, reverse: bool = False) -> None:
        """Sort it. key: is called in a thread."""
        await self._do(List.sort, key=key, reverse=reverse)

    async def clear(self) -> None:
        """Remove everything."""
        await self._do(List.clear)

    async def index(self, value: T, *between: int) -> int:
        """Where the first one is that is equal. Raises ValueError if there is none."""
        return await self._ask(List.index, value, *between)

    async def count(self, value: T) -> int:
        """How many are equal."""
        return await self._ask(List.count, value)
