"""The command line: what it prints, on a terminal's behalf and for scripts, and how it ends."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from lastcall import Client
from lastcall.cli import COMMANDS
from lastcall.version import __version__
from tests import functions
from tests.conftest import Cluster, start_server
from tests.functions import produce, square
from tests.workers import LASTCALL, environment

pytestmark = pytest.mark.integration


def start(*args: str, url: str | None = None, key: str | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LASTCALL, *args], env=environment(url, key), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], timeout_s: float = 60) -> tuple[int, str, str]:
    """Exit code, output, error output."""
    with process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        finally:
            process.kill()
    return process.returncode, out, err


def run(*args: str, url: str | None = None, key: str | None = None) -> tuple[int, str, str]:
    return ended(start(*args, url=url, key=key))


@pytest.fixture(scope="module")
def quiet() -> Iterator[Cluster]:
    """A server without workers, for commands that only look."""
    server = start_server(tcp=False)
    yield Cluster(server, server.unix_url, secrets.token_hex(16))
    server.close()


# Help


def test_help_shows_every_command() -> None:
    started = {name: start(*([name] if name else []), "--help") for name in ("", *COMMANDS)}
    for name, process in started.items():
        code, out, err = ended(process)
        assert (code, err) == (0, "")
        assert out.startswith(f"Usage: {'lastcall ' + name if name else 'lastcall [OPTIONS] COMMAND'}".rstrip())
        if not name:
            assert [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines()] == list(COMMANDS)
            assert "LASTCALL_URL" in out
    assert run("--version") == (0, f"lastcall, version {__version__}\n", "")


# Errors


@pytest.mark.parametrize(
    ("args", "url", "key", "said"),
    [
        (("status",), None, None, "ConfigError: LASTCALL_URL must be set to the server to look at, got nothing: such"),
        (("cancel", "x"), None, None, "ConfigError: LASTCALL_URL must be set to the server of the job, got nothing"),
        (("worker",), None, None, "ConfigError: LASTCALL_URL must be set, so that the worker knows its server"),
        (("status",), "amqp://x", None, "ConfigError: url (LASTCALL_URL) must be such as redis://"),
        (("status",), "redis://127.0.0.1:1", None, "ServerUnreachable: expected a Redis or Valkey server at"),
        (("status",), "redis://127.0.0.1:1", "short", "ConfigError: key (LASTCALL_KEY) must be at least 16 bytes, got"),
        (("demo",), "redis://127.0.0.1:1", None, "ServerUnreachable: expected a Redis or Valkey server at"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    args: tuple[str, ...], url: str | None, key: str | None, said: str
) -> None:
    code, out, err = run(*args, url=url, key=key)
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: {said}")
    assert err.count("\n") == 1


def test_unknown_jobs_and_commands_are_named(quiet: Cluster) -> None:
    started = {
        "UnknownJob: no job or queue 'nowhere' on this server": start(
            "cancel", "nowhere", url=quiet.url, key=quiet.key
        ),
        "UnknownJob: no job or queue 'nothing' on this server": start(
            "status", "nothing", url=quiet.url, key=quiet.key
        ),
        "No such command 'dance'": start("dance"),
        "Missing argument 'JOBS...'": start("cancel", url=quiet.url),
    }
    for said, process in started.items():
        code, _, err = ended(process)
        assert code in (1, 2)
        assert said in err
        assert "Traceback" not in err


# status and cancel


def test_status_prints_plain_lines_in_a_pipe(quiet: Cluster) -> None:
    with quiet.client() as client:
        last = client.queue("parse", square, job="census")
        first = client.queue("read", square, into=last, workers="io")
        table = client.queue("table")
        with first.producer("walker") as out, table.producer("cook") as cook:
            out.put_many([1, 2])
            cook.put("bun")
            out.flush()
            cook.flush()
            started = {how: start("status", *how.split(), url=quiet.url, key=quiet.key)
                       for how in ("", "census", "census/read", "--json", "--json census")}  # fmt: skip
            got = {how: ended(process) for how, process in started.items()}
        read = "census/read OPEN producers=1 ready=2 leased=0 delayed=0 done=0 dead=0 cancelled=0 put=2"
        parse = "census/parse OPEN producers=1 ready=0 leased=0 delayed=0 done=0 dead=0 cancelled=0 put=0"
        bun = "table OPEN producers=1 ready=1 leased=0 delayed=0 done=0 dead=0 cancelled=0 put=1"
        none = "no live worker: start one with: lastcall worker\n"
        assert got[""] == (0, f"{read}\n{parse}\n{bun}\n", none)
        assert got["census"] == (0, f"{read}\n{parse}\n", none)
        assert got["census/read"] == (0, f"{read}\n", none)
        code, out_text, err = got["--json"]
        assert (code, err) == (0, "")
        told: Any = json.loads(out_text)
        assert [queue["address"] for queue in told["queues"]] == ["census/read", "census/parse", "table"]
        assert (told["queues"][0]["ready"], told["queues"][0]["state"], told["workers"]) == (2, "OPEN", [])
        assert told["queues"][0]["producers"][0]["name"] == "walker"
        assert told["refused_envelopes"] == {}
        assert len(json.loads(got["--json census"][1])["queues"]) == 2

        code, out_text, err = run("cancel", "census", url=quiet.url, key=quiet.key)
        assert (code, out_text, err) == (
            0, "census/read CANCELLED, 2 items dropped\ncensus/parse INCOMPLETE, 0 items dropped\n", "",
        )  # fmt: skip
        code, out_text, err = run("cancel", "--json", "table", "census", url=quiet.url, key=quiet.key)
        assert (code, json.loads(out_text)) == (
            0, {"table": {"state": "CANCELLED", "cancelled": 1}, "census/read": {"state": "CANCELLED", "cancelled": 2},
                "census/parse": {"state": "INCOMPLETE", "cancelled": 0}},
        )  # fmt: skip
        assert run("status", url=quiet.url, key=quiet.key) == (0, "", f"no queue that has not ended\n{none}")


def test_status_tells_of_lost_producers_workers_and_refused_envelopes(cluster: Cluster, name: str) -> None:
    with cluster.client() as client, Client(cluster.url, "another key, long enough") as stranger:
        queue = client.queue(name, square)
        with stranger.queue(name).producer("stranger") as bad:
            bad.put(1)
        with pytest.raises(RuntimeError):
            functions.produce_and_fail(client.queue(f"{name}-2", square, producers=2), "camera-1", [])
        with pytest.raises(Exception, match="1 of 1"):
            queue.join(30)
        code, out, err = run("status", f"{name}-2", url=cluster.url, key=cluster.key)
        lines = out.splitlines()
        assert code == 0
        assert lines[0].startswith(f"{name}-2 OPEN producers=0 ")
        assert lines[1:] == [
            f"{name}-2: producer camera-1 is lost",
            "worker cpu@test prefork slots=2 queues=cpu",
            f"worker io@test {client.workers()[1].pool} slots=4 queues=io",
        ]
        assert "cpu@test refused " in err
        assert "envelopes: sealed with another key, or changed on the way" in err
        told = json.loads(run("status", "--json", url=cluster.url, key=cluster.key)[1])
        assert told["refused_envelopes"]["cpu@test"] >= 1
        assert {worker["node"]: worker["slots"] for worker in told["workers"]} == {"cpu@test": 2, "io@test": 4}


# worker --until-drained


def test_a_worker_until_drained_ends_with_the_code_that_says_how(quiet: Cluster) -> None:
    with quiet.client() as client:
        produce(client.queue("good", square, workers="good"), None, [1, 2, 3])
        produce(client.queue("dead", functions.odd_only, workers="dead"), None, [1, 2, 3])
        with pytest.raises(RuntimeError):
            functions.produce_and_fail(client.queue("lost", square, workers="lost"), None, [1, 2, 3])
        workers = {
            name: start("worker", "-Q", name, "-c", "1", "-P", pool, "--until-drained", name, "-l", "WARNING",
                        url=quiet.url, key=quiet.key)
            for name, pool in (("good", "prefork"), ("dead", "threads"), ("lost", "solo"))
        }  # fmt: skip
        codes = {name: ended(worker)[0] for name, worker in workers.items()}
        assert codes == {"good": 0, "dead": 4, "lost": 3}
        assert sorted(client.queue("good").results()) == [1, 4, 9]


# demo


@pytest.mark.timeout(240)
def test_the_demo_is_true_and_ends_by_itself() -> None:
    process = start("demo", "--json", "--producers", "3")
    code, out, err = ended(process, 200)
    assert code == 0, err
    told = json.loads(out)
    assert told["state"] == "DRAINED"
    assert told["true"] is True
    assert told["census"]["files"] > 1_000
    assert told["census"]["lines"] > 500_000
    assert "3 producers walk " in err
    assert "everything has ended by itself" in err
    assert "the result is true" in err
    assert "Traceback" not in err
