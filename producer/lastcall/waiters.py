"""Waiters: concurrent.futures.wait() and as_completed() in a function on a worker do what they wait for, as result()
does.

Neither asks a future for anything: each hangs something with an event into all of them (`Future._waiters`), and waits
for that event. So it is made one that helps.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from lastcall.current import HELP_S, help_with, running
from lastcall.waiting import Deadline

if TYPE_CHECKING:
    from lastcall.state.ledger import Ledger


class Waiters(list[Any]):
    """Those who wait for a future whose call is in this ledger's queue."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def append(self, waiter: Any) -> None:
        """One begins to wait, and holds the locks of all the futures that it waits for."""
        if running.get():
            if not isinstance(waiter.event, _Helping):
                waiter.event = _Helping()
            waiter.event.ledgers[self._ledger.address] = self._ledger
        super().append(waiter)


class _Helping(threading.Event):
    def __init__(self) -> None:
        super().__init__()
        self.ledgers: dict[str, Ledger] = {}  # by address

    def wait(self, timeout: float | None = None) -> bool:
        deadline = Deadline(timeout)
        while not super().wait(deadline.left(HELP_S)) and not deadline.passed:
            any(help_with(ledger) for ledger in self.ledgers.values())
        return self.is_set()
