"""Settings: one frozen value, read once from arguments and from the LASTCALL_* environment."""

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import (
    SplitResult,
    parse_qs,
    parse_qsl,
    quote,
    unquote,
    urlencode,
    urlsplit,
    urlunsplit,
)

from lastcall.envelope import MIN_KEY_BYTES
from lastcall.errors import ConfigError
from lastcall.notify import allowed as allowed_host

_EXAMPLES = "redis://host:6379/0, rediss://host:6379/0 or unix:///path/to/socket?db=0"
_MOST_ITEM_BYTES = 512 * 1024 * 1024  # the longest value that Redis takes by default

# name: (least, whether least itself is allowed)
_SECONDS: dict[str, tuple[float, bool]] = {
    "lease_s": (0, False),
    "slice_s": (0, False),
    "linger_s": (0, True),
    "reap_s": (0, False),
    "ttl_s": (1, True),
    "worker_wait_s": (0, True),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What a client or a worker needs to know. Settings.load() also reads the environment.

    url: of the server, redis://, rediss:// or unix://; None: a private server on this machine.
    key: signs what travels, at least 16 bytes; None: msgpack values and @task functions only.
    broker_url: of Celery's broker, where it is another; None: the same server.
    lease_s: seconds that a silent producer or worker keeps its leases.
    slice_s: seconds that a slot works on one queue before it lets another have its turn.
    linger_s: seconds that a slot waits for more before it leaves an empty queue.
    reap_s: seconds between two looks for leases that ran out.
    ttl_s: seconds that a finished job is kept.
    max_item_bytes: the largest item that is taken, at most 512 MiB.
    worker_wait_s: seconds to wait for a worker to appear, or to get the tickets, before NoWorker.
    aside_bytes: arrays, bytes and other buffers in the arguments of calls that are at least as large are sent once, not
    with each call (0: with each call, whatever they are).
    aside_cache_bytes: how much of that a worker's process keeps, and a client leaves on the server that no call needs.
    notify_hosts: whom this worker may tell how queues ended (notify=): hosts, for https; http://host:port.
    Raises ConfigError for a value that cannot be used.
    """

    # Not in the repr: they hold secrets.
    url: str | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    broker_url: str | None = field(default=None, repr=False)
    lease_s: float = 10.0
    slice_s: float = 1.0
    linger_s: float = 0.1
    reap_s: float = 1.0
    ttl_s: float = 86_400.0
    max_item_bytes: int = 64 * 1024 * 1024
    worker_wait_s: float = 60.0
    aside_bytes: int = 256 * 1024
    aside_cache_bytes: int = 256 * 1024 * 1024
    notify_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.url is not None:
            _check_url(self.url)
        if self.key is not None:
            _check_key(self.key)
        if self.broker_url is not None and "://" not in self.broker_url:
            raise ConfigError(
                "broker_url (LASTCALL_BROKER_URL)",
                "a URL that Celery takes, such as redis://host:6379/0",
                "one without a scheme",
            )
        for host in self.notify_hosts:
            allowed_host(host)
        for name, (least, allowed) in _SECONDS.items():
            value = getattr(self, name)
            if not _is_number(value) or value < least or (value == least and not allowed):
                raise ConfigError(
                    _both_names(name),
                    f"a number of seconds, {'at least' if allowed else 'more than'} {least}",
                    repr(value),
                )
        size: object = self.max_item_bytes
        if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= _MOST_ITEM_BYTES:
            raise ConfigError(
                _both_names("max_item_bytes"),
                f"an int from 1 to {_MOST_ITEM_BYTES:,}",
                repr(size),
            )
        for name in ("aside_bytes", "aside_cache_bytes"):
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise ConfigError(_both_names(name), "a number of bytes, at least 0", repr(size))

    @classmethod
    def load(
        cls,
        url: str | None = None,
        key: str | bytes | None = None,
        *,
        broker_url: str | None = None,
        password_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        lease_s: float | None = None,
        slice_s: float | None = None,
        linger_s: float | None = None,
        reap_s: float | None = None,
        ttl_s: float | None = None,
        max_item_bytes: int | None = None,
        worker_wait_s: float | None = None,
        aside_bytes: int | None = None,
        aside_cache_bytes: int | None = None,
        notify_hosts: str | Iterable[str] | None = None,
    ) -> "Settings":
        """Settings from the arguments and, for each that is None, from LASTCALL_<NAME>.

        An empty variable counts as not set. password_file holds the server's password, for a URL
        that has none. Raises ConfigError.
        """
        given: dict[str, Any] = {
            "url": url or _from_environment("url"),
            "key": _load_key(key, key_file),
            "broker_url": broker_url or _from_environment("broker_url"),
            "notify_hosts": _hosts(_from_environment("notify_hosts") if notify_hosts is None else notify_hosts),
        }
        sizes = {
            "max_item_bytes": max_item_bytes,
            "aside_bytes": aside_bytes,
            "aside_cache_bytes": aside_cache_bytes,
        }
        for name, size in sizes.items():
            given[name] = size if size is not None else _number_from_environment(name, int)
        seconds = {
            "lease_s": lease_s,
            "slice_s": slice_s,
            "linger_s": linger_s,
            "reap_s": reap_s,
            "ttl_s": ttl_s,
            "worker_wait_s": worker_wait_s,
        }
        for name, value in seconds.items():
            given[name] = value if value is not None else _number_from_environment(name, float)
        if given["url"]:
            path = password_file or _from_environment("password_file")
            parts = _check_url(given["url"])
            if path and _password(parts) is None:
                text = _read("password_file", path).decode("utf-8", "surrogateescape")
                given["url"] = _with_password(parts, text)
        return cls(**{name: value for name, value in given.items() if value is not None})

    @property
    def broker(self) -> str | None:
        """The URL of Celery's broker, as kombu wants it; None without a server."""
        return self.broker_url or (self.url and _kombu_url(self.url))

    @property
    def broker_shown(self) -> str:
        """Celery's broker without user and password, in one spelling: the same for all who use the same address."""
        if self.broker is None:
            return ""
        parts = urlsplit(redact(self.broker))
        netloc = parts.netloc.rpartition("@")[2].replace("localhost", "127.0.0.1")
        if parts.scheme not in ("redis", "rediss"):
            return _join(parts.scheme, netloc, parts.path, parts.query)
        port = "" if re.search(r":\d+$", netloc) else ":6379"
        return f"{parts.scheme}://{netloc}{port}/{parts.path.strip('/') or '0'}"

    @property
    def ticket_lease_ms(self) -> int:
        """How long a slot's ticket is good without being renewed, in ms.

        Two looks of the reaper less than the lease, but half of that at least: what a dead node held is to run again
        when the lease is over, not only to be found then.
        """
        return int(1000 * max(self.lease_s / 2, self.lease_s - 2 * self.reap_s))

    @property
    def redacted_url(self) -> str:
        """The URL for messages, its password replaced by ***."""
        return redact(self.url) if self.url else "a private server on this machine"


def redact(url: str) -> str:
    """A URL without its password, for messages."""
    parts = urlsplit(url)
    query = [
        (name, "***" if "password" in name else value) for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    userinfo, at, host = parts.netloc.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    return _join(
        parts.scheme,
        f"{user}{colon}{'***' if colon else ''}{at}{host}",
        parts.path,
        urlencode(query, safe="*/"),
    )


def _check_url(url: object) -> SplitResult:
    def wrong(got: str, hint: str = "") -> ConfigError:
        return ConfigError("url (LASTCALL_URL)", f"such as {_EXAMPLES}", got, hint)

    if not isinstance(url, str):
        raise wrong(f"a value of type {type(url).__name__}")
    # Where it cannot be parsed, the URL is not shown: a password may be in any place.
    unparsed = wrong(
        "one that cannot be parsed",
        "the port must be a number from 1 to 65535, an IPv6 address stands in [ ], and a "
        "password's / ? # @ : are written %2F %3F %23 %40 %3A",
    )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise unparsed from None
    if parts.fragment or (parts.scheme != "unix" and "@" in parts.path + parts.query):
        raise unparsed
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise wrong(
            f"the scheme {parts.scheme!r}" if "://" in url else "one without a scheme",
            "start it with redis:// (plain), rediss:// (TLS) or unix:// (a socket)",
        )
    if parts.scheme == "unix":
        if parts.hostname or not parts.path.strip("/"):
            raise wrong(repr(redact(url)), "a socket's path is absolute, after three slashes")
    elif not parts.hostname or port == 0:
        raise wrong(repr(redact(url)), "name the host and, where it is not 6379, the port")
    if not _database(parts).isdecimal():
        raise wrong(repr(redact(url)), "the database is a number, such as /0 or ?db=0")
    return parts


def _database(parts: SplitResult) -> str:
    named = parse_qs(parts.query).get("db")
    path = "" if parts.scheme == "unix" else unquote(parts.path).strip("/")
    return (named[0] if named else path) or "0"


def _password(parts: SplitResult) -> str | None:
    if parts.password:
        return unquote(parts.password)
    named = parse_qs(parts.query).get("password")
    return named[0] if named else None


def _with_password(parts: SplitResult, password: str) -> str:
    userinfo, _, host = parts.netloc.rpartition("@")
    user = userinfo.partition(":")[0]
    secret = quote(password, safe="", errors="surrogateescape")
    return _join(parts.scheme, f"{user}:{secret}@{host}", parts.path, parts.query)


def _join(scheme: str, netloc: str, path: str, query: str) -> str:
    # urlunsplit writes unix:/path where there is no netloc, redis-py wants unix:///path.
    return f"{scheme}://{netloc}" + urlunsplit(("", "", path, query, ""))


def _kombu_url(url: str) -> str:
    """The same server in the words of kombu's redis transport."""
    parts = urlsplit(url)
    password = _password(parts)
    user = parts.username or next(iter(parse_qs(parts.query).get("username", [])), "")
    netloc = parts.netloc.rpartition("@")[2]
    if user or password:
        netloc = f"{user}:{quote(password or '', safe='')}@{netloc}"
    database = _database(parts)
    if parts.scheme == "unix":
        path = quote(unquote(parts.path), safe="/")  # kombu would split at a ;
        return _join("redis+socket", netloc, path, f"virtual_host={database}")
    # kombu takes every parameter for one of its own and fails on redis-py's, but for ssl_*.
    query = {name: value for name, value in parse_qsl(parts.query) if name.startswith("ssl_")}
    if parts.scheme == "rediss":
        query.setdefault("ssl_cert_reqs", "required")  # kombu's own default is not to check
    return _join(parts.scheme, netloc, f"/{database}", urlencode(query, safe="/"))


def _hosts(given: str | Iterable[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    return tuple(given.replace(",", " ").split()) if isinstance(given, str) else tuple(given)


def _load_key(key: str | bytes | None, key_file: str | os.PathLike[str] | None) -> bytes | None:
    if key is not None and key_file is not None:
        raise ConfigError("key", "given once", "key and key_file", "leave one of them out")
    if key is None and key_file is None:
        key, key_file = _from_environment("key"), _from_environment("key_file")
        if key and key_file:
            raise ConfigError("key", "given once", "LASTCALL_KEY and LASTCALL_KEY_FILE", "unset one of them")
    if key_file is not None:
        return _read("key_file", key_file)
    return key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key


def _check_key(key: object) -> None:
    hint = "make one with: lastcall secrets key"
    expected = f"at least {MIN_KEY_BYTES} bytes"
    if not isinstance(key, bytes):
        raise ConfigError(_both_names("key"), expected, f"a {type(key).__name__}", hint)
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(_both_names("key"), expected, f"{len(key)} bytes", hint)


def _read(name: str, path: str | os.PathLike[str]) -> bytes:
    try:
        content = Path(path).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError(_both_names(name), "the path of a file that can be read", f"{path!s}", str(error)) from error
    if not content:
        raise ConfigError(_both_names(name), "the path of a file with one secret in it", f"{path!s}, empty")
    return content


def _from_environment(name: str) -> str | None:
    return os.environ.get(f"LASTCALL_{name.upper()}", "").strip() or None


def _number_from_environment(name: str, kind: type[int] | type[float]) -> float | None:
    text = _from_environment(name)
    if text is None:
        return None
    try:
        return kind(text)
    except ValueError as error:
        what = "an int" if kind is int else "a number of seconds"
        raise ConfigError(f"LASTCALL_{name.upper()}", what, repr(text)) from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _both_names(name: str) -> str:
    return f"{name} (LASTCALL_{name.upper()})"
