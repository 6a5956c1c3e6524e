"""AsyncDict: a dict between machines, awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Hashable
from typing import Any, Generic, NoReturn, TypeVar

from lastcall.aio.thing import AsyncThing
from lastcall.shared.mapping import _NONE, Dict

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class AsyncDict(AsyncThing[Dict[K, V]], Generic[K, V]):
    """A dict; made by client.shared_dict(). What has no name there has one here: set(), delete(), contains(), len().

    What a pop() that is cancelled took is put back, behind the others.
    """

    def __getitem__(self, key: K) -> Awaitable[V]:
        """`await shared[key]`. Raises KeyError."""
        return self._ask(Dict.__getitem__, key)

    def __setitem__(self, key: K, value: V) -> NoReturn:
        raise TypeError(f"items of {self!r} are set by `await shared.set(key, value)`")

    def __delitem__(self, key: K) -> NoReturn:
        raise TypeError(f"items of {self!r} are removed by `await shared.delete(key)`")

    def __contains__(self, key: object) -> NoReturn:
        raise TypeError(f"whether a key is in {self!r} is asked by `await shared.contains(key)`")

    async def get(self, key: K, default: Any = None) -> Any:
        """The value of a key; default where there is none."""
        return await self._ask(Dict.get, key, default)

    async def set(self, key: K, value: V) -> None:
        """shared[key] = value"""
        await self._do(Dict.__setitem__, key, value)

    async def delete(self, key: K) -> None:
        """del shared[key]; raises KeyError."""
        await self._do(Dict.__delitem__, key)

    async def contains(self, key: object) -> bool:
        """key in shared"""
        return await self._ask(Dict.__contains__, key)

    async def len(self) -> int:
        """len(shared)"""
        return await self._ask(Dict.__len__)

    async def __aiter__(self) -> AsyncIterator[K]:
        """The keys, as they are when the loop begins."""
        for key in await self.keys():
            yield key

    async def keys(self) -> list[K]:
        """The keys, in the order of insertion."""
        return await self._ask(Dict.keys)

    async def values(self) -> list[V]:
        """The values, likewise."""
        return await self._ask(Dict.values)

    async def items(self) -> list[tuple[K, V]]:
        """Both, likewise."""
        return await self._ask(Dict.items)

    async def copy(self) -> dict[K, V]:
        """What is in it."""
        return await self._ask(Dict.copy)

    async def update(self, other: Any = (), /, **more: Any) -> None:
        """As of a dict; in one go for up to 500 items."""
        await self._do(Dict.update, other, **more)

    async def setdefault(self, key: K, default: Any = None) -> Any:
        """The value of a key, which is `default` from now on where there was none."""
        return await self._do(Dict.setdefault, key, default)

    async def pop(self, key: K, default: Any = _NONE) -> Any:
        """Remove a key, and give its value; where there is none, `default`, or KeyError."""

        def undo(shared: Dict[K, V], value: Any) -> None:
            if value is not default:
                shared.setdefault(key, value)

        return await self._take(undo, Dict.pop, key, default)

    async def popitem(self) -> tuple[K, V]:
        """Remove the last item, and give it. Raises KeyError if there is none."""
        return await self._take(lambda shared, item: shared.setdefault(*item), Dict.popitem)

    async def clear(self) -> None:
        """Remove everything."""
        await self._do(Dict.clear)
