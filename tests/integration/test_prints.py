"""What functions print on a private cluster's workers appears on its client's standard error, and nowhere else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.workers import LASTCALL, environment

pytestmark = pytest.mark.integration

SCRIPT = """
import logging, sys, warnings
from lastcall import Client, Pool, ThreadPool

def tell(n):
    print("printed", n)
    print("to stderr", n, file=sys.stderr)
    logging.getLogger("mine").warning("logged %d", n)
    warnings.warn(f"warned {n}", stacklevel=1)
    return n

def flood(n):
    for _ in range(n):
        print("x" * 99)
    return n

def shout(line):
    print("heard", line)
    return line.upper()

def leave(code):
    print("leaving", end="")
    sys.exit(code)

if __name__ == "__main__":
    if sys.argv[1:] == ["leave"]:
        with Client(slots=1) as client:
            print(type(client.submit(leave, "for good").exception(60)).__name__)
    elif sys.argv[1:] == ["flood"]:
        with Pool(2) as pool:
            print(pool.map(flood, [5_000, 5_000], chunksize=1))
    else:
        with Pool(2) as pool:
            print(pool.map(tell, range(2)))
        with ThreadPool(2) as pool:
            print(pool.map(tell, range(2, 4)))
"""


@pytest.fixture
def script(alone: None, tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def run(argv: Sequence[object], script: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in argv], env=environment(None, None), cwd=script.parent,
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


def test_prints_of_processes_and_threads_appear_on_standard_error(script: Path) -> None:
    ran = run([sys.executable, script], script)
    assert (ran.returncode, ran.stdout) == (0, "[0, 1]\n[2, 3]\n")
    told = sorted(line for line in ran.stderr.splitlines() if "warn" not in line)
    assert told == sorted(f"{what} {n}" for what in ("printed", "to stderr", "logged") for n in range(4))
    assert re.findall(r"UserWarning: warned (\d)", "".join(sorted(ran.stderr.splitlines()))) == list("0123")


def test_lines_of_processes_are_all_there_and_not_mixed(script: Path) -> None:
    ran = run([sys.executable, script, "flood"], script)
    assert (ran.returncode, ran.stdout) == (0, "[5000, 5000]\n")
    assert ran.stderr == ("x" * 99 + "\n") * 10_000


def test_what_billiard_says_of_a_process_that_ends_stays_in_the_log(script: Path) -> None:
    ran = run([sys.executable, script, "leave"], script)
    assert (ran.returncode, ran.stdout) == (0, "WorkerLost\n")
    assert re.fullmatch("(leaving)+", ran.stderr)


def test_the_command_keeps_its_output_clean(script: Path) -> None:
    (script.parent / "lines").write_text("a\nb\n")
    ran = run([*LASTCALL, "map", "script:shout", "lines"], script)
    assert (ran.returncode, ran.stdout.count("\n")) == (0, 2), ran.stderr
    assert "heard" not in ran.stdout
    assert {"heard a", "heard b"} <= set(ran.stderr.splitlines())


def test_a_closed_standard_error_is_silence(script: Path) -> None:
    ran = run(["/bin/sh", "-c", 'exec "$0" "$1" 2>&-', sys.executable, script], script)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "[0, 1]\n[2, 3]\n", "")


@pytest.mark.parametrize("reader", ["gone", "idle"])
def test_a_standard_error_that_nobody_reads_blocks_nothing(script: Path, reader: str) -> None:
    read_end, write_end = os.pipe()
    if reader == "gone":
        os.close(read_end)
    ran = subprocess.run(
        [sys.executable, str(script), "flood"], env=environment(None, None), cwd=script.parent,
        stdout=subprocess.PIPE, stderr=write_end, text=True, timeout=90, check=False,
    )  # fmt: skip
    os.close(write_end)
    if reader == "idle":
        os.close(read_end)
    assert (ran.returncode, ran.stdout) == (0, "[5000, 5000]\n")
