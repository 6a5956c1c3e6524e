"""TicketSender: brings tickets to workers, as messages for the Celery task lastcall.slot.

The only place that speaks Celery's message protocol, through kombu alone: a client has no Celery.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Final, TypeVar

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.exceptions import KombuError, OperationalError
from kombu.messaging import Producer
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from lastcall.errors import ServerOutOfMemory, ServerReadOnly, ServerUnreachable, WrongPassword
from lastcall.settings import redact

SLOT_TASK = "lastcall.slot"

_T = TypeVar("_T")

# The pauses of 0.1, 0.3 and 0.5 s bridge a restart of the broker.
_RETRY: Final[dict[str, float]] = {
    "max_retries": 3,
    "interval_start": 0.1,
    "interval_step": 0.2,
    "interval_max": 0.5,
}
_REDIS_OPTIONS: Final[dict[str, float]] = {"socket_connect_timeout": 5.0, "socket_timeout": 10.0}
_EMBED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class TicketSender:
    """Sends tickets to a Celery queue. One may be shared by threads, and used after a fork.

    broker_url: as kombu takes it, Settings.broker.
    """

    def __init__(self, broker_url: str) -> None:
        self._broker_url = broker_url
        self._origin = f"lastcall@{socket.gethostname()}"
        self._link = _Link(broker_url)

    def send(self, celery_queue: str, address: str, tickets: Sequence[str]) -> None:
        """Send tickets for the queue at `address`; several go in one round trip.

        Raises ServerUnreachable, ServerReadOnly, ServerOutOfMemory, WrongPassword. A ticket that arrives twice runs
        once, and one that is lost is replaced, so that an error needs nothing but to be told.
        """
        if tickets:
            self._run(lambda link: link.publish(celery_queue, self._messages(address, tickets)))

    def waiting(self, celery_queue: str) -> int:
        """The number of messages that no worker has fetched yet; 0 where there is no such queue.

        Raises ServerUnreachable, WrongPassword.
        """
        return self._run(lambda link: link.count(celery_queue))

    def close(self) -> None:
        """Close this process's connection; the next use makes another."""
        link = self._current()
        with link.lock:
            link.connection.release()

    def _current(self) -> _Link:
        link = self._link
        if link.pid != os.getpid():
            # A fork: the parent's connection and lock are the parent's. Two threads that come here
            # at once make a link each, of which one is used just once.
            link = self._link = _Link(self._broker_url)
        return link

    def _run(self, action: Callable[[_Link], _T]) -> _T:
        link = self._current()
        with link.lock:
            try:
                ensured = link.connection.ensure(link.producer, lambda: action(link), on_revive=link.revived, **_RETRY)
                result: _T = ensured()
                return result
            except (
                KombuError,
                *link.connection.connection_errors,
                *link.connection.channel_errors,
            ) as error:
                link.reset()
                raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> ServerUnreachable | ServerReadOnly | ServerOutOfMemory | WrongPassword:
        cause = error.__cause__ if isinstance(error, OperationalError) else None
        reason = str(error) or type(cause or error).__name__
        if isinstance(cause or error, OutOfMemoryError):
            return ServerOutOfMemory(redact(self._broker_url), reason)
        if isinstance(cause or error, ReadOnlyError):
            return ServerReadOnly(redact(self._broker_url), reason)
        if type(cause).__name__ in ("AuthenticationError", "AccessRefused"):
            return WrongPassword(redact(self._broker_url), reason)
        if isinstance(cause or error, ResponseError):
            reason = f"it answered {reason!r}"
        return ServerUnreachable(redact(self._broker_url), reason)

    def _messages(self, address: str, tickets: Sequence[str]) -> list[tuple[Any, dict[str, Any]]]:
        """Body and headers of Celery's task messages, protocol 2."""
        messages: list[tuple[Any, dict[str, Any]]] = []
        for ticket in tickets:
            identity = str(uuid.uuid4())
            headers: dict[str, Any] = {
                "lang": "py",
                "task": SLOT_TASK,
                "id": identity,
                "shadow": None,
                "eta": None,
                "expires": None,
                "group": None,
                "group_index": None,
                "retries": 0,
                "timelimit": [None, None],
                "root_id": identity,
                "parent_id": None,
                "argsrepr": f"({address!r}, {ticket!r})",
                "kwargsrepr": "{}",
                "origin": self._origin,
                "ignore_result": True,
                "replaced_task_nesting": 0,
                "stamped_headers": None,
                "stamps": {},
            }
            messages.append((([address, ticket], {}, _EMBED), headers))
        return messages


class _Link:
    """One process's connection to the broker."""

    def __init__(self, broker_url: str) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self._is_redis = broker_url.startswith("redis")
        options = _RETRY | (_REDIS_OPTIONS if self._is_redis else {})
        self.connection: Any = Connection(broker_url, transport_options=options)  # type: ignore[no-untyped-call]
        self.producer: Any = Producer(self.connection, auto_declare=False)  # type: ignore[no-untyped-call]
        self._queues: dict[str, Any] = {}  # declared on this connection

    def revived(self, channel: object) -> None:
        self._queues.clear()

    def reset(self) -> None:
        """After an error that remained: begin with a new connection."""
        self.connection.collect()
        self.producer.revive(self.connection)
        self._queues.clear()

    def queue(self, name: str) -> Any:
        """Declare a queue, as a Celery worker does with one that its settings do not name.

        One that is there stays what its settings made it (a quorum queue, at a topic exchange): it may not be declared
        as anything else. To Redis all are the same, and an empty one is none.
        """
        queue: Any = self._queues.get(name)
        if queue is None:
            exchange = Exchange(name, "direct")  # type: ignore[no-untyped-call]
            queue = Queue(name, exchange, routing_key=name)  # type: ignore[no-untyped-call]
            queue = queue(self.producer.channel)
            if self._is_redis or not self._is_there(name):
                queue.declare()
            self._queues[name] = queue
        return queue

    def _is_there(self, name: str) -> bool:
        channel = self.connection.channel()  # of its own: a broker closes one that asks for what is not there
        try:
            channel.queue_declare(name, passive=True)
        except self.connection.channel_errors:
            return False
        finally:
            channel.close()
        return True

    def publish(self, celery_queue: str, messages: Sequence[tuple[Any, dict[str, Any]]]) -> None:
        self.queue(celery_queue)
        # kombu has batches from 5.7 on; without, each message is a round trip.
        batch = getattr(self.producer, "batch", nullcontext) if len(messages) > 1 else nullcontext
        try:
            with batch():
                for body, headers in messages:
                    # Through the default exchange, as Celery does: no look-up of bindings.
                    self.producer.publish(
                        body,
                        exchange="",
                        routing_key=celery_queue,
                        serializer="json",
                        headers=headers,
                        correlation_id=headers["id"],
                        reply_to="",
                    )
        except KombuError as error:
            # A batch hides what went wrong, which ensure() needs to know to connect again.
            raise error.__cause__ or error from None

    def count(self, celery_queue: str) -> int:
        return int(self.queue(celery_queue).queue_declare(passive=not self._is_redis).message_count)
