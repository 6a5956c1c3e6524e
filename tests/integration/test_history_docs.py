"""docs/history.md does what it says and leaves no event out; docs/modes.md has pictures that can be drawn again."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from lastcall.history import KINDS
from lastcall.state.records import RECORD
from tests.conftest import Cluster
from tests.documents import printed_by
from tests.workers import ROOT, environment

pytestmark = pytest.mark.integration

MODES = ("serial", "horizontal", "vertical", "streaming", "auto")


def test_the_program_prints_what_is_said(cluster: Cluster, tmp_path: Path) -> None:
    (lines,) = printed_by("docs/history.md", cluster, tmp_path)
    raised = "ZeroDivisionError: integer division or modulo by zero"
    assert lines == [
        "[25, Failure(ZeroDivisionError('integer division or modulo by zero')), 20]", f"told: {raised}",
        "parse 0 done 1 ", f"share 0 retried 1 {raised}", f"share 0 failed 2 {raised}",
    ]  # fmt: skip


def test_every_kind_of_event_and_every_level_is_told_of() -> None:
    text = (ROOT / "docs" / "history.md").read_text(encoding="utf-8")
    first = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    told = [word for cell in first for word in re.findall(r"`\"?(\w+)\"?`", cell)]
    assert sorted(told) == sorted([*KINDS, *RECORD])


def test_one_flow_is_drawn_in_each_mode(cluster: Cluster, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "modes.py"), str(tmp_path)], timeout=90, check=False, cwd="/",
        env=environment(cluster.url, cluster.key), capture_output=True, text=True,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [line.split()[0] for line in ran.stdout.splitlines()[:-1]] == list(MODES)
    for mode in MODES:
        drawn = ElementTree.fromstring((tmp_path / f"{mode}.svg").read_text(encoding="utf-8"))
        titles = [one.text or "" for one in drawn.iter("{http://www.w3.org/2000/svg}title")]
        assert sum(" item" in title for title in titles) >= 6
        committed = ROOT / "docs" / "modes" / f"{mode}.svg"
        assert committed.stat().st_size < 60_000
