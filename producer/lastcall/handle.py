"""Handle: a queue of the ledger as one process has it. It may be pickled, and inherited by a fork."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from lastcall.connection import Connection
from lastcall.errors import UnknownJob
from lastcall.state.ledger import Ledger
from lastcall.state.records import split
from lastcall.waiting import AWAY, unreachable

if TYPE_CHECKING:
    from typing import Self

    from lastcall.settings import Settings

H = TypeVar("H", bound="Handle")


class Handle:
    """What all kinds of queues have: a connection, and the ledger of a queue that exists."""

    @classmethod
    def of(cls, connection: Connection, ledger: Ledger, meta: Mapping[str, bytes] | None = None) -> Self:
        """A handle to a queue that exists. meta: the ledger's, where it was just asked for. Raises UnknownJob."""
        handle = cls.__new__(cls)
        handle._hold(connection, ledger, meta)
        return handle

    def _hold(self, connection: Connection, ledger: Ledger, meta: Mapping[str, bytes] | None = None) -> None:
        meta = ledger.meta() if meta is None else meta
        if not meta:
            raise UnknownJob(ledger.shown)
        self._own_connection = connection
        self._own_ledger = ledger
        self.name = ledger.name
        self.job = ledger.job
        self.workers = meta["celery"].decode()
        self.maxsize = int(meta["maxsize"])
        self.function_name = meta["identity"].decode()
        self._maxbytes = int(meta["maxbytes"])
        self._results = meta["results"].decode()
        self._on_error = meta["on_error"].decode()
        self._bounds = meta["bounds"].decode()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._own_ledger.shown}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return attach, (type(self), self._own_connection.settings, self._own_ledger.address)

    @property
    def _connection(self) -> Connection:
        if self._own_connection.pid != os.getpid():
            # It came here by a fork: the parent's connection, and the leases that it renews, are the parent's.
            self._own_connection = Connection.of(self._own_connection.settings)
            self._own_ledger = Ledger(self._own_connection.redis, self.job, self._own_ledger.names)
        return self._own_connection

    @property
    def _ledger(self) -> Ledger:
        _ = self._connection
        return self._own_ledger


def attach(kind: type[H], settings: Settings, address: str) -> H:
    """A handle to a queue that exists. Raises UnknownJob, ServerUnreachable."""
    connection = Connection.of(settings)
    try:
        return kind.of(connection, Ledger.open(connection.redis, *split(address)))
    except AWAY as error:
        raise unreachable(connection, error) from error
