"""Deadlines, which several waits share."""

from __future__ import annotations

import pytest

from lastcall.waiting import Deadline


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("lastcall.waiting.time.monotonic", lambda: now[0])
    return now


def test_what_is_left_shrinks_to_nothing(clock: list[float]) -> None:
    deadline = Deadline(5)
    assert (deadline.left(1), deadline.left(10), deadline.passed) == (1, 5, False)
    clock[0] += 4.5
    assert (deadline.left(1), deadline.waited_s, deadline.passed) == (0.5, 4.5, False)
    clock[0] += 1
    assert (deadline.left(1), deadline.waited_s, deadline.passed) == (0, 5.5, True)


def test_none_never_passes(clock: list[float]) -> None:
    deadline = Deadline(None)
    clock[0] += 1e9
    assert (deadline.left(3), deadline.passed) == (3, False)


def test_0_has_passed_at_once(clock: list[float]) -> None:
    assert Deadline(0).passed
    assert Deadline(0).left(1) == 0
