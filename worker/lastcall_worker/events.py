"""TaskEvents: what slots tell monitors (Flower, `celery events`) about calls of users' functions.

A call becomes one task of Celery's own event protocol, under the function's name: received,
started, succeeded or failed. Events are sent in batches, as a Celery worker sends its own.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from typing import Any, Final, NamedTuple

from celery.events.event import get_exchange
from celery.utils.time import utcoffset
from kombu.messaging import Producer

_log = logging.getLogger(__name__)

FLUSH_S: Final = 0.5  # an event is sent within
FLUSH_EVENTS: Final = 100  # and when so many are waiting
_MOST_KEPT: Final = 10_000  # while the broker is away; then the oldest go
_MOST_SENT: Final = 1_000  # in one message
_AGAIN_S: Final = 2.0  # after a failure
_REPR_CHARS: Final = 200
_TRACEBACK_CHARS: Final = 10_000
_BROKER_S: Final = 1.0  # to connect, and to take a batch: a slot waits for it


class Call(NamedTuple):
    """A call of a user's function, as monitors are told of it. args, kwargs: their reprs. Times: since the epoch."""

    uuid: str
    name: str
    args: str
    kwargs: str
    received_s: float
    started_s: float


class TaskEvents:
    """Reports calls in the name of a worker node. All instances of a process share one connection.

    app: the Celery app, whose broker carries the events. hostname: the worker node.
    Nothing here raises or waits long where the broker is away: events are kept, up to 10,000.
    Reprs are cut at 200 characters, tracebacks at 10,000.
    """

    __slots__ = ("_app", "_begun", "_hostname", "_outbox")

    def __init__(self, app: Any, hostname: str) -> None:
        self._app = app
        self._hostname = hostname
        self._outbox = _Outbox.of(app, hostname)
        self._begun: set[str] = set()

    def started(self, call: Call) -> None:
        """It has begun, and may take long; of others, their end tells it all."""
        self._begun.add(call.uuid)
        self._put(*_first(call))

    def finished(self, call: Call, runtime_s: float, result: str) -> None:
        """It has returned. result: its repr."""
        self._end(call, runtime_s, {"type": "task-succeeded", "result": _cut(result), "runtime": runtime_s})

    def failed(self, call: Call, runtime_s: float, exception: str, traceback: str) -> None:
        """It has raised, and its item is given up. exception: its repr."""
        self._end(call, runtime_s, {"type": "task-failed", "runtime": runtime_s, **_raised(exception, traceback)})

    def retried(self, call: Call, runtime_s: float, exception: str, traceback: str) -> None:
        """It has raised, and its item will be tried again."""
        self._end(call, runtime_s, {"type": "task-retried", **_raised(exception, traceback)})

    def flush(self) -> None:
        """Send what is waiting; what is not flushed is sent within half a second."""
        self._mine().flush()

    def _end(self, call: Call, runtime_s: float, last: dict[str, Any]) -> None:
        last |= {"uuid": call.uuid, "timestamp": call.started_s + runtime_s}
        if call.uuid in self._begun:
            self._begun.discard(call.uuid)
            self._put(last)
        else:
            self._put(*_first(call), last)

    def _put(self, *events: dict[str, Any]) -> None:
        self._mine().put(events)

    def _mine(self) -> _Outbox:
        if self._outbox.pid != os.getpid():
            self._outbox = _Outbox.of(self._app, self._hostname)
        return self._outbox


