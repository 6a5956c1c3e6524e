"""Notifications: a worker tells a URL how a queue ended. What both sides, and who is told, need to know.

The script that ends a queue writes down what is to be told (`_settle.lua`); a worker's reaper makes it the one item of
a queue of its own, whose function posts it (lastcall_worker/notifier.py): so retries, leases and dead letters are as
for any item. A notification has Standard Webhooks' headers (standardwebhooks.com), which others' libraries know, too.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import json
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from lastcall.errors import BadNotification, ConfigError, NotificationRefused

if TYPE_CHECKING:
    from lastcall.connection import Connection

TOLERANCE_S: Final = 300.0

_PREFIX: Final = "notify:"  # of the Celery queues that workers serve for the hosts that they may tell
_PORTS: Final = {"https": 443, "http": 80}
_HOST: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
# Not what stands beside brackets, which urlsplit() overlooks in some of Python's versions.
_NETLOC: Final = re.compile(r"(\[[^\[\]]*\]|[^\[\]]*)(:[0-9]*)?")
_SECRET: Final = "whsec_"


class Origin(NamedTuple):
    """Where a URL leads to. host: as it is connected to, IPv6 without brackets."""

    scheme: str
    host: str
    port: int

    @property
    def celery_queue(self) -> str:
        """What notifications for it travel through: the workers that may tell it serve this."""
        return f"{_PREFIX}{self.scheme}:{self.host}:{self.port}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (f":{self.port}" if self.port != _PORTS[self.scheme] else "")


class Notification(NamedTuple):
    """What is posted: the item of its queue. id: the same in every attempt. Monitors see it without the URL's path."""

    url: str
    id: str
    body: str

    def __repr__(self) -> str:
        return f"<Notification {self.id} for {split('url', self.url)[0]}>"


def allowed(entry: str) -> Origin:
    """An entry of LASTCALL_NOTIFY_HOSTS: a host, or host:port, for https; http://host:port. Raises ConfigError."""
    name = "notify_hosts (LASTCALL_NOTIFY_HOSTS)"
    parts = split(name, entry if "://" in entry else f"https://{entry}")
    if parts[1] != "/":
        expected = "hosts such as hooks.example.com or http://127.0.0.1:8000"
        raise ConfigError(name, expected, repr(entry), "leave out the path")
    return parts[0]


def split(name: str, url: object) -> tuple[Origin, str]:
    """A URL's origin, and what is asked for there. name: of the option. Raises ConfigError, without the path."""
    expected = "a URL such as https://hooks.example.com/done"
    if not isinstance(url, str):
        raise ConfigError(name, expected, f"a {type(url).__name__}")
    if not url.isascii() or re.search(r"[\s\\\x00-\x1f\x7f]", url):
        raise ConfigError(name, expected, "one with other characters than a URL has", "write them as %..")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").removesuffix("."), parts.port
    except ValueError as error:
        raise ConfigError(name, expected, "one whose host or port cannot be read") from error
    if parts.scheme not in _PORTS:
        raise ConfigError(name, expected, f"the scheme {parts.scheme!r}")
    if "@" in parts.netloc:
        raise ConfigError(name, "a URL without user and password", "one with them", "a path may have a secret part")
    if parts.fragment:
        raise ConfigError(name, "a URL without a #fragment", "one with it", "a server is never sent that")
    known = _is_address(host) if ":" in host else _HOST.fullmatch(host)
    if not known or not _NETLOC.fullmatch(parts.netloc) or port == 0:
        raise ConfigError(name, expected, f"the host {parts.netloc!r}")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Origin(parts.scheme, host, port or _PORTS[parts.scheme]), target


def check(connection: Connection, url: object) -> None:
    """Whether a worker may tell this URL, as far as it is known here. Raises ConfigError, NotificationRefused."""
    origin, _ = split("notify", url)
    if not connection.sealer.keyed:
        raise ConfigError("notify", "given where there is a key, which signs notifications", "none",
                          "set LASTCALL_KEY on both sides")  # fmt: skip
    if connection.cluster is not None:  # its workers have this process's settings
        may = [allowed(host).celery_queue for host in connection.settings.notify_hosts]
    else:
        workers = connection.registry.live()
        if not workers:
            return  # those that come will know
        may = [queue for worker in workers for queue in worker.queues if queue.startswith(_PREFIX)]
    if origin.celery_queue not in may:
        raise NotificationRefused(str(origin), _among(may))


