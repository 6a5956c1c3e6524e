"""What `make chaos` counts as lost, doubled and given up: a check that sees nothing would prove nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from lastcall.errors import WorkerLost
from lastcall.letters import DeadLetter
from tests.chaos import jobs, recovery
from tests.chaos.checks import Outcome
from tests.chaos.items import Item
from tests.chaos.storm import CHILD_KILLED, Fault


def outcome() -> Outcome:
    return Outcome("queue", "queue1")


def letter(number: int, error: BaseException, attempts: int = 1) -> DeadLetter:
    return DeadLetter(f"1-1#{number}", Item("queue1", number, 0, "last"), error, attempts, "")


def test_results_that_are_all_there_once_are_right() -> None:
    found = outcome()
    found.compare("results", [3, 1, 2], [1, 2, 3])
    assert not found.bad


@pytest.mark.parametrize(
    ("got", "lost", "doubled"), [([1, 2], 1, 0), ([1, 2, 3, 3, 3], 0, 2), ([1, 2, 2], 1, 1), ([1, 2, 3, 9], 0, 1)]
)
def test_a_missing_result_is_lost_and_one_too_many_doubled(got: list[int], lost: int, doubled: int) -> None:
    found = outcome()
    found.compare("results", got, [1, 2, 3])
    assert (found.lost, found.doubled, found.bad) == (lost, doubled, True)


def test_letters_are_of_items_that_raise_or_were_given_up() -> None:
    found = outcome()
    letters = [letter(1, ValueError("queue1", 1)), letter(2, WorkerLost("queue1", 0, 3), 3)]
    assert found.letters("queue1", letters, {1}, hits=3) == {2}
    assert (found.given_up, found.bad) == (1, False)


@pytest.mark.parametrize(
    ("letters", "hits"),
    [
        ([], 9),  # one is missing
        ([letter(1, ValueError("queue1", 1)), letter(1, ValueError("queue1", 1))], 9),
        ([letter(1, ValueError("queue1", 7))], 9),  # of another item
        ([letter(1, ValueError("queue1", 1)), letter(2, WorkerLost("queue1", 0, 2), 2)], 9),  # too soon
        ([letter(1, ValueError("queue1", 1)), letter(2, WorkerLost("queue1", 0, 3), 3)], 2),  # who killed it?
    ],
)
def test_other_letters_are_violations(letters: list[DeadLetter], hits: int) -> None:
    found = outcome()
    found.letters("queue1", letters, {1}, hits)
    assert found.bad


class Told:
    """A part with this journal."""

    def __init__(self, *events: dict[str, Any]) -> None:
        self._events = events

    def events(self, name: str | None = None) -> Iterable[dict[str, Any]]:
        return (event for event in self._events if name in (None, event["event"]))


def value(number: int, cursor: str) -> dict[str, Any]:
    return {"event": "value", "value": number, "cursor": cursor}


def test_what_a_killed_reader_got_behind_its_cursor_is_read_again_by_the_next() -> None:
    part: Any = Told(value(1, "0-0"), value(2, "5-1"), value(3, "5-1"))
    kept, cursor = jobs._whole(part, "")
    assert [event["value"] for event in kept] == [1, 2]
    assert cursor == "5-1"


def test_a_consumer_that_lost_its_lease_is_another_one_from_then_on() -> None:
    part: Any = Told({"event": "got", "number": 1}, {"event": "lost"}, {"event": "got", "number": 2})
    assert [*jobs._lives(part)] == [([1], True), ([2], False)]


class Calm:
    """A storm with one fault, or with others near it."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = list(faults)

    def disturbed(self, fault: Fault, until: float) -> bool:
        return len(self.faults) > 1


def test_recovery_is_from_the_kill_until_the_item_that_it_hit_runs_again(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.write_text(
        "begins 10.0 7 map1 last 1\nends 10.1 7 map1 last 1\nbegins 10.1 7 map1 last 2\n"  # killed at 10.2
        "begins 10.5 8 map1 last 1\nends 10.6 8 map1 last 1\nbegins 10.7 8 map1 last 2\nends 10.8 8 map1 last 2\n"
    )
    read = recovery.Runs.read(runs)
    assert read.again == 2
    storm: Any = Calm(Fault(CHILD_KILLED, frozenset([7]), 10.2, 10.2))
    found = recovery.measure(read, storm)[CHILD_KILLED]
    assert found.alone_s == found.all_s == pytest.approx([0.5])
