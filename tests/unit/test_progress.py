"""Progress without a server: what is made of the statuses that it is given."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from lastcall import Progress, Status
from lastcall.errors import ConfigError, ServerUnreachable

BASE = Status(
    job="census", name="read", state="OPEN", epoch=1, put=40, ready=20, leased=4, delayed=0, done=16, dead=0,
    cancelled=0, unread=0, live=1, expected=0, function="f", workers="cpu", maxsize=0, tickets=0, started=0,
    chunks_ready=0, created_ms=0, ended_ms=None,
)  # fmt: skip
ENDED = replace(BASE, state="DRAINED", put=100, ready=0, leased=0, done=99, dead=1, live=0)


class Clock:
    """Stands for the time module: a second passes at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lastcall.progress.time", Clock())


def show(*looks: Any, terminal: bool = False, total: int | None = None, width: int = 140) -> str:
    """What is printed when each look gives, or raises, the next of these."""
    coming: Iterator[Any] = iter(looks)

    def statuses() -> list[Status]:
        look = next(coming)
        if isinstance(look, Exception):
            raise look
        return list(look)

    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=width, color_system=None)
    with Progress(statuses, total=total, every_s=0, console=console) as progress:
        for _ in looks[:-1]:
            progress.update()
    return file.getvalue()


def test_in_a_pipe_a_line_says_everything_that_is_not_nothing() -> None:
    stage = replace(BASE, name="parse", put=1, ready=0, leased=0, delayed=1, done=0, live=2)
    lines = show([BASE, stage], [replace(BASE, done=18, leased=2), stage], [ENDED]).splitlines()
    assert lines == [
        "census/read OPEN: 16 of 40 done, 20 waiting, 4 running, 1 producer",
        "census/parse OPEN: 0 of 1 done, 1 to be tried again, 2 producers",
        "census/read OPEN: 18 of 40 done, 20 waiting, 2 running, 1 producer, 2/s",
        "census/parse OPEN: 0 of 1 done, 1 to be tried again, 2 producers",
        "census/read DRAINED: 99 of 100 done, 1 dead, in 4.0 s",
    ]


def test_what_is_cancelled_is_not_said_to_be_done() -> None:
    ended = replace(BASE, state="CANCELLED", put=40, ready=0, leased=0, done=16, cancelled=24, live=0)
    assert show([ended]) == "census/read CANCELLED: 16 of 40 done, 24 cancelled, in 2.0 s\n"
    assert "16/40" in show([ended], terminal=True)


def test_how_many_of_those_done_failed_is_said() -> None:
    ended = replace(ENDED, done=100, dead=0, failed=3)
    assert show([ended]) == "census/read DRAINED: 100 of 100 done, 3 failed, in 2.0 s\n"
    assert "failed" in show([ended], terminal=True)
    assert "failed" not in show([ENDED], terminal=True)


def test_the_time_left_is_told_where_the_total_is_known() -> None:
    more = replace(BASE, done=36, put=60)
    assert "36 of 96 done, 20 waiting, 4 running, 1 producer, 20/s, 3.0 s left" in show(
        [BASE], [more], [ENDED], total=96
    )
    sealed = replace(more, state="SEALED", live=0)
    assert "36 of 60 done, 20 waiting, 4 running, 20/s, 1.2 s left" in show([BASE], [sealed], [ENDED])
    # A stage upstream may still give it more, also where it was sealed by hand.
    assert "left" not in show([BASE], [replace(sealed, live=1)], [ENDED])


def test_a_queue_that_is_begun_anew_has_no_rate_from_before() -> None:
    assert "/s" not in show([ENDED], [replace(BASE, epoch=2)], [ENDED])


def test_on_a_terminal_queues_are_rows_and_columns_of_nothing_are_left_out() -> None:
    text = show(
        [BASE, replace(BASE, name="parse", put=0, ready=0, leased=0, done=0)], [ENDED], terminal=True, total=100
    )
    first, last = text.split("queue")[1], text.split("queue")[-1]
    assert first.splitlines()[0].split() == ["done", "waiting", "running", "producers", "rate", "left"]
    assert [word for line in first.splitlines()[1:3] for word in line.split() if word.strip("━╸╺")] == [
        "read", "16/100", "20", "4", "1", "0/s", "parse", "0", "0", "0", "1", "0/s",
    ]  # fmt: skip
    assert last.splitlines()[0].split() == ["done", "waiting", "running", "dead", "rate"]
    assert "DRAINED" in last
    assert "in " in last


def test_a_long_name_gives_way_to_what_is_counted() -> None:
    long = [replace(BASE, name="a-name-that-is-longer-than-" * 4)]
    text = show(long, long, terminal=True, width=80)
    assert "…" in text
    assert " 16 " in text
    assert "producers" in text


def test_a_server_that_is_away_leaves_what_was_seen_last() -> None:
    away = ServerUnreachable("redis://x", "gone")
    lines = show(away, [BASE], away, away).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["census/read OPEN"] * 3


@pytest.mark.parametrize(
    ("options", "said"), [({"total": -1}, "total must be 0"), ({"every_s": -2}, "every_s must be")]
)
def test_wrong_options_are_told(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Progress(list, **options)
