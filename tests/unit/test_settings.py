"""Settings: from arguments and environment, checked, with messages that tell what to do."""

import os
import pickle
import traceback
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.connection import Connection

from lastcall.errors import ConfigError
from lastcall.settings import Settings, redact

KEY = "sixteen bytes or more"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("LASTCALL_"):
            monkeypatch.delenv(name)


def test_nothing_set_gives_the_defaults() -> None:
    assert Settings.load() == Settings(
        url=None,
        key=None,
        broker_url=None,
        lease_s=10,
        slice_s=1,
        linger_s=0.1,
        reap_s=1,
        ttl_s=86_400,
        max_item_bytes=67_108_864,
        worker_wait_s=60,
    )


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "URL": " redis://there:7000/2 ",
        "KEY": KEY,
        "BROKER_URL": "amqp://broker",
        "LEASE_S": "20",
        "SLICE_S": "2.5",
        "LINGER_S": "0",
        "REAP_S": "3",
        "TTL_S": "60",
        "MAX_ITEM_BYTES": "1000",
        "WORKER_WAIT_S": "",
        "NOTIFY_HOSTS": "hooks.example.com, http://127.0.0.1:8000",
    }.items():
        monkeypatch.setenv(f"LASTCALL_{name}", value)
    assert Settings.load() == Settings(
        url="redis://there:7000/2",
        key=KEY.encode(),
        broker_url="amqp://broker",
        lease_s=20,
        slice_s=2.5,
        linger_s=0,
        reap_s=3,
        ttl_s=60,
        max_item_bytes=1000,
        worker_wait_s=60,
        notify_hosts=("hooks.example.com", "http://127.0.0.1:8000"),
    )


def test_arguments_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTCALL_URL", "redis://there")
    monkeypatch.setenv("LASTCALL_KEY", "the environment's key")
    monkeypatch.setenv("LASTCALL_LEASE_S", "not looked at")
    settings = Settings.load("redis://here", KEY, lease_s=3)
    assert (settings.url, settings.key, settings.lease_s) == ("redis://here", KEY.encode(), 3)


def test_settings_are_frozen_copied_with_replace_and_pickled() -> None:
    settings = Settings(url="redis://here", key=b"k" * 16)
    with pytest.raises(FrozenInstanceError):
        settings.lease_s = 3  # type: ignore[misc]
    assert replace(settings, lease_s=3).lease_s == 3
    assert pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(ConfigError):
        replace(settings, lease_s=-3)


def test_secrets_are_not_shown() -> None:
    settings = Settings(url="redis://:secret-1@here", key=b"secret-2" * 2, broker_url="x://s:secret-3@")
    assert "secret" not in repr(settings)
    assert settings.redacted_url == "redis://:***@here"


# The URL


@pytest.mark.parametrize(
    ("url", "broker", "redacted"),
    [
        ("redis://host", "redis://host/0", "redis://host"),
        ("redis://host:7000/3", "redis://host:7000/3", "redis://host:7000/3"),
        ("redis://host?db=4", "redis://host/4", "redis://host?db=4"),
        ("redis://:p%40w@[::1]:7000/3", "redis://:p%40w@[::1]:7000/3", "redis://:***@[::1]:7000/3"),
        ("redis://user:pw@host", "redis://user:pw@host/0", "redis://user:***@host"),
        ("redis://host?socket_timeout=3", "redis://host/0", "redis://host?socket_timeout=3"),
        ("redis://host?password=a%2Fb", "redis://:a%2Fb@host/0", "redis://host?password=***"),
        (
            "rediss://host/1?ssl_ca_certs=/ca.pem",
            "rediss://host/1?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required",
            "rediss://host/1?ssl_ca_certs=/ca.pem",
        ),
        (
            "rediss://host?ssl_cert_reqs=none",
            "rediss://host/0?ssl_cert_reqs=none",
            "rediss://host?ssl_cert_reqs=none",
        ),
        ("unix:///p/s?db=2", "redis+socket:///p/s?virtual_host=2", "unix:///p/s?db=2"),
        ("unix://:pw@/p/s", "redis+socket://:pw@/p/s?virtual_host=0", "unix://:***@/p/s"),
        (
            "unix:///p/s?password=pw&username=u",
            "redis+socket://u:pw@/p/s?virtual_host=0",
            "unix:///p/s?password=***&username=u",
        ),
        ("unix:///a;b", "redis+socket:///a%3Bb?virtual_host=0", "unix:///a;b"),
    ],
)
def test_a_url_is_put_into_kombus_words_and_shown_without_its_password(url: str, broker: str, redacted: str) -> None:
    settings = Settings(url=url)
    assert settings.broker == broker
    assert settings.redacted_url == redacted


