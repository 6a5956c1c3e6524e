"""Value, Counter: one value, between machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from redis.exceptions import ResponseError

from lastcall.errors import ConfigError
from lastcall.shared.thing import Thing
from lastcall.state.scripts import Code, script
from lastcall.waiting import reaching

if TYPE_CHECKING:
    from lastcall.connection import Connection

T = TypeVar("T")

_FIELD = "value"


class Value(Thing, Generic[T]):
    """A value that can be pickled: get(), set(), `value`, and update(), which is atomic.

    first: what it is where nobody has set it yet.
    """

    kind: ClassVar[str] = "value"

    def __init__(self, connection: Connection, name: str, first: T) -> None:
        super().__init__(connection, name)
        self._start(first)

    @reaching
    def _start(self, first: T) -> None:
        self._run(script("store"), "keep", _FIELD, self._seal(first))

    @reaching
    def get(self) -> T:
        """What it is. Raises LookupError if it has expired, or its manager is shut down."""
        return self._open(self._sealed())

    @reaching
    def set(self, value: T) -> None:
        """Make it another."""
        self._run(script("store"), "set", _FIELD, self._seal(value))

    @property
    def value(self) -> T:
        return self.get()

    @value.setter
    def value(self, value: T) -> None:
        self.set(value)

    @reaching
    def update(self, function: Callable[[T], T]) -> T:
        """Make it function(value), and give that. The function is called again where another was faster."""
        while True:
            sealed = self._sealed()
            value = function(self._open(sealed))
            if self._run(script("swap"), _FIELD, sealed, self._seal(value))[0] == Code.OK:
                return value

    def _sealed(self) -> bytes:
        sealed: bytes | None = self._redis.hget(self._key("fields"), _FIELD)
        if sealed is None:
            raise LookupError(f"value {self.name} is not there: it has expired, or its manager is shut down")
        return sealed

    def _seal(self, value: T) -> bytes:
        return self._connection.sealer.seal(value, "shared", self.name)

    def _open(self, sealed: bytes) -> T:
        value: T = self._connection.sealer.open(sealed, "shared", self.name)
        return value


class Counter(Thing):
    """An int of 64 bits; add() is atomic, in one round trip. start: what it is where nobody has counted yet."""

    kind: ClassVar[str] = "counter"

    def __init__(self, connection: Connection, name: str, start: int = 0) -> None:
        super().__init__(connection, name)
        self._count("start", start)

    @reaching
    def _count(self, how: str, n: Any) -> int:
        if not isinstance(n, int):
            raise ConfigError("a count", "an int", repr(n))
        if not -(2**63) <= n < 2**63:
            raise OverflowError(f"a counter has 64 bits, got {n}")
        try:
            return int(self._run(script("count"), how, int(n))[1])
        except ResponseError as error:
            if "overflow" in str(error):
                raise OverflowError(f"counter {self.name} has 64 bits, adding {n} would be more") from error
            raise

    def add(self, n: int = 1) -> int:
        """Add, and give what it then is."""
        return self._count("add", n)

    @reaching
    def get(self) -> int:
        """What it is."""
        return int(self._redis.hget(self._key("meta"), "count") or 0)

    def set(self, n: int) -> None:
        """Make it another."""
        self._count("set", n)

    @property
    def value(self) -> int:
        return self.get()

    @value.setter
    def value(self, n: int) -> None:
        self.set(n)
