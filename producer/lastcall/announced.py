"""Waits for what is announced: that queues have ended, that one has nothing left, that a shared thing has changed.

An Announced says what is waited for, block() is who waits in a thread; who awaits it is in aio/announced.py. What a
lost connection may have missed, a look every second covers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from lastcall.current import HELP_S, help_at, help_beside, help_with, running
from lastcall.errors import WaitTimeout
from lastcall.waiting import AWAY, Deadline, Outage, Patience, describe, warn_of_loop

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.shared.thing import Thing
    from lastcall.state.ledger import Ledger
    from lastcall.state.records import Status

LOOK_S: Final = 1.0


class Announced:
    """Something that is looked for, and again whenever something was published on one of `channels`.

    what: it is, in words; twin: how it is awaited, for who would block an event loop.
    """

    takes = False  # whether a look that finds it has taken something

    def __init__(self, connection: Connection, what: str, channels: Sequence[bytes], *, twin: str) -> None:
        self.connection, self.what, self.channels, self.twin = connection, what, channels, twin
        self.outage = Outage(connection)

    def look(self, told: bool) -> bool:
        """Whether it is there. told: something was published since the last look. Raises what redis-py does."""
        raise NotImplementedError

    def help(self, waited_s: float) -> bool:
        """Where a worker's function waits: do what may bring it about. Whether there was something to do."""
        raise NotImplementedError

    def describe(self) -> str:
        """What is waited for, and how that stands, in words."""
        return self.what

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While it is waited for."""
        yield

    def check(self, deadline: Deadline, told: bool) -> bool:
        """look(), which bears a server that is away. Raises ServerUnreachable and the like after a minute."""
        try:
            found = self.look(told)
        except AWAY as error:
            self.outage.bear(error, deadline.left(LOOK_S))
            return False
        self.outage.over()
        return found


class Ends(Announced):
    """Every one of some queues has ended. Its looks raise NoWorker, UnknownJob."""

    def __init__(self, connection: Connection, ledgers: Sequence[Ledger]) -> None:
        what = f"queue {', '.join(ledger.shown for ledger in ledgers)}"
        super().__init__(connection, what, [ledger.results_key for ledger in ledgers], twin="await queue.join()")
        self._ledgers = [connection.asked(ledger) for ledger in ledgers]
        self._patience = {ledger.address: Patience(connection) for ledger in ledgers}
        self._ended: dict[str, Status] = {}
        self._waiting: list[Status] = []

    @property
    def statuses(self) -> list[Status]:
        """Of all of them, when they have ended."""
        return [self._ended[ledger.address] for ledger in self._ledgers]

    def look(self, told: bool) -> bool:
        self._waiting = []
        for ledger in self._ledgers:
            if ledger.address not in self._ended:
                status = ledger.status()
                if status.ended:
                    self._ended[ledger.address] = status
                else:
                    self._patience[ledger.address].look(status)
                    self._waiting.append(status)
        return not self._waiting

    def help(self, waited_s: float) -> bool:
        return any(help_with(ledger) for ledger in self._ledgers)

    def describe(self) -> str:
        if self.outage or not self._waiting:
            return f"{self.what}: {self.outage}"
        return "; ".join(describe(self.connection, status) for status in self._waiting)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for ledger in self._ledgers:
                stack.enter_context(self.connection.heart.watching(ledger))
            yield


class Idle(Announced):
    """All that was put into a queue is done, or was for a moment, though more may come. Its looks raise UnknownJob."""

    def __init__(self, connection: Connection, ledger: Ledger) -> None:
        super().__init__(connection, f"queue {ledger.shown}", [ledger.results_key], twin="await queue.join()")
        self._ledger = connection.asked(ledger)

    def look(self, told: bool) -> bool:
        if told:  # that nothing was left for a moment
            return True
        status = self._ledger.status()
        return not status.ready + status.leased + status.delayed

    def help(self, waited_s: float) -> bool:
        return help_at(self._ledger, waited_s)

    def describe(self) -> str:
        return self.outage.describe(self._ledger)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        with self.connection.heart.watching(self._ledger):
            yield


class Changed(Announced):
    """A shared thing has come to be as `look` says. A worker's function runs other work of its queue meanwhile, which
    may be what it waits for."""

    def __init__(self, thing: Thing, look: Callable[[], bool], *, twin: str) -> None:
        super().__init__(thing._connection, f"{thing.kind} {thing.name}", [thing._key("meta")], twin=twin)
        self._look = look

    def look(self, told: bool) -> bool:
        return self._look()

    def help(self, waited_s: float) -> bool:
        return help_beside(self.connection.asking)


def block(announced: Announced, timeout_s: float | None) -> bool:
    """Until it is there; False at the timeout, in seconds (None: none). Raises what its looks raise."""
    connection, outage, deadline = announced.connection, announced.outage, Deadline(timeout_s)
    if timeout_s is None or timeout_s > 0:
        warn_of_loop(announced.what, announced.twin)
    with announced.watching():
        if announced.check(deadline, False):
            return True
        if deadline.passed:
            return False
        while True:
            try:
                subscription = connection.asking.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
                with subscription:
                    # First subscribed, then looked: it is either announced or seen.
                    subscription.subscribe(*announced.channels)
                    told = False
                    while not announced.look(told):
                        outage.over()
                        if deadline.passed:
                            return False
                        told = False
                        # A worker's function does what it waits for, where nobody else does.
                        if not announced.help(deadline.waited_s):
                            wait_s = deadline.left(HELP_S if running.get() else LOOK_S)
                            told = subscription.get_message(timeout=wait_s) is not None
                return True
            except AWAY as error:
                outage.bear(error, deadline.left(LOOK_S))
                if deadline.passed:
                    return False


def wait_for_end(connection: Connection, ledgers: Sequence[Ledger], timeout_s: float | None = None) -> list[Status]:
    """Block until every one of these queues has ended.

    timeout_s: None waits for as long as it takes. Raises WaitTimeout, NoWorker, UnknownJob, ServerUnreachable.
    """
    ends, deadline = Ends(connection, ledgers), Deadline(timeout_s)
    if not block(ends, timeout_s):
        raise WaitTimeout(ends.describe(), deadline.waited_s)
    return ends.statuses


def wait_until_idle(connection: Connection, ledger: Ledger, timeout_s: float | None = None) -> None:
    """Block until all that was put into a queue is done, though more may come.

    timeout_s: None waits for as long as it takes. Raises WaitTimeout, UnknownJob, ServerUnreachable.
    """
    idle, deadline = Idle(connection, ledger), Deadline(timeout_s)
    if not block(idle, timeout_s):
        raise WaitTimeout(idle.describe(), deadline.waited_s)
