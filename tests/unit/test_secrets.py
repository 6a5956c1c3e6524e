"""Secrets: made once, whole, readable only by those who need them, and told in a shell's words."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lastcall.cli import cli
from lastcall.cli.secrets import FLOWER, KEY, PASSWORD, REDIS, new, write_once
from lastcall.settings import Settings

ALL = (PASSWORD, REDIS, KEY, FLOWER)


def run(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(cli, ["secrets", *map(str, arguments)], env=environment)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def sourced(exports: str) -> list[str]:
    """LASTCALL_URL, LASTCALL_KEY and LASTCALL_FLOWER_URL in a shell that took in what `show` printed."""
    script = 'eval "$1"; printf "%s\\n" "$LASTCALL_URL" "$LASTCALL_KEY" "$LASTCALL_FLOWER_URL"'
    ran = subprocess.run(["sh", "-euc", script, "sh", exports], capture_output=True, text=True, check=True)
    return ran.stdout.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with secrets in it."""
    made = run("make", "-d", tmp_path / "secrets")
    assert made.exit_code == 0, made.output
    return tmp_path / "secrets"


def test_every_secret_is_made_and_differs(folder: Path) -> None:
    found = contents(folder)
    assert sorted(found) == sorted(ALL)
    assert found[REDIS] == f"requirepass {found[PASSWORD]}"
    assert len({found[PASSWORD], found[KEY], found[FLOWER]}) == 3
    assert all(len(found[name].strip()) == 43 for name in (PASSWORD, KEY, FLOWER))


def test_secrets_are_for_their_owner_alone(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in ALL} == {0o600}


def test_each_secret_is_for_the_group_that_needs_it(tmp_path: Path) -> None:
    mine = os.getgid()  # one that this user is in, whoever runs the tests
    made = run("make", "-d", tmp_path / "s", "--redis-group", str(mine), "--flower-group", str(mine))
    assert made.exit_code == 0, made.output
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o711
    modes = {name: stat.S_IMODE((tmp_path / "s" / name).stat().st_mode) for name in ALL}
    assert modes == {PASSWORD: 0o640, REDIS: 0o640, KEY: 0o600, FLOWER: 0o640}
    assert (tmp_path / "s" / PASSWORD).stat().st_gid == mine


def test_a_group_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)  # root, who may run the tests, is refused nothing
    refused = run("make", "-d", tmp_path, "--redis-group", "1")
    assert refused.exit_code == 1
    assert "the group of redis.password must be one that you are a member of, got 1" in refused.output
    assert os.listdir(tmp_path) == []


def test_secrets_stay_as_they_are_on_later_starts(folder: Path) -> None:
    before = contents(folder)
    again = run("make", "-d", folder)
    assert again.exit_code == 0
    assert "all secrets are there" in again.output
    assert contents(folder) == before


@pytest.mark.parametrize("lost", ALL)
def test_a_start_that_was_cut_short_is_completed_by_the_next(folder: Path, lost: str) -> None:
    before = contents(folder)
    (folder / lost).unlink()
    if lost == PASSWORD:
        (folder / REDIS).unlink()  # it is written after the password, never before
    assert run("make", "-d", folder).exit_code == 0
    after = contents(folder)
    assert sorted(after) == sorted(ALL)
    assert after[REDIS] == f"requirepass {after[PASSWORD]}"
    kept = set(ALL) - {lost, REDIS}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_of_two_that_write_at_once_the_first_wins_and_nothing_is_left_over(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    barrier = threading.Barrier(8)
    won: list[str] = []

    def write(text: str) -> None:
        barrier.wait()
        if write_once(path, text):
            won.append(text)

    threads = [threading.Thread(target=write, args=(f"secret {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [f"{text}\n" for text in won] == [path.read_text()]
    assert os.listdir(tmp_path) == ["secret"]


def test_making_prints_no_secret(tmp_path: Path) -> None:
    made = run("make", "-d", tmp_path)
    assert not [text for text in contents(tmp_path).values() if text.split()[-1] in made.output]


def test_a_shell_can_take_in_what_is_shown(folder: Path) -> None:
    shown = run("show", "-d", folder, LASTCALL_REDIS_PORT="16379", LASTCALL_FLOWER_PORT="15555")
    assert shown.exit_code == 0, shown.output
    url, key, flower = sourced(shown.output)
    found = contents(folder)
    assert url == f"redis://:{found[PASSWORD].strip()}@127.0.0.1:16379/0"
    assert key == found[KEY].strip()
    assert flower == f"http://lastcall:{found[FLOWER].strip()}@127.0.0.1:15555/queues"


def test_what_is_shown_and_what_is_in_the_files_are_the_same_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for line in run("show", "-d", folder).output.splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        monkeypatch.setenv(name, value)
    shown = Settings.load()
    monkeypatch.delenv("LASTCALL_KEY")
    monkeypatch.setenv("LASTCALL_URL", "redis://127.0.0.1:6379/0")
    monkeypatch.setenv("LASTCALL_PASSWORD_FILE", str(folder / PASSWORD))
    monkeypatch.setenv("LASTCALL_KEY_FILE", str(folder / KEY))
    assert Settings.load() == shown


def test_a_foreign_secret_is_quoted_for_url_and_shell(folder: Path) -> None:
    (folder / PASSWORD).write_text("a'b /@:$x\n")
    (folder / KEY).write_text("k'e y$(touch /tmp/x) long enough\n")
    shown = run("show", "-d", folder, "--host", "::1")
    url, key, _ = sourced(shown.output)
    assert url == "redis://:a%27b%20%2F%40%3A%24x@[::1]:6379/0"
    assert key == "k'e y$(touch /tmp/x) long enough"


def test_the_folder_may_be_named_by_the_environment(tmp_path: Path) -> None:
    assert run("make", LASTCALL_SECRETS=str(tmp_path)).exit_code == 0
    assert run("show", LASTCALL_SECRETS=str(tmp_path)).exit_code == 0


def test_secrets_that_were_not_made_are_said_to_be_missing(tmp_path: Path) -> None:
    shown = run("show", "-d", tmp_path)
    assert shown.exit_code == 1
    assert f"lastcall secrets make --directory {tmp_path}" in shown.output
    assert "export" not in shown.output


def test_an_empty_secret_is_refused(folder: Path) -> None:
    (folder / KEY).write_text("\n")
    shown = run("show", "-d", folder)
    assert shown.exit_code == 1
    assert f"got an empty {folder / KEY}" in shown.output


def test_a_new_key_is_new_each_time_and_long_enough() -> None:
    first, second = (run("key").output.strip() for _ in range(2))
    assert first != second
    assert Settings.load(key=first).key == first.encode()
    assert len(new()) == 43
