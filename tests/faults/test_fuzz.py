"""Runs fuzz_envelopes.py in a process of its own: elsewhere threads that use `random` are taken for the test itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers import ROOT, environment

pytestmark = pytest.mark.faults

FUZZ = Path(__file__).with_name("fuzz_envelopes.py")


@pytest.mark.timeout(1800)
def test_no_changed_envelope_of_a_hundred_thousand_is_unpickled() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(FUZZ)],
        cwd=ROOT, env=environment(None, None, {"LASTCALL_FUZZ": os.environ.get("LASTCALL_FUZZ", "100000")}),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert "3 passed" in ran.stdout
