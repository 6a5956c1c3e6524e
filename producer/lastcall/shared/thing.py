"""Thing: a handle to what several processes share, by its name. It pickles, and works in every thread and process."""

from __future__ import annotations

import itertools
import os
import threading
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from lastcall.checks import plain_name
from lastcall.connection import Connection
from lastcall.current import HELP_S, help_beside, running
from lastcall.errors import ConfigError
from lastcall.state import keys
from lastcall.state.scripts import Code
from lastcall.waiting import AWAY, Deadline, Outage, warn_of_loop

if TYPE_CHECKING:
    from lastcall.settings import Settings
    from lastcall.state.scripts import Script

_LOOK_S: Final = 1.0  # covers what a lost connection may have missed


class Thing:
    """What is shared under a name; the base of all kinds.

    It is kept until nobody has changed it for LASTCALL_TTL_S seconds. Methods raise ServerUnreachable, ServerReadOnly
    and ServerOutOfMemory where the server is away or refuses.
    """

    kind: ClassVar[str]

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
        if self._own_connection.pid != os.getpid():
            self._own_connection = Connection.of(self._own_connection.settings)  # it came here by a fork
        return self._own_connection

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

    def _check_wait(self) -> None:
        """Raise BlocksLoop in a coroutine on a worker: it would hold up all beside it, maybe who it waits for."""
        here = running.get()
        if here is not None:
            here.check_wait(f"{self.kind} {self.name}")

    def _wait(self, look: Callable[[], bool], timeout: float | None) -> bool:
        """Until `look` is true, which is asked first, and again when somebody has published. False at the timeout.

        A worker's function runs other work of its queue meanwhile, which may be what it waits for. Raises BlocksLoop in
        a coroutine on a worker.
        """
        connection, deadline = self._connection, Deadline(timeout)
        outage = Outage(connection)
        while True:
            try:
                if look():
                    return True
                outage.over()
                self._check_wait()
                warn_of_loop()
                announcements = connection.asking.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
                with announcements as announced:
                    announced.subscribe(self._key("meta"))
                    while not look():
                        if deadline.passed:
                            return False
                        if not help_beside(connection.asking):
                            announced.get_message(timeout=deadline.left(HELP_S if running.get() else _LOOK_S))
                return True
            except AWAY as error:
                outage.bear(error, deadline.left(_LOOK_S))
                if deadline.passed:
                    return False


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
