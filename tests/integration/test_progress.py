"""Progress of real work: job.progress(), on a terminal beside what a program prints, and lastcall status."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from lastcall import Client, Progress
from lastcall.errors import DeadLetters, QueueCancelled, UnknownJob, WaitTimeout
from tests.conftest import Cluster, start_server
from tests.faults.test_replica import replicate
from tests.functions import Gate, odd_only, produce, square
from tests.workers import LASTCALL, environment, until

pytestmark = pytest.mark.integration


def test_progress_of_a_job_blocks_until_it_has_ended_and_says_so_in_a_line_a_queue(
    client: Client, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    last = client.queue("second", square, job=name)
    produce(client.queue("first", square, into=last), None, list(range(100)))
    statuses = client.job(name).progress(30)
    assert [(status.name, status.done) for status in statuses] == [("first", 100), ("second", 100)]
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.rpartition(",")[0] for line in err.splitlines()] == [
        f"{name}/first DRAINED: 100 of 100 done", f"{name}/second DRAINED: 100 of 100 done",
    ]  # fmt: skip


def test_progress_raises_what_wait_raises(client: Client, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownJob):
        client.job(name).progress()
    queue = client.queue(name, odd_only)
    with queue.producer() as out:
        out.put_many([1, 2])
        with pytest.raises(WaitTimeout):
            client.job(name).progress(0.1)
    with pytest.raises(DeadLetters):
        client.job(name).progress(30)
    assert f"{name} DRAINED: 1 of 2 done, 1 dead, in " in capsys.readouterr().err
    table = client.queue(f"{name}-2")
    table.cancel()
    with pytest.raises(QueueCancelled):
        client.job(f"{name}-2").progress(30)


def test_bars_follow_the_work_by_themselves(cluster: Cluster, client: Client, name: str) -> None:
    gate = Gate(cluster.url, name)
    queue = client.queue(name, gate)
    file = io.StringIO()
    with Progress(lambda: [queue.status()], total=3, console=Console(file=file, force_terminal=True, width=120)):
        produce(queue, None, [1, 2, 3])
        until(lambda: "3/3" not in file.getvalue() and "0/3" in file.getvalue(), "what waits to be shown")
        gate.open(3)
        until(lambda: "DRAINED" in file.getvalue(), "the end to be shown")
    queue.join(30)


PROGRAM = """
import sys
from lastcall import Client
from tests.functions import square
with Client() as client:
    queue = client.queue(sys.argv[1], square)
    with queue.producer() as out:
        out.put_many(range(10))
    print("before")
    client.job(sys.argv[1]).progress(60)
    print(f"{queue.status().done} done")
"""


def test_what_a_program_prints_stays_its_own_where_stderr_is_a_terminal(cluster: Cluster, name: str) -> None:
    ours, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, name], env=environment(cluster.url, cluster.key, {"TERM": "xterm"}), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=its,
    ) as program:  # fmt: skip
        os.close(its)
        shown = bytearray()

        def read() -> None:
            with contextlib.suppress(OSError):  # its other end is closed
                while data := os.read(ours, 4096):
                    shown.extend(data)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            assert program.communicate(timeout=60) == ("before\n10 done\n", None)
        finally:
            program.kill()
        reader.join(30)
        os.close(ours)
    assert program.returncode == 0
    assert b"DRAINED" in shown
    assert b"before" not in shown


# lastcall status


def status(*args: str, url: str, key: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LASTCALL, "status", *args], env=environment(url, key), text=True, stdin=subprocess.DEVNULL,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def test_status_all_shows_queues_that_have_ended(lonely: Cluster) -> None:
    with lonely.client() as client:
        client.queue("over").cancel()
        client.queue("b", square, job="linked", into=client.queue("a", square, job="linked")).cancel()
        client.queue("open")
        some, all_of_them = (status(*how, url=lonely.url, key=lonely.key) for how in ([], ["--all"]))
    assert [line.split()[:2] for line in some.stdout.splitlines()] == [["open", "NEW"]]
    assert [line.split()[:2] for line in all_of_them.stdout.splitlines()] == [
        ["over", "CANCELLED"], ["linked/b", "CANCELLED"], ["linked/a", "INCOMPLETE"], ["open", "NEW"],
        ["a:", "producer"],
    ]  # fmt: skip


def test_status_watch_ends_when_what_is_named_has_ended(lonely: Cluster) -> None:
    with lonely.client() as client:
        queue = client.queue("table")
        with subprocess.Popen(
            [*LASTCALL, "status", "--watch", "table"], env=environment(lonely.url, lonely.key), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as watching:  # fmt: skip
            queue.cancel()
            out, err = watching.communicate(timeout=60)
        assert (watching.returncode, err) == (0, "")
        assert out.startswith("table CANCELLED: 0 of 0 done, in ")
    refused = status("--watch", "--json", url=lonely.url, key=lonely.key)
    assert refused.returncode == 2
    assert "leave one of them out" in refused.stderr


def test_status_of_a_replica_is_shown(tmp_path: Path) -> None:
    key = "a key that is long enough"
    with contextlib.closing(start_server()) as server, contextlib.closing(start_server()) as replica:
        with Client(server.url, key) as client:
            client.queue("table").cancel()
            client.queue("bench")
        replicate(replica, server)
        told = status("--all", url=replica.url, key=key)
    assert told.returncode == 0, told.stderr
    assert [line.split()[:2] for line in told.stdout.splitlines()] == [["table", "CANCELLED"], ["bench", "NEW"]]
    assert told.stderr == "no live worker: start one with: lastcall worker\n"
