"""List: a list between machines."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from lastcall.shared.thing import Thing
from lastcall.state.scripts import Code, script
from lastcall.waiting import reaching

if TYPE_CHECKING:
    from lastcall.connection import Connection

T = TypeVar("T")
R = TypeVar("R")

_MOST = 1000  # items that are sent at once


class List(Thing, MutableSequence[T]):
    """A list. Items are copies: one that is changed must be put again.

    append(), extend(), pop() and pop(0), len(), and an index that is read or set, cost one round trip. Whatever else
    changes it reads it, and writes it whole; again, where another was faster: it is atomic, too.
    """

    kind: ClassVar[str] = "list"

    def __init__(self, connection: Connection, name: str) -> None:
        super().__init__(connection, name)

    @reaching
    def __len__(self) -> int:
        return int(self._redis.llen(self._key("items")))

    @reaching
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.copy()[index]
        at = operator.index(index)
        sealed = self._redis.lindex(self._key("items"), at) if abs(at) < 2**63 else None
        if sealed is None:
            raise IndexError("list index out of range")
        return self._open(sealed)

    @reaching
    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            values = list(value)
            self._edit(lambda items: operator.setitem(items, index, values))
        elif self._run(script("edit"), "set", operator.index(index), self._seal(value))[0] == Code.UNKNOWN:
            raise IndexError("list assignment index out of range")

    def __delitem__(self, index: Any) -> None:
        self._edit(lambda items: operator.delitem(items, index))

    def __iter__(self) -> Iterator[T]:
        return iter(self.copy())

    def __reversed__(self) -> Iterator[T]:
        return reversed(self.copy())

    def __contains__(self, value: object) -> bool:
        return value in self.copy()

    def __add__(self, other: list[T]) -> list[T]:
        return self.copy() + other

    def __mul__(self, times: int) -> list[T]:
        return self.copy() * times

    __rmul__ = __mul__

    def __imul__(self, times: int) -> List[T]:
        self._edit(lambda items: items.__imul__(times))
        return self

    @reaching
    def copy(self) -> list[T]:
        """What is in it."""
        return [self._open(sealed) for sealed in self._redis.lrange(self._key("items"), 0, -1)]

    def append(self, value: T) -> None:
        self.extend([value])

    @reaching
    def extend(self, values: Iterable[T]) -> None:
        sealed = [self._seal(value) for value in values]
        for at in range(0, len(sealed), _MOST):
            self._run(script("edit"), "append", "", *sealed[at : at + _MOST])

    @reaching
    def pop(self, index: int = -1) -> T:
        if index not in (0, -1):
            return self._edit(lambda items: items.pop(index))
        code, *found = self._run(script("edit"), "pop", index)
        if code == Code.UNKNOWN:
            raise IndexError("pop from empty list")
        return self._open(found[0])

    def insert(self, index: int, value: T) -> None:
        self._edit(lambda items: items.insert(index, value))

    def remove(self, value: T) -> None:
        self._edit(lambda items: items.remove(value))

    def reverse(self) -> None:
        self._edit(lambda items: items.reverse())

    def sort(self, *, key: Callable[[T], Any] | None = None, reverse: bool = False) -> None:
        self._edit(lambda items: items.sort(key=key, reverse=reverse))

    def clear(self) -> None:
        self._edit(lambda items: items.clear())

    def index(self, value: T, *between: int) -> int:
        return self.copy().index(value, *between)

    def count(self, value: T) -> int:
        return self.copy().count(value)

    def __str__(self) -> str:
        return str(self.copy())

    @reaching
    def _edit(self, change: Callable[[list[T]], R]) -> R:
        """Read it, change it and write it; again, if it is another by then."""
        while True:
            version = self._redis.hget(self._key("meta"), "version") or b"0"  # before the items, which may be newer
            items = self.copy()
            result = change(items)
            sealed = [self._seal(item) for item in items]
            if self._run(script("edit"), "replace", version, *sealed)[0] == Code.OK:
                return result

    def _seal(self, value: T) -> bytes:
        return self._connection.sealer.seal(value, "shared", self.name)

    def _open(self, sealed: bytes) -> T:
        value: T = self._connection.sealer.open(sealed, "shared", self.name)
        return value