def seal_url(connection: Connection, job: str, queue: str, url: str) -> str:
    """As it stands in the ledger: only who has the key can have a worker call a URL."""
    return base64.b64encode(connection.sealer.seal(url, job, queue, "notify")).decode()


def open_url(connection: Connection, job: str, queue: str, sealed: str) -> str:
    """The URL again. Raises BadEnvelope."""
    url: str = connection.sealer.open(base64.b64decode(sealed), job, queue, "notify")
    return url


def secret(key: str | bytes) -> str:
    """What signs notifications, derived of LASTCALL_KEY: "whsec_...", as libraries for Standard Webhooks take it.

    Give this to whoever is told, not the key: with that anybody may run code on the workers.
    """
    raw = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key
    return _SECRET + base64.b64encode(hmac.digest(raw, b"lastcall notification", "sha256")).decode()


def sign(key: bytes, identity: str, body: bytes, now_s: float | None = None) -> dict[str, str]:
    """A notification's headers. identity: the same in every attempt."""
    timestamp = str(int(time.time() if now_s is None else now_s))
    return {
        "content-type": "application/json",
        "webhook-id": identity,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{_signature(secret(key), identity, timestamp, body)}",
    }


def verify_notification(
    headers: Mapping[str, str], body: bytes | str, *keys: str | bytes, tolerance_s: float = TOLERANCE_S
) -> dict[str, Any]:
    """Check that a request comes of a worker that has the key, and is not an old one sent anew; give its content.

    headers: of the request, in whatever case. body: as it came. keys: notification_secret(LASTCALL_KEY), or that key
    itself; while another takes its place, both. tolerance_s: how far its time may be from this machine's. The
    content's `id` is the same if the same notification comes again, as it may: a worker that dies just after it was
    accepted has nobody to tell so.
    Raises BadNotification.
    """
    given = {name.lower(): value for name, value in headers.items()}
    missing = [name for name in ("webhook-id", "webhook-timestamp", "webhook-signature") if not given.get(name)]
    if missing:
        raise BadNotification(f"the header {missing[0]} is missing")
    identity, timestamp = given["webhook-id"], given["webhook-timestamp"]
    if not keys:
        raise ConfigError("keys", "LASTCALL_KEY, or notification_secret() of it", "none")
    raw = body.encode() if isinstance(body, str) else body
    right = [_signature(_secret_of(key), identity, timestamp, raw).encode() for key in keys]
    signatures = (one.partition("v1,")[2].encode() for one in given["webhook-signature"].split())
    if not any(hmac.compare_digest(one, other) for one in signatures for other in right):
        raise BadNotification("its signature is not of this key, or it was changed on the way")
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > tolerance_s:
        raise BadNotification(f"its time {timestamp} is more than {tolerance_s:g} s from now")
    content: dict[str, Any] = json.loads(raw)
    if content.get("id") != identity:
        raise BadNotification("its id is not that of its content")
    return content


def _secret_of(key: str | bytes) -> str:
    text = key.decode("latin-1") if isinstance(key, bytes) else key
    return text if text.startswith(_SECRET) else secret(key)


def _signature(whsec: str, identity: str, timestamp: str, body: bytes) -> str:
    try:
        raw = base64.b64decode(whsec.removeprefix(_SECRET), validate=True)
    except binascii.Error as error:
        expected = "LASTCALL_KEY or notification_secret() of it"
        raise ConfigError("key", expected, "one that begins as the latter, and is not", str(error)) from error
    signed = f"{identity}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.digest(raw, signed, "sha256")).decode()


def _is_address(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _among(celery_queues: list[str]) -> list[str]:
    return sorted({str(Origin(scheme, host, int(port))) for scheme, host, port in map(_parts, celery_queues)})


def _parts(celery_queue: str) -> tuple[str, str, str]:
    scheme, _, rest = celery_queue.removeprefix(_PREFIX).partition(":")
    host, _, port = rest.rpartition(":")
    return scheme, host, port
