"""The table of tickets that slots run besides those that they were sent."""

from __future__ import annotations

import os

import pytest

from lastcall_worker.moved import Held, Table

ONE, TWO = Held("job/a", "1"), Held("job/name with spaces", "2f-1")


@pytest.fixture
def table() -> Table:
    return Table()


def test_what_a_process_runs_is_read_by_its_number(table: Table) -> None:
    assert table.write(3, [ONE, TWO])
    assert table.write(4095, [TWO])
    assert table.of({os.getpid()}) == [ONE, TWO, TWO]
    assert table.of({os.getpid() + 1}) == []
    assert table.of(set()) == []


def test_a_row_says_what_was_written_last(table: Table) -> None:
    table.write(3, [ONE, TWO])
    table.write(3, [ONE])
    assert table.of({os.getpid()}) == [ONE]
    table.write(3, ())
    assert table.of({os.getpid()}) == []


def test_a_child_writes_where_its_parent_reads(table: Table) -> None:
    pid = os.fork()
    if pid == 0:
        table.write(1, [TWO])
        os._exit(0)
    os.waitpid(pid, 0)
    assert table.of({pid}) == [TWO]


def test_what_does_not_fit_is_not_written_and_said(table: Table) -> None:
    assert not table.write(4096, [ONE])
    assert not table.write(1, [Held("j" * 20_000, "1")])
    assert table.of({os.getpid()}) == []
