"""Where notifications may go, and how a URL is read: as who connects reads it, or not at all."""

from __future__ import annotations

import pytest

from lastcall.errors import ConfigError
from lastcall.notify import Origin, allowed, secret, split
from lastcall.settings import Settings


@pytest.mark.parametrize(
    ("entry", "origin"),
    [
        ("hooks.example.com", Origin("https", "hooks.example.com", 443)),
        ("Hooks.Example.COM.", Origin("https", "hooks.example.com", 443)),
        ("hooks.example.com:8443", Origin("https", "hooks.example.com", 8443)),
        ("http://127.0.0.1:8000", Origin("http", "127.0.0.1", 8000)),
        ("http://localhost", Origin("http", "localhost", 80)),
        ("https://[::1]:8443", Origin("https", "::1", 8443)),
    ],
)
def test_an_entry_is_a_scheme_a_host_and_a_port(entry: str, origin: Origin) -> None:
    assert allowed(entry) == origin
    assert allowed(str(origin)) == origin


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*.example.com",
        "https://hooks.example.com/path",
        "ftp://x",
        "a b",
        "x:99999",
        "u@x",
        "a..b",
        "-x",
        "x#y",
        "[x]",
    ],
)
def test_an_entry_that_is_no_host_is_refused_when_the_settings_are_made(entry: str) -> None:
    with pytest.raises(ConfigError, match="LASTCALL_NOTIFY_HOSTS"):
        Settings(notify_hosts=(entry,))


def test_what_is_asked_for_there_goes_as_it_was_given() -> None:
    assert split("notify", "https://h.example/a%20b;c?d=e&f") == (Origin("https", "h.example", 443), "/a%20b;c?d=e&f")
    assert split("notify", "https://h.example?x")[1] == "/?x"


def test_an_error_never_shows_what_may_be_hunter2_in_a_url() -> None:
    for url in (
        "ftp://h/hunter2",
        "https://h:hunter2/",
        "https://user:hunter2@h/",
        "https://h/ hunter2",
        "https://h/#hunter2",
    ):
        with pytest.raises(ConfigError) as raised:
            split("notify", url)
        assert "hunter2" not in str(raised.value)


def test_the_secret_is_not_the_key_and_another_for_every_key() -> None:
    one, two = secret("sixteen bytes or more"), secret(b"sixteen bytes or less")
    assert one.startswith("whsec_")
    assert one != two
    assert secret(b"sixteen bytes or more") == one
