"""The examples run, say what they are meant to say, and end by themselves."""

from __future__ import annotations

import collections
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lastcall import errors
from tests.conftest import Cluster
from tests.documents import printed_by
from tests.workers import ROOT, environment

pytestmark = pytest.mark.integration

EXAMPLES = ROOT / "examples"


def run(path: str, cluster: Cluster | None = None, *args: str) -> list[str]:
    """Run an example, on the session's server or on one of its own; the lines that it printed."""
    env = environment(cluster and cluster.url, cluster and cluster.key)
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / path), *args],
        env=env,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.splitlines()


@pytest.mark.parametrize("private", [True, False], ids=["a private server", "a server"])
def test_buns(cluster: Cluster, private: bool) -> None:
    lines = [line.strip() for line in run("buns.py", None if private else cluster)]
    made = [line.partition(" made ")[2] for line in lines if " made " in line]
    eaten = [line.partition(" ate ")[2] for line in lines if " ate " in line]
    assert len(made) == 20
    assert collections.Counter(made) == collections.Counter(eaten)
    for who in ("mengmeng", "xiaoxiao"):
        assert f"{who} has left" in lines
    for who in ("fioman", "jingjing"):
        assert f"{who} has finished" in lines
    assert lines[-1] == "everything is eaten"


@pytest.mark.parametrize("private", [True, False], ids=["a private server", "a server"])
def test_pools(cluster: Cluster, private: bool) -> None:
    assert run("pools.py", None if private else cluster) == [
        "['bun after 10 minutes', 'mantou after 10 minutes', 'dumpling after 10 minutes']",
        "['bun after 12 minutes', 'mantou after 15 minutes']",
        "['bun after 8 minutes', 'mantou after 8 minutes']",
        "bun after 10 minutes",
        "mantou after 10 minutes",
        "['dumpling after 10 minutes']",
        "['tea after 10 minutes', 'soup after 10 minutes']",
    ]


def test_kettle() -> None:
    assert run("kettle.py") == [
        "stood there: 1 l of tea",
        "looked: 2 l of tea",
        "called: 3 l of tea",
        "awaited: ['1 l of tea', '2 l of tea']",
        "told: kettles DRAINED 3",
    ]


EATEN = sorted(f"ate {food} {n}" for food in ("bun", "mantou") for n in range(5))


@pytest.mark.parametrize("way", ["sentinels", "joinable", "statusable"])
def test_three_ways(cluster: Cluster, way: str) -> None:
    assert sorted(run(f"three_ways/{way}.py", cluster)) == EATEN


@pytest.mark.parametrize("private", [True, False], ids=["a private server", "a server"])
@pytest.mark.parametrize(
    ("way", "theirs", "ours"),
    [
        ("sentinels", "from multiprocessing import Process, Queue\n", "Queue"),
        ("joinable", "from multiprocessing import JoinableQueue, Process\n", "JoinableQueue"),
        ("statusable", "", ""),
    ],
)
def test_three_ways_on_lastcall_differ_in_an_import(
    cluster: Cluster, tmp_path: Path, way: str, theirs: str, ours: str, private: bool
) -> None:
    text = (EXAMPLES / f"three_ways/{way}.py").read_text(encoding="utf-8")
    if theirs:
        assert theirs in text
        text = text.replace(theirs, f"from lastcall import {ours}\nfrom multiprocessing import Process\n")
    program = tmp_path / "program.py"
    program.write_text(text, encoding="utf-8")
    assert sorted(run(str(program), None if private else cluster)) == EATEN


UNJOINED = """
from multiprocessing import Process
from lastcall import JoinableQueue, Queue, connection

def pass_on(asked, answers):
    answers.put(2 * asked.get())

def tell(answers):
    print(answers.get())

if __name__ == "__main__":
    asked, answers = Queue(), JoinableQueue(1)
    Process(target=pass_on, args=(asked, answers)).start()
    Process(target=tell, args=(answers,)).start()
    asked.put(21)
    (cluster,) = connection._clusters.values()
    print(cluster.directory, flush=True)
"""