@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://user:p%40w@host:7000/3?socket_timeout=3",
        "redis://:pw@[::1]:7000/?db=4",
        "rediss://host/1?ssl_ca_certs=/ca.pem",
    ],
)
def test_redis_py_and_kombu_understand_the_same_of_a_url(url: str) -> None:
    of_redis = redis.Redis.from_url(url).connection_pool.connection_kwargs
    connection: Any = Connection
    of_kombu = connection(Settings(url=url).broker).info()
    assert of_kombu["hostname"] == of_redis["host"]
    assert of_kombu["port"] == of_redis.get("port", 6379)
    assert int(of_kombu["virtual_host"]) == of_redis.get("db", 0)
    assert of_kombu["userid"] == of_redis.get("username")
    assert of_kombu["password"] == of_redis.get("password")
    assert bool(of_kombu["ssl"]) == url.startswith("rediss")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("redis://user:secret@localhost", "redis://127.0.0.1:6379/0"),
        ("redis://[::1]/3", "redis://:x@[::1]:6379/3"),
        ("amqp://guest:guest@mq:5672//", "amqp://mq:5672//"),
        ("redis+socket:///run/s?virtual_host=3", "redis+socket://:x@/run/s?virtual_host=3"),
    ],
)
def test_the_same_broker_is_shown_in_the_same_words_without_who_uses_it(one: str, other: str) -> None:
    shown = {Settings(url="redis://x", broker_url=url).broker_shown for url in (one, other)}
    assert len(shown) == 1
    assert "@" not in shown.pop()
    assert Settings(url="redis://x:1/2").broker_shown == "redis://x:1/2"
    assert Settings().broker_shown == ""


def test_another_broker_is_taken_as_it_is() -> None:
    assert Settings(url="redis://host", broker_url="amqp://broker").broker == "amqp://broker"
    assert Settings().broker is None


@pytest.mark.parametrize(
    ("url", "got", "hint"),
    [
        ("http://host", "the scheme 'http'", "redis://"),
        ("host:6379", "without a scheme", "redis://"),
        ("localhost", "without a scheme", "redis://"),
        ("redis://", "'redis://'", "name the host"),
        ("redis://:secret@/1", "'redis://:***@/1'", "name the host"),
        ("redis://host:port", "cannot be parsed", "port"),
        ("redis://host:70000", "cannot be parsed", "port"),
        ("redis://host:0", "'redis://host:0'", "port"),
        ("redis://[::1", "cannot be parsed", "IPv6"),
        ("redis://:se/cret@host", "cannot be parsed", "%2F"),
        ("redis://user:12/cret@host", "cannot be parsed", "%2F"),
        ("redis://user:12?cret@host", "cannot be parsed", "%3F"),
        ("redis://user:12#cret@host", "cannot be parsed", "%23"),
        ("redis://host/frames", "'redis://host/frames'", "database is a number"),
        ("redis://host?db=-1", "'redis://host?db=-1'", "database is a number"),
        ("unix://tmp/socket", "'unix://tmp/socket'", "absolute"),
        ("unix://", "'unix://'", "absolute"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_what_to_do(url: str, got: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(url=url)
    assert caught.value.name == "url (LASTCALL_URL)"
    assert "redis://host:6379/0" in caught.value.expected
    assert got in caught.value.got
    assert hint in caught.value.hint
    assert "cret" not in "".join(traceback.format_exception(caught.value))


def test_a_url_of_another_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="type int"):
        Settings(url=6379)  # type: ignore[arg-type]


def test_a_broker_url_without_a_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"broker_url \(LASTCALL_BROKER_URL\)"):
        Settings(broker_url="host:5672")


# Secrets


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_the_servers_password_is_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    (tmp_path / "password").write_bytes(f" p@ss/wörd {ending}".encode())
    monkeypatch.setenv("LASTCALL_PASSWORD_FILE", str(tmp_path / "password"))
    for url in ("redis://user@host:7000/1", "unix://user@/p/s?db=1"):
        settings = Settings.load(url)
        assert settings.url is not None
        options = redis.Redis.from_url(settings.url).connection_pool.connection_kwargs
        assert (options["username"], options["password"]) == ("user", " p@ss/wörd ")
        assert options["db"] == 1
        assert "***" in settings.redacted_url


@pytest.mark.parametrize("url", ["redis://:own@host", "unix:///p/s?password=own"])
def test_a_urls_own_password_comes_before_the_file(tmp_path: Path, url: str) -> None:
    assert Settings.load(url, password_file=tmp_path / "not looked at").url == url


def test_the_key_is_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_bytes(b"\xff" * 16 + b"\n")
    assert Settings.load(key_file=tmp_path / "key").key == b"\xff" * 16
    monkeypatch.setenv("LASTCALL_KEY_FILE", str(tmp_path / "key"))
    assert Settings.load().key == b"\xff" * 16
    assert Settings.load(key=KEY).key == KEY.encode()


def test_two_keys_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="leave one of them out"):
        Settings.load(key=KEY, key_file=tmp_path / "key")
    monkeypatch.setenv("LASTCALL_KEY", KEY)
    monkeypatch.setenv("LASTCALL_KEY_FILE", "key")
    with pytest.raises(ConfigError, match=r"LASTCALL_KEY and LASTCALL_KEY_FILE.*unset one"):
        Settings.load()


@pytest.mark.parametrize("key", ["fifteen bytes 1", b"", "é" * 7])
def test_a_key_too_short_is_refused_with_its_length(key: str | bytes) -> None:
    with pytest.raises(ConfigError, match=r"at least 16 bytes, got .* bytes: .*lastcall secrets") as caught:
        Settings.load(key=key)
    size = len(key.encode()) if isinstance(key, str) else len(key)
    assert caught.value.got == f"{size} bytes"


def test_a_key_counts_in_bytes() -> None:
    assert Settings.load(key="é" * 8).key == "é".encode() * 8


@pytest.mark.parametrize("name", ["password_file", "key_file"])
def test_a_secrets_file_that_cannot_be_read_or_is_empty_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("LASTCALL_URL", "redis://host")
    monkeypatch.setenv(f"LASTCALL_{name.upper()}", str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match=rf"LASTCALL_{name.upper()}.*missing.*No such file"):
        Settings.load()
    (tmp_path / "missing").write_text("\n")
    with pytest.raises(ConfigError, match="missing, empty"):
        Settings.load()


# Numbers


@pytest.mark.parametrize("name", ["lease_s", "slice_s", "linger_s", "reap_s", "ttl_s", "worker_wait_s"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "5", True])
def test_seconds_that_cannot_be_used_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match="a number of seconds") as caught:
        Settings(**{name: value})  # type: ignore[arg-type]
    assert caught.value.name == f"{name} (LASTCALL_{name.upper()})"
    assert caught.value.got == repr(value)


