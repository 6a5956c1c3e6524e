"""What waits have in common: a deadline, a server that is away meanwhile, workers that are not there, and words for
what is waited for. announced.py waits for the end of queues and the like.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import sys
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from lastcall.connect import Refusal
from lastcall.current import running
from lastcall.errors import (
    ClientClosed,
    DeadLetters,
    NoWorker,
    ProducerLost,
    QueueCancelled,
    ServerOutOfMemory,
    ServerReadOnly,
    ServerUnreachable,
    UnknownJob,
)
from lastcall.state import keys
from lastcall.state.ledger import Ledger
from lastcall.state.records import ENDLESS, shown, split

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.state.records import ProducerStatus, Status

_log = logging.getLogger(__name__)

# What redis-py raises when the server is away; Refusal, one of these, when it is there and cannot do it now.
AWAY: Final = (RedisConnectionError, RedisTimeoutError)
_AWAY_S = 60.0  # how long waits bear that
_AGAIN_S = 0.2

_SILENT_S = 3.0  # from then on a wait says that no worker serves the queue
_MOST_NAMED = 5  # producers, in a message
_DATABASE: Final = re.compile(r"^redis(?:s?://[^/]*/|\+socket://.*[?&]virtual_host=)(\d+)$")

P = ParamSpec("P")
R = TypeVar("R")


class _Connected(Protocol):
    @property
    def _connection(self) -> Connection: ...


C = TypeVar("C", bound=_Connected)


def reaching(method: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R]:
    """Have a method raise ServerUnreachable, ServerReadOnly or ServerOutOfMemory instead of redis-py's errors."""

    @functools.wraps(method)
    def wrapped(self: C, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except AWAY as error:
            raise unreachable(self._connection, error) from error

    return wrapped


def unreachable(connection: Connection, error: Exception) -> ServerUnreachable | ServerReadOnly | ServerOutOfMemory:
    """What to raise when the server is away, or refuses."""
    url, reason = connection.settings.redacted_url, str(error) or type(error).__name__
    if isinstance(error, Refusal):
        if error.read_only:
            return ServerReadOnly(url, reason)
        if error.out_of_memory:
            return ServerOutOfMemory(url, reason)
        reason = f"it answered {reason!r}"
    return ServerUnreachable(url, reason)


def warn_of_loop(what: str, twin: str) -> None:
    """Warn where a wait begins that blocks an event loop, and with it all that run there.

    what: is waited for, in words; twin: how it is awaited. Raises BlocksLoop in a coroutine on a worker.
    """
    if asyncio._get_running_loop() is None:
        return
    if (here := running.get()) is not None:
        here.check_wait(what, twin)
    # The line is that of who called the library, however deep this is in it.
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("lastcall."):
        frame, level = frame.f_back, level + 1
    said = f"this wait for {what} blocks the event loop that it is called in: use AsyncClient, {twin}"
    warnings.warn(said, RuntimeWarning, stacklevel=level)


class Outage:
    """A server that is away while somebody waits: borne for a minute, in which it may be started again.

    Likewise one that takes no writes: it may become the master again, or memory be freed.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._since: float | None = None
        self._how = ""

    def __bool__(self) -> bool:
        return self._since is not None

    def bear(self, error: Exception, most_s: float = _AGAIN_S) -> None:
        """The server did not answer, or refused: pause before it is asked again, `most_s` seconds at most.

        Raises ServerUnreachable, ServerReadOnly or ServerOutOfMemory after a minute.
        """
        if self._connection.closed:
            raise ClientClosed from error
        now = time.monotonic()
        if self._since is None:
            self._since = now
            self._how = "has refused" if isinstance(error, Refusal) else "has been away"
            how = "refuses" if isinstance(error, Refusal) else "is away"
            _log.warning("the server at %s %s: %s", self._connection.settings.redacted_url, how, error)
        if now - self._since >= _AWAY_S:
            raise unreachable(self._connection, error) from error
        time.sleep(max(0.0, min(_AGAIN_S, most_s)))

    def over(self) -> None:
        """It answered."""
        self._since = None

    def describe(self, ledger: Ledger) -> str:
        """What a queue waits for, in words: the server, while it is away."""
        if not self:
            try:
                return describe(self._connection, ledger.status())
            except AWAY:
                pass
        return f"queue {ledger.shown}: {self}"

    def __str__(self) -> str:
        away_s = time.monotonic() - (self._since or time.monotonic())
        return f"the server at {self._connection.settings.redacted_url} {self._how} for {away_s:.0f} s"


class Deadline:
    """A timeout that several waits share. seconds: None for none."""

    def __init__(self, seconds: float | None) -> None:
        self.started = time.monotonic()
        self.seconds = seconds

    def left(self, most: float) -> float:
        """Seconds to wait at once: what is left, at most `most`."""
        if self.seconds is None:
            return most
        return max(0.0, min(most, self.started + self.seconds - time.monotonic()))

    @property
    def waited_s(self) -> float:
        return time.monotonic() - self.started

    @property
    def passed(self) -> bool:
        return self.seconds is not None and self.waited_s >= self.seconds


class Patience:
    """Watches over a wait on a queue: whether a worker is there for what is ready, and is sent its tickets."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._alone_since: float | None = None
        self._settled = 0  # items
        self._said = False

    def look(self, status: Status) -> None:
        """Warn, once, when no worker serves the queue, or its tickets go astray, as it seems; raise NoWorker when that
        was so for too long, and nothing came of it."""
        if not status.workers or not status.ready:
            self._alone_since = None
            return
        cluster = self._connection.cluster
        if cluster is not None:
            cluster.check(status.workers)
        served = self._connection.slots(status.workers) > 0
        astray = _astray(self._connection, status) if served else ""
        if served and not astray:
            self._alone_since = None
            return
        now, settled = time.monotonic(), status.done + status.dead
        if self._alone_since is None or settled != self._settled:
            self._alone_since, self._settled = now, settled
        alone_s = now - self._alone_since
        if alone_s >= self._connection.settings.worker_wait_s:
            if not (astray and _may_come(self._connection, status.workers)):
                raise NoWorker(shown(status.job, status.name), status.workers, alone_s, astray)
            self._alone_since = now
        if alone_s >= _SILENT_S and not self._said and cluster is None:
            self._said = True
            _log.warning("queue %s waits: %s", shown(status.job, status.name), astray or _unserved(status))


def _unserved(status: Status) -> str:
    return f'no worker serves the Celery queue "{status.workers}": start one with: lastcall worker -Q {status.workers}'


def _astray(connection: Connection, status: Status) -> str:
    """That a queue's workers do not get its tickets, as it seems: none has begun, and their broker is another."""
    here, there = connection.settings.broker_shown, _brokers(connection, status.workers)
    if status.started or not status.tickets or connection.cluster is not None or {here, ""} & there:
        return ""
    return (
        f"its tickets go to Celery's broker at {here}, and its workers take theirs from "
        f"{' and '.join(sorted(there))}: if these are not the same, set LASTCALL_BROKER_URL to the workers'"
    )


def _brokers(connection: Connection, celery_queue: str) -> set[str]:
    """Those that the workers of a Celery queue take tickets from; "" where one does not say it."""
    return {info.broker for info in connection.registry.known() if celery_queue in info.queues}


def _may_come(connection: Connection, celery_queue: str) -> bool:
    """Whether workers whose broker is another, as it seems, may come all the same, when other work lets them.

    A server may have two names, of which the client uses one and the workers the other. Two databases are never one.
    """
    here = connection.settings.broker_shown
    if all(_databases_differ(here, there) for there in _brokers(connection, celery_queue)):
        return False
    queues: Any = connection.asking.hgetall(keys.QUEUES)
    for address, workers in queues.items():
        if workers.decode() == celery_queue:
            with contextlib.suppress(UnknownJob):  # it expired meanwhile
                job, name = split(address.decode())
                if Ledger(connection.asking, job, [name]).status().started:
                    return True
    return False


def _databases_differ(one: str, other: str) -> bool:
    """Of two brokers' addresses, as Settings.broker_shown gives them, whether each names another database of Redis."""
    databases = {found[1] for url in (one, other) if (found := _DATABASE.search(url))}
    return len(databases) > 1


def describe(connection: Connection, status: Status) -> str:
    """What a queue waits for, in words."""
    counts = f"{status.ready} ready, {status.leased} running, {status.delayed} delayed of {status.put} put"
    parts = [f"queue {shown(status.job, status.name)} ({status.state}: {counts})"]
    if status.workers and status.ready:
        why = _astray(connection, status) if connection.slots(status.workers) > 0 else _unserved(status)
        if why:
            parts.append(why)
    live = [one for one in status.producers if one.state in ("live", "absent")]
    if not status.producers:
        parts.append("no producer has come yet")
    parts += [_describe_producer(connection, producer) for producer in live[:_MOST_NAMED]]
    if len(live) > _MOST_NAMED:
        parts.append(f"and {len(live) - _MOST_NAMED} more producers")
    missing = status.expected - len(status.producers)
    if not status.ended and missing > 0 and status.producers and status.expected != ENDLESS:
        parts.append(f"{missing} of {status.expected} producers have not come yet")
    return "; ".join(parts)


def _describe_producer(connection: Connection, producer: ProducerStatus) -> str:
    if producer.name.startswith("stage:"):
        return f"its stage {producer.name.removeprefix('stage:')} has not ended"
    quiet = producer.silent_s > connection.settings.lease_s / 2
    return f"producer {producer.name} has not left" + (f", silent for {producer.silent_s:.0f} s" if quiet else "")


def status_of(connection: Connection, ledger: Ledger) -> Status:
    """A queue's status; bears a server that is away. Raises ServerUnreachable after a minute, UnknownJob."""
    outage = Outage(connection)
    while True:
        try:
            return connection.asked(ledger).status()
        except AWAY as error:
            outage.bear(error)


def raise_for(status: Status) -> None:
    """Raise what went wrong in a queue that has ended; nothing if it is drained.

    Raises QueueCancelled, ProducerLost, DeadLetters.
    """
    name = shown(status.job, status.name)
    if status.state == "CANCELLED":
        raise QueueCancelled(name)
    if status.state == "INCOMPLETE":
        raise ProducerLost(name, status.lost)
    if status.dead:
        raise DeadLetters(name, status.dead, status.put)
