"""The picture of a job: what is drawn, and how much of it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from lastcall import Event, gantt


def event(chunk: int, began_ms: float, ended_ms: float, *, queue: str = "parse", slot: str = "7") -> Event:
    return Event(
        "done", "job", queue, f"1-{chunk}", int(ended_ms), runtime_s=(ended_ms - began_ms) / 1000, ended_ms=ended_ms,
        worker="cpu@here", slot=slot, attempt=1,
    )  # fmt: skip


def heights(events: list[Event]) -> list[float]:
    (axes,) = gantt.draw(events).axes
    return [round(patch.get_height(), 2) for patch in axes.patches]  # type: ignore[attr-defined]


def test_what_a_slot_did_while_it_waited_lies_inside_of_what_it_waited_in() -> None:
    outer, inner, after = event(1, 0, 1000), event(2, 200, 400, queue="score"), event(3, 1000, 2000)
    assert heights([inner, outer, after]) == [0.8, 0.48, 0.8]


def test_chunks_that_follow_one_another_are_not_inside_though_times_are_whole_milliseconds() -> None:
    assert heights([event(1, 0, 1000), event(2, 999, 2000), event(3, 1999, 3000)]) == [0.8] * 3


def test_chunks_thinner_than_a_pixel_share_bars(tmp_path: Path) -> None:
    events = [event(at, 1.0 * at, 1.0 * at + 0.5, slot=str(at % 2)) for at in range(20_000)]
    svg = gantt.save(events, tmp_path / "job.svg").read_text(encoding="utf-8")
    assert 0 < svg.count('class="bar"') < 10
    assert "10000 chunks, 10000 items" in svg
    assert len(svg) < 30_000


def test_a_mark_of_a_pixel_stays_where_the_slot_was_idle_for_long() -> None:
    assert len(heights([event(1, 0, 0.1), event(2, 5000, 5000.1), event(3, 9999, 10_000)])) == 3


def test_the_same_job_gives_the_same_file_and_names_are_shown_as_they_are(tmp_path: Path) -> None:
    events = [
        event(1, 0, 1000, queue="_hidden"),
        event(2, 0, 1000, queue="$a$<b>", slot="10"),
        event(3, 0, 900, slot="9"),
    ]
    first, second = (
        gantt.save(events, tmp_path / name, title="costs $1 & $2").read_text(encoding="utf-8")
        for name in ("a.svg", "b.svg")
    )
    assert first == second
    for shown in ("_hidden<", ">$a$&lt;b&gt;<", ">costs $1 &amp; $2<"):
        assert shown in first
    assert first.index(">cpu@here 9<") < first.index(">cpu@here 10<")  # by number