class _Outbox:
    """One process's events that wait to be sent, and the connection that they go through."""

    def __init__(self, app: Any, hostname: str) -> None:
        self.pid = os.getpid()
        self._app = app
        self._hostname = hostname
        self._waiting: deque[dict[str, Any]] = deque(maxlen=_MOST_KEPT)
        self._sending = threading.Lock()
        self._some = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: Any = None
        self._producer: Any = None
        self._exchange: Any = None
        self._not_before = 0.0
        self._away = False

    @classmethod
    def of(cls, app: Any, hostname: str) -> _Outbox:
        # setdefault: two threads that come here at once get the same.
        return _outboxes.setdefault((os.getpid(), id(app), hostname), cls(app, hostname))

    def put(self, events: tuple[dict[str, Any], ...]) -> None:
        self._waiting.extend(events)
        if len(self._waiting) >= FLUSH_EVENTS:
            self.flush(wait=False)
        elif not self._some.is_set():
            self._some.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._flush_in_time, name="lastcall-events", daemon=True)
                self._thread.start()

    def flush(self, *, wait: bool = True) -> None:
        """wait: for another thread that is just sending; it would send these as well."""
        if not self._waiting or time.monotonic() < self._not_before:
            return
        if not self._sending.acquire(blocking=wait):
            return
        batch: list[dict[str, Any]] = []
        try:
            while self._waiting:
                batch = []
                while self._waiting and len(batch) < _MOST_SENT:
                    batch.append(self._waiting.popleft())
                self._send(batch)
        except Exception as error:  # a monitor's events are never the user's work's problem
            self._keep(batch, error)
        else:
            if self._away:
                self._away = False
                _log.info("task events are sent again")
        finally:
            self._sending.release()

    def _flush_in_time(self) -> None:
        while True:
            self._some.wait()
            time.sleep(FLUSH_S)
            self._some.clear()
            self.flush()
            if self._waiting:
                self._some.set()

    def _send(self, batch: list[dict[str, Any]]) -> None:
        producer = self._producer or self._connect()
        offset = utcoffset()
        for event in batch:
            event["hostname"] = self._hostname
            event["pid"] = self.pid
            event["utcoffset"] = offset
        serializer = self._app.conf.event_serializer
        body: Any = batch
        encoded = {"serializer": serializer}
        if serializer == "json":
            # They are plain: json's own encoder has them in a third of the time of kombu's.
            body = json.dumps(batch, separators=(",", ":"))
            encoded = {"content_type": "application/json", "content_encoding": "utf-8"}
        # Without a clock: the receiver gives each its own, in the order in which they arrive.
        producer.publish(
            body,
            routing_key="task.multi",
            exchange=self._exchange.name,
            declare=[self._exchange],
            headers={"hostname": self._hostname},
            delivery_mode=1,
            **encoded,
        )

    def _connect(self) -> Any:
        options: dict[str, float] = {"max_retries": 0, "connect_retries_timeout": _BROKER_S}
        if str(self._app.conf.broker_write_url or "").startswith("redis"):
            options |= {"socket_connect_timeout": _BROKER_S, "socket_timeout": _BROKER_S}
        self._connection = self._app.connection_for_write(connect_timeout=_BROKER_S, transport_options=options)
        self._exchange = get_exchange(self._connection, name=self._app.conf.event_exchange)
        channel = self._connection.default_channel
        self._producer = Producer(channel, auto_declare=False)  # type: ignore[no-untyped-call]
        return self._producer

    def _keep(self, batch: list[dict[str, Any]], error: Exception) -> None:
        self._not_before = time.monotonic() + _AGAIN_S
        room = _MOST_KEPT - len(self._waiting)
        if room > 0:
            self._waiting.extendleft(reversed(batch[-room:]))
        if not self._away:
            self._away = True
            _log.warning("task events cannot be sent now, the last %d are kept: %s", _MOST_KEPT, error)
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            connection.collect(socket_timeout=0.1)


_outboxes: dict[tuple[int, int, str], _Outbox] = {}


def _first(call: Call) -> tuple[dict[str, Any], dict[str, Any]]:
    received = {
        "type": "task-received", "uuid": call.uuid, "name": call.name, "args": _cut(call.args),
        "kwargs": _cut(call.kwargs), "retries": 0, "timestamp": call.received_s,
    }  # fmt: skip
    return received, {"type": "task-started", "uuid": call.uuid, "timestamp": call.started_s}


def _raised(exception: str, traceback: str) -> dict[str, str]:
    return {"exception": _cut(exception), "traceback": _cut_front(traceback)}


def _cut(text: str) -> str:
    return text if len(text) <= _REPR_CHARS else text[: _REPR_CHARS - 3] + "..."


def _cut_front(text: str) -> str:
    return text if len(text) <= _TRACEBACK_CHARS else "..." + text[3 - _TRACEBACK_CHARS :]
