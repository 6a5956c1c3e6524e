"""Dict, Namespace: a dict between machines, a round trip each method; and attributes on one."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgpack

from lastcall.errors import ConfigError
from lastcall.shared.thing import Thing
from lastcall.state.scripts import Code, script
from lastcall.waiting import reaching

if TYPE_CHECKING:
    from lastcall.connection import Connection

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_NONE: Any = object()
_MOST: int = 500  # items that are sent at once


class Dict(Thing, MutableMapping[K, V]):
    """A dict, in the order of insertion. Keys: str, bytes, int, float, bool, None, and tuples of them.

    Values, and keys, are copies: a value that is changed must be put again. keys(), values() and items() are lists.
    Each method is atomic by itself; several are not: hold a lock, or use setdefault().
    """

    kind: ClassVar[str] = "dict"

    def __init__(self, connection: Connection, name: str) -> None:
        super().__init__(connection, name)

    @reaching
    def __getitem__(self, key: K) -> V:
        field = _field(key)
        sealed = self._redis.hget(self._key("fields"), field)
        if sealed is None:
            raise KeyError(key)
        return self._open(field, sealed)[1]

    def __setitem__(self, key: K, value: V) -> None:
        self.update({key: value})

    def __delitem__(self, key: K) -> None:
        self._take(key)

    @reaching
    def __contains__(self, key: object) -> bool:
        return bool(self._redis.hexists(self._key("fields"), _field(key)))

    @reaching
    def __len__(self) -> int:
        return int(self._redis.hlen(self._key("fields")))

    def __iter__(self) -> Iterator[K]:
        return iter(self.keys())

    def __reversed__(self) -> Iterator[K]:
        return reversed(self.keys())

    def __or__(self, other: Any) -> dict[Any, Any]:
        return self.copy() | other.copy() if isinstance(other, dict | Dict) else NotImplemented

    def __ror__(self, other: Any) -> dict[Any, Any]:
        return other | self.copy() if isinstance(other, dict) else NotImplemented

    def __ior__(self, other: Any) -> Dict[K, V]:
        self.update(other)
        return self

    def get(self, key: K, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def keys(self) -> list[K]:  # type: ignore[override]
        return [key for key, _ in self.items()]

    def values(self) -> list[V]:  # type: ignore[override]
        return [value for _, value in self.items()]

    @reaching
    def items(self) -> list[tuple[K, V]]:  # type: ignore[override]
        pipeline = self._redis.pipeline(transaction=True)  # one moment's
        pipeline.hgetall(self._key("fields"))
        pipeline.zrange(self._key("order"), 0, -1)
        fields, order = pipeline.execute()
        return [self._open(field, fields[field]) for field in order]

    def copy(self) -> dict[K, V]:
        return dict(self.items())

    @reaching
    def update(self, other: Any = (), /, **more: Any) -> None:
        """As of a dict; in one go for up to 500 items."""
        pairs = [*dict(other.copy() if isinstance(other, Dict) else other, **more).items()]
        for at in range(0, len(pairs), _MOST):
            sealed: list[bytes] = []
            for key, value in pairs[at : at + _MOST]:
                field = _field(key)
                sealed += (field, self._seal(field, key, value))
            self._run(script("store"), "set", *sealed)

    @reaching
    def setdefault(self, key: K, default: Any = None) -> Any:
        field = _field(key)
        code, *found = self._run(script("store"), "keep", field, self._seal(field, key, default))
        return default if code == Code.OK else self._open(field, found[0])[1]

    def pop(self, key: K, default: Any = _NONE) -> Any:
        try:
            return self._take(key)
        except KeyError:
            if default is _NONE:
                raise
            return default

    @reaching
    def popitem(self) -> tuple[K, V]:
        code, *found = self._run(script("take"), "last", "")
        if code != Code.OK:
            raise KeyError("popitem(): dictionary is empty")
        return self._open(*found)

    @reaching
    def clear(self) -> None:
        self._run(script("take"), "all", "")

    def __str__(self) -> str:
        return str(self.copy())

    __repr__ = Thing.__repr__
    __hash__ = Thing.__hash__
    __eq__ = Thing.__eq__

    @reaching
    def _take(self, key: K) -> V:
        field = _field(key)
        code, *found = self._run(script("take"), "field", field)
        if code != Code.OK:
            raise KeyError(key)
        return self._open(*found)[1]

    def _seal(self, field: bytes, key: K, value: V) -> bytes:
        return self._connection.sealer.seal((key, value), "shared", self.name, field.hex())

    def _open(self, field: bytes, sealed: bytes) -> tuple[K, V]:
        key, value = self._connection.sealer.open(sealed, "shared", self.name, field.hex())
        return _as_key(key), value


class Namespace:
    """Attributes that are shared, those that do not begin with an underscore."""

    def __init__(self, attributes: Dict[str, Any]) -> None:
        object.__setattr__(self, "_attributes", attributes)

    def __reduce__(self) -> tuple[Any, ...]:
        return Namespace, (self._attributes,)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._attributes[name]
        except KeyError:
            raise AttributeError(f"'Namespace' object has no attribute {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            self._attributes[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self._attributes[name]
        except KeyError:
            raise AttributeError(f"'Namespace' object has no attribute {name!r}") from None

    def __str__(self) -> str:
        said = (f"{name}={value!r}" for name, value in self._attributes.items())
        return f"Namespace({', '.join(said)})"


def _field(key: object) -> bytes:
    """Bytes that are the same for keys that are equal."""
    packed: bytes = msgpack.packb(_plain(key), unicode_errors="surrogatepass")
    return packed


def _plain(key: object) -> object:
    if isinstance(key, tuple):
        return [_plain(part) for part in key]
    if isinstance(key, bool) or (isinstance(key, float) and key.is_integer()):
        key = int(key)  # 1, 1.0 and True are one key
    if isinstance(key, int) and not -(2**63) <= key < 2**64:
        return msgpack.ExtType(0, str(key).encode())
    if key is None or isinstance(key, int | float):
        return key
    if isinstance(key, str):
        return str(key)
    if isinstance(key, bytes):
        return bytes(key)
    hash(key)  # a TypeError for what is no key at all
    raise ConfigError("a key", "a str, bytes, int, float, bool, None, or a tuple of them", repr(key))


def _as_key(key: Any) -> Any:
    return tuple(map(_as_key, key)) if isinstance(key, list) else key  # without a key tuples arrive as lists


def filled(thing: Dict[Any, Any], args: Iterable[Any], more: dict[str, Any]) -> Dict[Any, Any]:
    """The same, with what dict(*args, **more) has in it."""
    first = dict(*args, **more)
    if first:
        thing.update(first)
    return thing
