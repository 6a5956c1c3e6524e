"""lastcall map: what it prints and leaves, how it ends, and how it goes on after it was killed."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastcall.map import MapResults
from lastcall.mapfiles.inputs import Items, open_input
from lastcall.policy import told
from tests.conftest import Cluster
from tests.functions import same
from tests.workers import LASTCALL, environment, until

pytestmark = pytest.mark.integration

# Says what it runs, holds "hold" until it is let go, and kills its process at "deadly", once.
SCRIPT = """
import os, signal, time
from pathlib import Path

def work(item):
    with open(HERE / "log", "a") as log:
        log.write(f"{item}\\n")
    if item == "hold":
        while not (HERE / "go").exists():
            time.sleep(0.01)
    if item == "deadly" and not (HERE / "died").exists():
        (HERE / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item.upper()

def picky(item):
    if "bad" in item and not (HERE / "mended").exists():
        raise ValueError(f"not {item}")
    return item

def not_json(item):
    return {item}
"""


class Place:
    """A directory with the script, and the command run in it."""

    def __init__(self, path: Path, cluster: Cluster | None) -> None:
        self.path = path
        self._environment = environment(cluster and cluster.url, cluster and cluster.key)
        (path / "job.py").write_text(SCRIPT.replace("HERE", f"Path({str(path)!r})"))

    @contextlib.contextmanager
    def start(self, *args: str, stdin: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [*LASTCALL, "map", *args], cwd=self.path, env=self._environment, text=True,
            stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()

    def run(self, *args: str, said: str | None = None) -> tuple[int, str, str]:
        with self.start(*args, stdin=subprocess.DEVNULL if said is None else subprocess.PIPE) as process:
            out, err = process.communicate(said, timeout=60)
        return process.returncode, out, err

    def write(self, name: str, items: list[str]) -> None:
        (self.path / name).write_text("".join(f"{item}\n" for item in items))

    def lines(self, name: str) -> list[str]:
        path = self.path / name
        return path.read_text().splitlines() if path.exists() else []

    def values(self, name: str = "out.jsonl") -> dict[int, Any]:
        """What the output has; each index once."""
        found = [json.loads(line) for line in self.lines(name)]
        assert len({one["index"] for one in found}) == len(found)
        return {one["index"]: one.get("value", one.get("error")) for one in found}


@pytest.fixture(autouse=True)
def _heeding() -> Iterator[None]:
    """As from a terminal: where the tests run in the background SIGINT is ignored, also by what they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def place(tmp_path: Path, cluster: Cluster) -> Place:
    return Place(tmp_path, cluster)


@pytest.fixture
def private(tmp_path: Path) -> Place:
    """Where no server is told."""
    return Place(tmp_path, None)


HELD = [f"item {n}" for n in range(60)]
HELD[40] = "hold"
DONE = {n: item.upper() for n, item in enumerate(HELD)}


def held(place: Place, process: subprocess.Popen[str]) -> None:
    """Wait until "hold" runs, and what was before it is written, but for what its slot took along with it."""
    until(
        lambda: process.poll() is not None or (len(place.lines("out.jsonl")) >= 20 and "hold" in place.lines("log")),
        "the results before the one that is held",
    )
    assert process.poll() is None, process.communicate()


def test_after_kill_9_the_same_command_does_what_is_left_and_only_that(place: Place) -> None:
    place.write("in.txt", HELD)
    command = ("job.py:work", "-i", "in.txt", "-o", "out.jsonl", "--chunksize", "1")
    with place.start(*command) as first:
        held(place, first)
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
    written = place.values()
    assert len(written) <= 40
    with open(place.path / "out.jsonl", "a") as out:
        out.write('{"index": 40, "valu')
    (place.path / "go").touch()
    code, text, err = place.run(*command)
    assert (code, text) == (0, "")
    assert f"{len(written)} items were done before" in err
    assert "job.py:work: 60 items are done" in err
    assert place.values() == DONE
    ran = collections.Counter(place.lines("log"))
    assert {ran[HELD[index]] for index in written} == {1}

    again = len(place.lines("log"))
    assert place.run(*command)[0] == 0
    assert len(place.lines("log")) == again
    place.write("in.txt", [*HELD, "more"])
    code, _, err = place.run(*command)
    assert code == 1
    assert "the input in.txt has changed since; name another --output, or --restart" in err
    assert place.values() == DONE
    assert place.run(*command, "--restart", "--unordered", "-q") == (0, "", "")
    assert place.values() == DONE | {60: "MORE"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_how_to_go_on_and_does_on_a_private_server_too(
    private: Place, number: signal.Signals
) -> None:
    private.write("in.txt", HELD)
    command = ("job:work", "in.txt", "-o", "out.jsonl", "--chunksize", "1", "--slots", "2")
    with private.start(*command) as first:
        held(private, first)
        first.send_signal(number)
        _, err = first.communicate(timeout=60)
    assert first.returncode == 128 + number
    written = len(private.values())
    assert 20 <= written <= 40
    assert err.endswith(f"interrupted: {written} items are done: the same command goes on from there\n")
    assert "Traceback" not in err
    (private.path / "go").touch()
    assert private.run(*command)[0] == 0
    assert private.values() == DONE


def test_a_worker_that_dies_loses_and_doubles_nothing(place: Place) -> None:
    items = [f"item {n}" for n in range(30)]
    items[7] = "deadly"
    place.write("in.txt", items)
    assert place.run("job.py:work", "in.txt", "-o", "out.jsonl", "--unordered")[0] == 0
    assert (place.path / "died").exists()
    assert place.values() == {n: item.upper() for n, item in enumerate(items)}


def test_pipes_and_files_and_globs_are_inputs_and_stdout_is_the_output(place: Place) -> None:
    code, out, err = place.run("tests.functions:same", said="a\nb\n")
    assert (code, out) == (0, '{"index": 0, "value": "a"}\n{"index": 1, "value": "b"}\n')
    assert err.endswith("tests.functions:same: 2 items are done\n")
    place.write("a.jsonl", ['{"n": 1}', "[2]"])
    place.write("b.txt", ["3"])
    args = ("-i", "a.jsonl", "-i", "*.txt", "-i", "-", "b.txt", "--with-input", "-q")
    code, out, err = place.run("tests.functions:same", *args, said="4\n")
    assert (code, err) == (0, "")
    given = [{"n": 1}, [2], "b.txt", "4", "3"]
    assert [json.loads(line) for line in out.splitlines()] == [
        {"index": n, "value": value, "input": value} for n, value in enumerate(given)
    ]
    code, out, _ = place.run("tests.functions:square", "--json", said="3\n")
    assert (code, out) == (0, '{"index": 0, "value": 9}\n')


def test_a_reader_that_has_had_enough_ends_it(place: Place) -> None:
    place.write("in.txt", ["x" * 100] * 20_000)
    with place.start("job.py:picky", "in.txt", "-q") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_an_item_that_fails_stops_it_or_is_put_aside_or_among_the_results(place: Place) -> None:
    place.write("in.txt", ["good", "bad 1", "fine", "bad 3"])
    stop = ("job.py:picky", "in.txt", "-o", "out.jsonl", "--chunksize", "1")
    code, _, err = place.run(*stop)
    assert code == 3
    assert "item 1 failed: ValueError: not bad 1\nstopped, 1 item is done: the same command tries it again" in err
    assert 'raise ValueError(f"not {item}")' in err or "in picky" in err
    assert place.values() == {0: "good"}

    code, _, err = place.run(*stop, "--on-error", "dead")
    assert code == 4
    assert "4 items are done, 2 of them failed: --retry-errors tries them again" in err
    assert place.values() == {0: "good", 2: "fine"}
    aside = [json.loads(line) for line in place.lines("out.jsonl.errors")]
    assert [(one["index"], one["input"], one["error"]["type"]) for one in aside] == [
        (1, "bad 1", "ValueError"), (3, "bad 3", "ValueError"),
    ]  # fmt: skip
    assert "in picky" in aside[0]["error"]["traceback"]
    assert place.run(*stop)[0] == 4  # nothing is left to do

    code, _, _ = place.run(*stop, "--on-error", "yield", "--retry-errors")
    assert code == 4
    assert place.values()[1]["message"] == "not bad 1"
    assert not (place.path / "out.jsonl.errors").exists()
    (place.path / "mended").touch()
    assert place.run(*stop, "--retry-errors")[0] == 0
    assert place.values() == {0: "good", 1: "bad 1", 2: "fine", 3: "bad 3"}


def test_lines_that_cannot_be_read_are_among_the_results_in_their_order(place: Place) -> None:
    place.write("in.jsonl", ["{" if n % 3 == 0 or 20 <= n < 50 else str(n) for n in range(100)])
    code, out, _ = place.run("tests.functions:same", "in.jsonl", "--on-error", "yield", "-q")
    assert code == 4
    assert [json.loads(line)["index"] for line in out.splitlines()] == list(range(100))
    code, out, err = place.run("tests.functions:same", "in.jsonl", "-q")
    assert (code, out) == (3, "")
    assert "item 0 failed: BadItem: line 1 of in.jsonl is not JSON" in err


def test_output_that_is_the_input_is_refused_and_the_input_stays(place: Place) -> None:
    place.write("in.txt", ["a", "b"])
    for args in (("-o", "in.txt", "--restart"), ("-o", "out", "--errors", "./in.txt", "--restart")):
        code, _, err = place.run("job.py:work", "in.txt", *args)
        assert code == 1
        assert "--input must be another file than those that are written" in err
    with open(place.path / "in.txt") as stdin, place.start("job.py:work", "-o", "in.txt", stdin=stdin.fileno()) as it:
        assert "--input must be another file than those that are written" in it.communicate(timeout=60)[1]
    assert place.lines("in.txt") == ["a", "b"]


def test_ctrl_c_before_anything_came_is_130_too_and_an_ignored_one_is_ignored(place: Place) -> None:
    os.mkfifo(place.path / "pipe")
    with place.start("job.py:work", "pipe", "-o", "out.jsonl") as process:
        writer = os.open(place.path / "pipe", os.O_WRONLY)  # once it reads
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        os.close(writer)
    assert (process.returncode, out) == (130, "")
    assert err == "interrupted\n"

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell has it for what it runs in the background
    try:
        with place.start("job.py:work", stdin=subprocess.PIPE) as process:
            signal.signal(signal.SIGINT, before)
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("a\n")
            process.stdin.flush()
            assert "A" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate("b\n", timeout=60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.returncode == 0
    assert '"value": "B"' in out


def test_what_is_no_items_fault_ends_it_whatever_is_to_become_of_errors(place: Place) -> None:
    code, out, err = place.run("job:work", "--on-error", "dead", "-o", "out.jsonl", said="a\n")
    assert (code, out) == (1, "")
    assert "Error: FunctionNotImportable: " in err
    assert place.values() == {}
    assert not (place.path / "out.jsonl.errors").exists()


def test_values_that_are_not_json_are_errors_that_say_what_to_do(place: Place) -> None:
    code, out, err = place.run("job.py:not_json", "--on-error", "dead", "-q", said="a\n")
    assert (code, out) == (4, "")
    assert "--values repr" in json.loads(err)["error"]["message"]
    assert place.run("job.py:not_json", "--values", "repr", "-q", said="a\n") == (
        0, '{"index": 0, "repr": "{\'a\'}"}\n', "",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("job.py:nothing",), 1, "Error: ConfigError: the function must be"),
        (("job.py:work", "-i", "nowhere.txt"), 1, "Error: ConfigError: --input must be a file, - or a glob, got"),
        (("job.py:work", "--restart"), 2, "--restart and --retry-errors are for an --output that is a file"),
        (("job.py:work", "--on-error", "hope"), 2, "'hope' is not one of 'stop', 'dead', 'yield'"),
        (("job.py:work", "-o", "no/out"), 1, "Error: ConfigError: --output must be a file that can be written, got"),
    ],
)
def test_wrong_use_is_told_before_anything_is_done(place: Place, args: tuple[str, ...], code: int, said: str) -> None:
    got, out, err = place.run(*args)
    assert (got, out) == (code, "")
    assert said in err
    assert "Traceback" not in err


def test_100_000_lines_are_read_as_they_are_worked_on(cluster: Cluster, tmp_path: Path) -> None:
    class Watched(dict[int, Any]):
        most = 0

        def __setitem__(self, key: int, value: Any) -> None:
            super().__setitem__(key, value)
            self.most = max(self.most, len(self))

    (tmp_path / "in.txt").write_text("line\n" * 100_000)
    items = Items([open_input(str(tmp_path / "in.txt"), None)], lambda index: False, lambda index, error: None)
    watched = items._under_way = Watched()
    with cluster.client() as client:
        results = MapResults(
            client._open(), same, [items], ordered=True, chunksize=100, workers="cpu", max_workers=None, timeout=None,
            policy=told(retries=None, backoff_s=None, retry_on=None, timeout=None, crash_limit=None),
            goes_on=True, numbered=True,
        )  # fmt: skip
        assert sum(items.take(place)[0] == place for place, _ in results) == 100_000
    assert watched.most < 5_000
