"""AsyncResults: what a queue's function returned, `async for`."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lastcall.aio.helping import Waiting
from lastcall.aio.misuse import Awaited
from lastcall.aio.raising import raisable
from lastcall.aio.turn import Turn
from lastcall.errors import WaitTimeout
from lastcall.results import Entry, InOrder, Reader, pairs
from lastcall.waiting import Deadline, raise_for, status_of

if TYPE_CHECKING:
    from lastcall.aio.link import Link
    from lastcall.connection import Connection
    from lastcall.state.ledger import Ledger

_LOOK_S = 1.0


class FedReader(Reader):
    """A reader that is given what was read on the event loop."""

    def __init__(
        self, connection: Connection, ledger: Ledger, *, once: bool, cursor: str = "", upstream: Sequence[Ledger] = ()
    ) -> None:
        super().__init__(connection, ledger, once=once, cursor=cursor, upstream=upstream)
        self._fed: list[Any] = []

    @property
    def key(self) -> bytes:
        return self._ledger.results_key

    @property
    def read_to(self) -> str:
        return self._read_to

    def feed(self, reply: list[Any]) -> list[Entry]:
        """The outcomes in a reply; looks what is the matter where it is empty. Raises what read() raises."""
        self._fed = reply
        return self.read(0.001)

    def look(self) -> None:
        """Nothing has come for a while: see what is the matter. Raises NoWorker, UnknownJob, ServerUnreachable."""
        self.feed([])

    def _ask(self, block_s: float) -> Any:
        if not block_s:
            return super()._ask(0)
        reply, self._fed = self._fed, []
        return reply


class AsyncResults(Awaited):
    """Results as they come; made by queue.results().

    cursor: where another reader would go on, queue.results(cursor=cursor).
    """

    _order: InOrder | None = None

    def __init__(
        self, link: Link, ledger: Ledger, *, once: bool, returns_errors: bool, timeout: float | None, cursor: str,
        ordered: bool = False,
    ) -> None:  # fmt: skip
        self._set(link, ledger, FedReader(link.connection, ledger, once=once, cursor=cursor), timeout)
        self._returns_errors = returns_errors
        self._order = InOrder(link.connection.sealer.keyed) if ordered else None

    def _set(self, link: Link, ledger: Ledger, reader: FedReader, timeout: float | None) -> None:
        self._link, self._ledger, self._reader, self._timeout = link, ledger, reader, timeout
        self._handed: deque[tuple[Any, BaseException | None, list[Entry]]] = deque()
        self._ended = False
        self._turn, self._passed = Turn(), False  # whether an entry was handed out since the last turn

    def __aiter__(self) -> AsyncResults:
        return self

    async def __anext__(self) -> Any:
        """The next result; what results() of StatusableQueue raises."""
        if not self._handed and not self._ended:
            await self._more()
        elif self._passed:  # before anything is taken: this may be cancelled
            await self._turn.take()
        self._passed = False
        if not self._handed:
            raise StopAsyncIteration
        value, error, together = self._handed.popleft()
        if together:
            self._reader.passed(together)  # before it is handed out: whoever has it may ask for no more
            self._passed = True
        if error is not None:
            if self._order is not None:
                self._handed.clear()
                self._ended = True
            raise raisable(error)
        return value

    @property
    def cursor(self) -> str:
        return self._reader.cursor

    async def _more(self) -> None:
        link, reader, deadline = self._link, self._reader, Deadline(self._timeout)
        if reader.owes:
            await link.threads.take(reader.confirm)  # before anything is waited for: it makes room for producers
        with reader.watching(), Waiting(self._ledger) as waiting:
            while not self._handed and not self._ended:
                reply: list[Any] = []
                if not reader.ended:
                    wait_s = waiting.most(deadline.left(_LOOK_S))
                    reply = await link.bells.entries(reader.key, reader.read_to, wait_s)
                if await link.threads.take(self._take_in, reply):
                    return
                if deadline.passed:
                    raise WaitTimeout(f"results of {await link.threads.ask(reader.describe)}", deadline.waited_s)
                if not reply:
                    waiting.help()

    def _take_in(self, reply: list[Any]) -> bool:
        """Whether there are any now, or none will come."""
        reader, keyed = self._reader, self._link.connection.sealer.keyed
        for _, entries in itertools.groupby(reader.feed(reply), key=lambda entry: entry.at):
            together = list(entries)
            if self._order is not None:
                handed = list(self._order.take_in(together))
            else:
                handed = [pair for entry in together for pair in pairs(entry, self._returns_errors, keyed)]
            for at, (value, error) in enumerate(handed):
                self._handed.append((value, error, together if at + 1 == len(handed) else []))
            if not handed:
                reader.passed(together)
        if self._order is not None and reader.ended:
            self._handed.extend((value, error, []) for value, error in self._order.rest())
        if self._handed or not reader.ended:
            return bool(self._handed)
        self._ended = True
        reader.confirm()
        if reader.ended != "DRAINED":
            raise_for(status_of(self._link.connection, self._ledger))
        return True
