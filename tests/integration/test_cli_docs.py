"""docs/cli.md: its programs run, and it leaves no command out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lastcall.cli import COMMANDS
from tests.conftest import Cluster
from tests.workers import LASTCALL, ROOT, environment

pytestmark = pytest.mark.integration

TEXT = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
SHOUT, PROGRESS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_every_command_is_in_the_table() -> None:
    assert re.findall(r"^\| \[?`(\w+)`", TEXT, re.MULTILINE)[: len(COMMANDS)] == list(COMMANDS)


def test_the_programs_do_what_is_said(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "shout.py").write_text(SHOUT)
    (tmp_path / "lines.txt").write_text("hello\nyou\n")
    (tmp_path / "progress.py").write_text(PROGRESS)

    def run(*command: str) -> list[str]:
        ran = subprocess.run(
            command, cwd=tmp_path, env=environment(cluster.url, cluster.key), input="hello\nyou\n",
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return ran.stdout.splitlines()

    assert run(*LASTCALL, "map", "shout.py:shout", "--input", "lines.txt", "--output", "out.jsonl") == []
    printed = '{"index": 0, "value": "HELLO!"}'
    assert printed in TEXT
    assert run(*LASTCALL, "map", "shout.py:shout") == [printed, '{"index": 1, "value": "YOU!"}']
    assert (tmp_path / "out.jsonl").read_text().splitlines()[0] == printed
    for _ in range(2):
        assert run(sys.executable, "progress.py") == ["1000"]
