"""Runs the programs that a document shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import Cluster
from tests.workers import ROOT, environment


def printed_by(document: str, cluster: Cluster, folder: Path) -> list[list[str]]:
    """What each ```python block of a document prints, by lines, run as a script on the cluster."""
    programs = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)
    printed = []
    for program in programs:
        script = folder / "program.py"
        script.write_text(program, encoding="utf-8")
        ran = subprocess.run(
            [sys.executable, str(script)], env=environment(cluster.url, cluster.key), cwd="/",
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert (ran.returncode, ran.stderr) == (0, "")
        printed.append(ran.stdout.splitlines())
    return printed
