"""Thing: a handle to what several processes share, by its name. It pickles, and works in every thread and process."""

from __future__ import annotations

import itertools
import os
import threading
import uuid
from typing import TYPE_CHECKING, Any, ClassVar

from lastcall.checks import plain_name
from lastcall.connection import Connection
from lastcall.errors import ConfigError
from lastcall.state import keys
from lastcall.state.scripts import Code

if TYPE_CHECKING:
    from lastcall.settings import Settings
    from lastcall.state.scripts import Script


class Thing:
    """What is shared under a name; the base of all kinds.

    It is kept until nobody has changed it for LASTCALL_TTL_S seconds. Methods raise ServerUnreachable, ServerReadOnly
    and ServerOutOfMemory where the server is away or refuses.
    """

    kind: ClassVar[str]
    _twin: ClassVar[str]  # how one that is waited for is awaited, for who would block an event loop

    def __init__(self, connection: Connection, name: str, options: tuple[Any, ...] = ()) -> None:
        plain_name("name", name)
        self.name = name
        self._options = options
        self._own_connection = connection
        self._keys = [key.encode() for key in keys.shared(name)]

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (type(self), self._own_connection.settings, self.name, self._options)

    def __repr__(self) -> str:
        return f"<lastcall {self.kind} {self.name}>"

    @property
    def _connection(self) -> Connection:
        connection = self._own_connection = self._own_connection.here()
        return connection

    def _key(self, part: str) -> bytes:
        return self._keys[keys.SHARED_PARTS.index(part)]

    @property
    def _redis(self) -> Any:
        return self._connection.redis

    def _run(self, script: Script, *args: Any, asking: bool = False) -> list[Any]:
        """Run a script. asking: for waits. Raises ConfigError where the name is that of another kind of thing."""
        connection = self._connection
        reply = script(
            connection.asking if asking else connection.redis, self._keys,
            *_change(), int(connection.settings.ttl_s * 1000), self._said, *args,
        )  # fmt: skip
        if reply[0] == Code.MISMATCH:
            there = reply[1].decode()
            raise ConfigError("name", f"that of a {self._said}", f"{self.name!r}, of a {there}", "use another name")
        return reply

    @property
    def _said(self) -> str:
        """Its kind and options, as everybody must say them."""
        return " ".join((self.kind, *map(str, self._options)))


def remove(connection: Connection, names: list[str]) -> None:
    """Remove shared things, whatever they are."""
    for name in names:
        connection.redis.unlink(*keys.shared(name))


def _attach(kind: type[Thing], settings: Settings, name: str, options: tuple[Any, ...]) -> Thing:
    thing = kind.__new__(kind)
    Thing.__init__(thing, Connection.of(settings), name, options)
    return thing


class _Writer(threading.local):
    """Who changes things: one change after the other."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.id = uuid.uuid4().hex
        self.numbers = itertools.count(1)


_writer = _Writer()


def _change() -> tuple[str, int]:
    """Who makes a change, and the number of the change."""
    if _writer.pid != os.getpid():
        _Writer.__init__(_writer)
    return _writer.id, next(_writer.numbers)
