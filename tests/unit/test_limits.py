"""The table of time limits: what slots write there, and what the worker reads."""

from __future__ import annotations

import time

import pytest

from lastcall_worker import limits
from lastcall_worker.limits import Late, Table
from tests.workers import until


@pytest.fixture
def table() -> Table:
    return Table()


def test_what_is_late_is_found_with_all_that_was_said_of_it(table: Table) -> None:
    assert table.write(7, "job/queue", "12", "1-3/5:9", 2, 250, 0.001)
    assert table.write(8, "job/queue", "13", "1-4", 0, None, 600)
    (late,) = until(table.late, "it to be late")  # with the grace that an alarm has
    assert late == Late(7, late.deadline, late.pid, "job/queue", "12", "1-3/5:9", 2, 250, 1)
    assert late.deadline <= time.monotonic()


def test_what_ended_in_time_or_was_dealt_with_is_not_late(table: Table) -> None:
    table.write(1, "job/queue", "1", "1-1", 0, None, 0.001)
    table.clear(1)
    table.write(2, "job/queue", "2", "1-2", 0, None, 0.001)
    (late,) = until(table.late, "it to be late")
    assert late.ticket == "2"
    table.settled(late)
    assert table.late() == []


def test_what_is_settled_leaves_alone_what_is_run_there_next(table: Table) -> None:
    table.write(2, "job/queue", "2", "1-2", 0, None, 0.001)
    (late,) = until(table.late, "it to be late")
    table.write(2, "job/queue", "3", "1-3", 0, None, 0.001)
    table.settled(late)
    (next_one,) = until(table.late, "the next to be late")
    assert next_one.ticket == "3"


def test_what_does_not_fit_is_not_written_and_said(table: Table) -> None:
    assert not table.write(10**6, "job/queue", "1", "1-1", 0, None, 1)
    assert not table.write(1, "j" * 500, "1", "1-1", 0, None, 1)
    assert not table.write(1, "job/queue", "1", "1-" * 300, 0, None, 1)
    table.clear(10**6)


def test_rows_are_used_again() -> None:
    first, second = limits.take_row(), limits.take_row()
    assert first != second
    limits.give_row(first)
    assert limits.take_row() == first
    for row in (first, second):
        limits.give_row(row)
