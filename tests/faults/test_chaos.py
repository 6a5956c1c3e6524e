"""make chaos, for a moment: twenty random jobs under random faults, and the same kills on raw Celery's side."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import start_server
from tests.workers import IMPORTABLE, ROOT

pytestmark = pytest.mark.faults


def run_chaos(tmp_path: Path, *options: str) -> tuple[str, dict[str, Any]]:
    """The program's output and its numbers; it has to end with 0."""
    start_server(tcp=False).close()  # skips here where there is none
    file = tmp_path / "chaos.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos", "--json", str(file), *options],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": IMPORTABLE},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=540)
    except BaseException:
        process.send_signal(signal.SIGINT)  # it ends what it has started
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        raise
    assert process.returncode == 0, output[-20_000:]
    return output, json.loads(file.read_text())


@pytest.mark.timeout(600)
def test_twenty_jobs_under_faults_lose_nothing_double_nothing_and_end(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    output, report = run_chaos(tmp_path, "--jobs", "20", "--seed", str(seed))
    (result,) = report["runs"]
    assert (result["jobs"], result["lost"], result["doubled"], result["hung"]) == (20, 0, 0, 0), output
    assert result["violations"] == []
    assert result["seed"] == seed
    assert str(seed) in output
    assert sum(result["faults"].values()) >= 20, result["faults"]