def test_a_private_server_is_of_all_queues_of_a_program_and_there_until_its_processes_have_ended(
    tmp_path: Path,
) -> None:
    program = tmp_path / "program.py"
    program.write_text(UNJOINED, encoding="utf-8")
    directory, answer = run(str(program))
    assert answer == "42"
    assert not Path(directory).exists()


def test_flows(cluster: Cluster) -> None:
    most = "[('the', 4), ('eaten', 2), ('mantou', 2)]"
    modes = ("serial", "horizontal", "vertical", "streaming", "auto")
    assert run("flows.py", cluster) == [
        *(f"{mode} {most}" for mode in modes),
        "[3, 'THE', 4, 'SOUP', 2, 'IS', 3, 'HOT']",
    ]


def test_the_program_in_the_page_about_flows(cluster: Cluster, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/flows.md").read_text(encoding="utf-8"), re.DOTALL)
    script = tmp_path / "program.py"
    script.write_text(program, encoding="utf-8")
    assert run(str(script), cluster) == ["True"]


def test_every_example_is_run_here() -> None:
    assert {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.py")} == {
        "buns.py", "flows.py", "kettle.py", "modes.py", "pools.py",
        "three_ways/sentinels.py", "three_ways/joinable.py", "three_ways/statusable.py",
    }  # fmt: skip


PROGRAMS = [
    program
    for page in ("README.md", "docs/interfaces.md", "docs/failures.md")
    for program in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
]
PRINTED = (
    [str(sum(n * n for n in range(1_000_000))), "144", "100", "9801"],
    ["bun", "mantou"],
    ["42"] * 5,
    [str(list(range(10))), "[6, 20]", "42", "42", "0", "1", "2"],
    ["42", "84"],
    [str([n**3 for n in range(10)]), "729"],
    ["144", str(sum(n * n for n in range(1_000)))],
    ["[0.96666667 0.96666667 0.96666667 0.93333333 1.        ]"],
    [
        "order 1 by 1-1#0",
        "['order 2 by 1-1#0']",
        str(errors.DeadLetters("orders", 1, 1)),
        "order 3 1 cpu@test the bank does not answer",
    ],
)


SHARED = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "shared.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize(
    ("program", "printed"), list(zip(SHARED, (["True"], ["[1, 2, 3, 4, 5] 5", "True"]), strict=True))
)
def test_the_programs_about_state_do_what_they_say(
    cluster: Cluster, tmp_path: Path, program: str, printed: list[str]
) -> None:
    script = tmp_path / "program.py"
    script.write_text(program, encoding="utf-8")
    assert run(str(script), cluster) == printed


def test_the_programs_in_the_page_on_asyncio(cluster: Cluster, tmp_path: Path) -> None:
    assert printed_by("docs/asyncio.md", cluster, tmp_path) == [
        ["144", "[0, 1, 4, 9]", str(999**2), "[0, 1, 4]", "3", "[0, 1, 4]", "bun"],
        ["5"],
    ]


@pytest.mark.parametrize(
    ("program", "printed"),
    list(zip(PROGRAMS, PRINTED, strict=True)),
    ids=["map and queue", "consumer", "flows", "pools", "queues", "executor", "asyncio", "joblib", "failures"],
)
def test_the_readmes_programs_do_what_they_say_and_may_be_run_again(
    cluster: Cluster, tmp_path: Path, program: str, printed: list[str]
) -> None:
    script = tmp_path / "program.py"
    script.write_text(program, encoding="utf-8")
    for _ in range(2):
        assert run(str(script), cluster) == printed


def test_the_program_about_queues_does_what_it_says(cluster: Cluster, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/queues.md").read_text(encoding="utf-8"), re.DOTALL)
    script = tmp_path / "program.py"
    script.write_text(program, encoding="utf-8")
    assert run(str(script), cluster) == ["bun", "closed for today", "bun", "mantou"]