@pytest.mark.parametrize("name", ["lease_s", "slice_s", "reap_s", "ttl_s"])
def test_seconds_that_must_pass_cannot_be_zero(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Settings(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1, 1.5, "9", True, 512 * 1024 * 1024 + 1])
def test_an_item_limit_that_cannot_be_used_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"max_item_bytes \(LASTCALL_MAX_ITEM_BYTES\)"):
        Settings(max_item_bytes=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["aside_bytes", "aside_cache_bytes"])
def test_sizes_of_what_lies_aside_are_bytes_and_may_be_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for value in (-1, 1.5, True, "1"):
        with pytest.raises(ConfigError, match=rf"{name} \(LASTCALL_{name.upper()}\) must be a number of bytes"):
            Settings(**{name: value})  # type: ignore[arg-type]
    assert getattr(Settings(**{name: 0}), name) == 0  # type: ignore[arg-type]
    monkeypatch.setenv(f"LASTCALL_{name.upper()}", "1000")
    assert getattr(Settings.load(), name) == 1000


@pytest.mark.parametrize(("name", "value"), [("LEASE_S", "ten"), ("MAX_ITEM_BYTES", "64MB")])
def test_a_number_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"LASTCALL_{name}", value)
    with pytest.raises(ConfigError, match=f"LASTCALL_{name} must be an?.*got '{value}'"):
        Settings.load()


def test_redact_leaves_other_parameters() -> None:
    assert redact("rediss://u:p@h?ssl_password=x&db=1") == "rediss://u:***@h?ssl_password=***&db=1"


@pytest.mark.parametrize(
    ("lease_s", "reap_s", "ticket_ms"), [(10, 1, 8_000), (2, 0.3, 1_400), (1, 1, 500), (60, 1, 58_000)]
)
def test_a_slots_ticket_ends_so_early_that_its_chunk_runs_again_within_the_lease(
    lease_s: float, reap_s: float, ticket_ms: int
) -> None:
    assert Settings(lease_s=lease_s, reap_s=reap_s).ticket_lease_ms == ticket_ms
