"""Programs that die or fall silent: producers and clients, each a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from lastcall import Client, errors
from tests.conftest import Cluster
from tests.functions import Gate, square
from tests.workers import Worker, environment, until

pytestmark = [pytest.mark.faults, pytest.mark.integration]

LEASE = {"LASTCALL_LEASE_S": "1.5", "LASTCALL_REAP_S": "0.2"}


@contextlib.contextmanager
def program(
    cluster: Cluster, script: str, *args: object, lease_s: float | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A Python program with a client of this server, and a way to say what it did: say(...)."""
    head = """
        import json, os, sys, threading, time
        from lastcall import Client, errors
        from tests.functions import Gate, square

        def say(*what):
            print(json.dumps(what), flush=True)

        def told():
            return json.loads(sys.stdin.readline())

    """
    more = LEASE if lease_s is None else {**LEASE, "LASTCALL_LEASE_S": str(lease_s)}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(script), *map(str, args)], text=True,
        env=environment(cluster.url, cluster.key, more), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        with process:
            pass


def said(process: subprocess.Popen[str]) -> list[Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the program ended before it had said anything"
    return list(json.loads(line))


def tell(process: subprocess.Popen[str], what: object) -> None:
    assert process.stdin is not None
    print(json.dumps(what), file=process.stdin, flush=True)


@pytest.fixture
def quick(lonely: Cluster) -> Iterator[Client]:
    """A client with a short lease, on a server with a worker."""
    with Worker(lonely.url, lonely.key, "cpu", more=LEASE) as worker:
        worker.ready()
        with lonely.client(lease_s=1.5, reap_s=0.2) as client:
            yield client


# Producers

BUSY = """
threads = int(sys.argv[1])
with Client() as client:
    queue = client.queue("busy", producers=1)
    over = threading.Event()

    def spin():
        while not over.is_set():
            sum(range(1000))

    spinning = [threading.Thread(target=spin) for _ in range(threads)]
    with queue.producer("busy") as out:
        out.put("before")
        out.flush()
        for one in spinning:
            one.start()
        say("spinning")
        told()  # until three leases are over
        out.put("after")
        over.set()
    say("left")
"""


@pytest.mark.parametrize("threads", [1, 16])
def test_a_busy_program_keeps_its_lease(lonely: Cluster, threads: int) -> None:
    """Threads that want the interpreter all the time: the one that renews gets its turn many times a lease."""
    lease_s = 3.0
    with lonely.client(lease_s=lease_s, reap_s=0.2) as client, program(lonely, BUSY, threads, lease_s=lease_s) as busy:
        assert said(busy) == ["spinning"]
        queue = client.queue("busy")
        server_s = _server_clock(client)
        silences: list[float] = []
        while _server_clock(client) < server_s + 3 * lease_s:
            (producer,) = queue.status().producers
            assert producer.state == "live"
            silences.append(producer.silent_s)
        tell(busy, "enough")
        assert said(busy) == ["left"]
        assert list(queue) == ["before", "after"]
        assert max(silences) < lease_s


def _server_clock(client: Client) -> float:
    seconds, microseconds = client._connection.redis.time()
    return float(seconds) + microseconds / 1e6


COUNT = """
with Client() as client:
    queue = client.queue("counted", square, on_lost="wait", producers=1)
    with queue.producer("counter") as out:
        say("from", out.position)
        for n in range(out.position, 500):
            out.put(n)
            if n % 50 == 49:
                out.flush()
                say("put", n)
                if told() == "hang":
                    threading.Event().wait()
    say("left")
"""


def test_a_killed_producer_goes_on_where_it_was_and_nothing_is_doubled(lonely: Cluster, quick: Client) -> None:
    queue = quick.queue("counted", square, on_lost="wait", producers=1)
    start = 0
    for stop in (149, 349):
        with program(lonely, COUNT) as producer:
            assert said(producer) == ["from", start]
            for n in range(start + 49, stop + 1, 50):
                assert said(producer) == ["put", n]
                tell(producer, "on" if n < stop else "hang")
            producer.kill()
            producer.wait()
        until(lambda: queue.status().producers[0].state == "absent", "it to be missed")
        start = stop + 1
    with program(lonely, COUNT) as producer:
        assert said(producer) == ["from", 350]
        for n in (399, 449, 499):
            assert said(producer) == ["put", n]
            tell(producer, "on")
        assert said(producer) == ["left"]
    assert queue.join(60).put == 500
    assert sorted(queue.results()) == [n * n for n in range(500)]


FROZEN = """
with Client() as client:
    queue = client.queue("frozen", on_lost="wait", producers=1)
    try:
        with queue.producer("one") as out:
            out.put("mine")
            out.flush()
            say("put")
            told()
            out.put("too late")
            out.flush()
    except errors.LeaseLost as error:
        say("refused", str(error))
"""


def test_a_frozen_producer_that_was_replaced_is_refused(lonely: Cluster) -> None:
    with lonely.client(lease_s=1.5, reap_s=0.2) as client, program(lonely, FROZEN) as frozen:
        assert said(frozen) == ["put"]
        frozen.send_signal(signal.SIGSTOP)
        queue = client.queue("frozen")
        until(lambda: (queue._connection.heart.watch(queue._ledger), queue.status().producers[0].state == "absent")[1],
              "it to be missed")  # fmt: skip
        with queue.producer("one") as out:
            assert out.position == 1
            out.put("the other's")
            out.flush()
            frozen.send_signal(signal.SIGCONT)
            tell(frozen, "go on")
            assert said(frozen)[0] == "refused"
        assert list(queue) == ["mine", "the other's"]


def test_a_producer_that_comes_too_late_is_told(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    with queue.producer("in-time") as out:
        out.put(1)
    queue.join(30)
    for late in ("late", "in-time"):
        with pytest.raises(errors.QueueFinished):
            queue.producer(late)
    with pytest.raises(errors.QueueFinished):
        queue.producer_token()
    queue.reopen()
    assert (queue.status().state, queue.status().epoch, queue.status().put) == ("NEW", 2, 0)
    queue.reopen()  # it has not ended: it stays as it is
    assert queue.status().epoch == 2
    with queue.producer("late") as out:
        assert out.position == 0
        out.put(2)
    queue.join(30)
    assert list(queue.results()) == [4]


# Clients

MAP = """
with Client() as client:
    results = client.map(square, range(1000), job="nightly", chunksize=7)
    for n in range(100):
        next(results)
    say("got", 100)
    told()
"""


def until_lost(results: Iterator[Any]) -> list[Any]:
    """What there is before it is said that a producer was lost."""
    got = []
    try:
        for value in results:
            got.append(value)
    except errors.ProducerLost:
        return got
    raise AssertionError("nobody was lost")


def test_results_of_a_killed_clients_map_are_read_by_another(lonely: Cluster, quick: Client) -> None:
    with program(lonely, MAP) as killed:
        assert said(killed) == ["got", 100]
    job = quick.job("nightly")
    got = until_lost(job.results(ordered=True))
    assert len(got) >= 100
    assert got == [n * n for n in range(len(got))]
    (status,) = job.status()
    assert (status.state, status.done) == ("INCOMPLETE", len(got))
    # From a cursor, as they come: those behind it alone; what travelled together comes together.
    first = job.results()
    begun = [next(first) for _ in range(70)]
    rest = until_lost(job.results(cursor=first.cursor))
    assert len(set(rest)) == len(rest) < len(got)
    assert set(begun) | set(rest) == set(got)


ENDLESS = """
with Client() as client:
    results = client.map(square, iter(int, 1))
    next(results)
    say(results.job)
    told()
"""


def test_a_killed_clients_map_ends_by_itself(lonely: Cluster, quick: Client) -> None:
    with program(lonely, ENDLESS) as killed:
        (job,) = said(killed)
    with pytest.raises(errors.ProducerLost):
        quick.job(job).wait(60)
    until(lambda: not quick.status(), "nothing to be left")


def test_an_id_is_for_one_map(client: Client, name: str) -> None:
    assert list(client.map(square, range(5), job=name)) == [0, 1, 4, 9, 16]
    assert list(client.job(name).results(ordered=True)) == [0, 1, 4, 9, 16]
    with pytest.raises(errors.ConfigError, match="job must be an id that no other map has had"):
        client.map(square, range(5), job=name)
    with pytest.raises(errors.ConfigError, match="ordered"):
        client.job(name).results(ordered=True, cursor="1-1")


SILENT = """
gate = Gate(os.environ["LASTCALL_URL"], "silent")
with Client() as client:
    results = client.map(gate, range(40), chunksize=1)
    say(results.job)
    got = []
    try:
        for value in results:
            got.append(value)
    except errors.LastcallError as error:
        say(got, type(error).__name__)
    else:
        say(got, "")
"""


def test_a_client_that_was_frozen_for_longer_than_its_lease_goes_on(lonely: Cluster, quick: Client) -> None:
    gate = Gate(lonely.url, "silent")
    with program(lonely, SILENT) as silent:
        (job,) = said(silent)
        gate.begun(2)
        silent.send_signal(signal.SIGSTOP)
        (queue,) = quick.job(job).queues
        until(lambda: queue.status().producers[0].state == "lost", "it to be missed")
        silent.send_signal(signal.SIGCONT)
        until(lambda: queue.status().live or queue.status().done, "it to be back")
        gate.open(60)
        assert said(silent) == [list(range(40)), ""]


def test_a_client_whose_map_ended_while_it_was_frozen_gets_what_there_is(lonely: Cluster, quick: Client) -> None:
    gate = Gate(lonely.url, "silent")
    with program(lonely, SILENT) as silent:
        (job,) = said(silent)
        gate.begun(2)
        silent.send_signal(signal.SIGSTOP)
        gate.open(60)
        with pytest.raises(errors.ProducerLost):
            quick.job(job).wait(60)
        (status,) = quick.job(job).status()
        silent.send_signal(signal.SIGCONT)
        got, error = said(silent)
        assert got == list(range(status.done))
        assert error == "ProducerLost"


CALL = """
with Client() as client:
    client.submit(square, 2).result()
    say(os.getpid())
    told()
"""


def test_nothing_is_left_of_a_program_that_was_killed(lonely: Cluster, quick: Client) -> None:
    with program(lonely, CALL) as killed:
        (pid,) = said(killed)
        killed.kill()
        killed.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    until(lambda: not quick.status(), "its queue of calls to end")
