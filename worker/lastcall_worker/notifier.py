"""Notifier: how a queue's end comes to the URL that is to be told (lastcall/notify.py).

The reaper finds what the script that ended a queue wrote down, and makes it the one item of a queue whose name is the
notification's id: whoever hands it over again, since a worker died in the middle, finds it there. The slot that runs
that item posts it. So it is posted at least once, by a worker whose operator allows it, and tried again like any item.
"""

from __future__ import annotations

import hashlib
import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

import urllib3
from urllib3.exceptions import HTTPError

from lastcall import notify
from lastcall.connection import Connection
from lastcall.current import current, running
from lastcall.errors import (
    BadEnvelope,
    ItemTimeout,
    NotificationFailed,
    NotificationGone,
    NotificationRefused,
    QueueFinished,
)
from lastcall.payload import seal_values
from lastcall.policy import told
from lastcall.queue import make
from lastcall.state.records import ENDED, shown
from lastcall.version import __version__

if TYPE_CHECKING:
    from lastcall.settings import Settings
    from lastcall.state.ledger import Ledger
    from lastcall_worker.running import Running

_log = logging.getLogger(__name__)

_PRODUCER: Final = "ledger"
_RETRIES: Final = 12  # the last some 20 to 40 minutes after the first
_TIMEOUT: Final = urllib3.Timeout(connect=5.0, read=10.0)
_ITEM_S: Final = 30.0  # for an answer that comes drop by drop
_GONE: Final = 410  # as Standard Webhooks has it: it is not to be asked again
_A_SWEEP: Final = 100
_COUNTERS: Final = ("epoch", "put", "done", "failed", "dead", "cancelled")


class Teller:
    """A reaper's part in notifications."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._said: set[str] = set()  # what nobody may tell, that was logged
        self._left = _A_SWEEP

    def begin(self) -> None:
        """A sweep begins: leases must not wait for long while many queues' ends are handed over."""
        self._left = _A_SWEEP

    def hand_over(self, ledger: Ledger) -> bool:
        """Hand over what is to be told of a queue's ends. False if something is left that nobody can tell now."""
        left = False
        for field, content in ledger.ends().items():
            if self._left and self._hand_over(ledger, json.loads(content)):
                ledger.told(field)
            else:
                left = True
        return not left

    def _hand_over(self, ledger: Ledger, end: dict[str, str]) -> bool:
        connection = Connection.of(self._settings)
        queue = shown(ledger.job, ledger.name)
        try:
            url = notify.open_url(connection, ledger.job, ledger.name, end["notify"])
        except BadEnvelope as error:
            connection.refused()
            _log.error("queue %s: who is to be told of its end is not: %s", queue, error)
            return True
        origin, _ = notify.split("notify", url)
        identity = _identity(ledger, end)
        if not connection.registry.slots(origin.celery_queue):
            if identity not in self._said:
                self._said.add(identity)
                _log.error(
                    "queue %s has ended, and %s is to be told, which no worker here may: name it in their "
                    "LASTCALL_NOTIFY_HOSTS",
                    *(queue, origin),
                )
            return False
        self._said.discard(identity)
        self._left -= 1
        _put(
            connection,
            identity,
            origin.celery_queue,
            notify.Notification(url, identity, _body(ledger.job, identity, end)),
        )
        return True


def _put(connection: Connection, identity: str, celery_queue: str, item: notify.Notification) -> None:
    """Make an item the one of a queue of this name. Each step may be made again, where who made it died."""
    queue = make(
        connection, identity, identity, function=deliver, workers=celery_queue, results="discard",
        on_error="dead", on_lost="wait", policy=told(retries=_RETRIES, backoff_s=1.0, timeout=_ITEM_S,
                                                     retry_on=(NotificationFailed, ItemTimeout)),
    )  # fmt: skip
    ledger = queue._ledger
    try:
        lease = ledger.join(_PRODUCER)
    except QueueFinished:
        return  # it was put, and its producer has left
    if lease.seq == 0:
        payload = seal_values(connection.sealer, ledger.job, ledger.name, f"{lease.index}-1", [item])
        slots = connection.slots(celery_queue)
        put = ledger.put(_PRODUCER, lease.epoch, 1, [(1, payload)], max(1, slots))
        connection.send(celery_queue, ledger.address, put.tickets)
    ledger.leave(_PRODUCER, lease.epoch)


def _identity(ledger: Ledger, end: dict[str, str]) -> str:
    """Of one end of one queue: the same whoever hands it over, another for each epoch."""
    what = "/".join((ledger.job, ledger.name, end["created"], end["epoch"]))
    return f"notify-{hashlib.blake2b(what.encode(), digest_size=16).hexdigest()}"


def _body(job: str, identity: str, end: dict[str, str]) -> str:
    assert end["state"] in ENDED
    return json.dumps({
        "id": identity,
        "type": f"queue.{end['state'].lower()}",
        "timestamp": _time(end["ended"]),
        "data": {
            "job": job, "queue": end["name"], "state": end["state"],
            **{name: int(end[name]) for name in _COUNTERS},
            "lost": end["lost"].split(), "created": _time(end["created"]), "ended": _time(end["ended"]),
        },
    })  # fmt: skip


def _time(ms: str) -> str:
    return datetime.fromtimestamp(int(ms) / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def deliver(item: notify.Notification) -> None:
    """Post a notification: what the slot runs.

    Raises NotificationFailed, which is tried again; NotificationGone, NotificationRefused.
    """
    url, identity, body = item
    settings = cast("Running", running.get()).slot.station.settings
    origin, target = notify.split("notify", url)
    may = [str(notify.allowed(host)) for host in settings.notify_hosts]
    if str(origin) not in may:
        raise NotificationRefused(str(origin), may)
    assert settings.key is not None  # what is in hand was signed
    headers = notify.sign(settings.key, identity, body.encode())
    try:
        status, location = _post(origin, target, body.encode(), headers)
    except (HTTPError, OSError) as error:
        _tell(origin, identity, str(error))
        raise NotificationFailed(str(origin), identity, str(error)) from error
    if 300 <= status < 400 and location:
        raise NotificationRefused(str(origin), may, location)
    if status == _GONE:
        raise NotificationGone(str(origin), identity)
    if not 200 <= status < 300:
        _tell(origin, identity, f"status {status}")
        raise NotificationFailed(str(origin), identity, f"it answered with status {status}", status)


def _post(origin: notify.Origin, target: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    """An answer's status, and where it redirects to, which nobody follows. No proxy of the environment is asked."""
    manager = urllib3.PoolManager(retries=False, timeout=_TIMEOUT)
    try:
        # Connected to what was checked, not to what another reading of the URL may make of it.
        pool: Any = manager.connection_from_host(origin.host, origin.port, origin.scheme)
        answer = pool.urlopen(
            "POST", target, body=body, headers={"user-agent": f"lastcall/{__version__}", **headers},
            retries=False, redirect=False, preload_content=False,
        )  # fmt: skip
        answer.close()  # what else it says is of no interest, however long it is
        return int(answer.status), str(answer.headers.get("location", ""))[:200]
    finally:
        manager.clear()


def _tell(origin: notify.Origin, identity: str, why: str) -> None:
    _log.warning("%s did not accept notification %s at attempt %d: %s", origin, identity, current.attempt, why)
