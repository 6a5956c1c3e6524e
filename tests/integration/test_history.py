"""What happens to a job's items is recorded where it is made true, and can be watched, traced, replayed and drawn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from click.testing import CliRunner, Result

from lastcall import Client, Event, Flow, errors
from lastcall.cli import cli
from lastcall.cli.replay import DIFFERENT, NOT_KNOWN, SAME
from lastcall.flow import batch, stage
from lastcall.replay import replay
from lastcall.state import keys
from lastcall.trace import NOT_KEPT
from tests.conftest import Cluster
from tests.workers import ROOT, environment

pytestmark = pytest.mark.integration


def double(n: int) -> int:
    return 2 * n


def split(n: int) -> Iterator[tuple[int, int]]:
    if n == 42:
        raise ValueError("no 42")
    for part in range(n % 3):
        yield n, part


def total(pair: tuple[int, int]) -> int:
    return sum(pair)


def fail_once(n: int) -> int:
    from lastcall import current

    if n == 3 and current.attempt == 1:
        raise ConnectionError("not yet")
    return n


def kill_slot(n: int) -> int:
    if n == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def refuse(path: str) -> int:
    if Path(path).exists():
        return len(path)
    raise FileNotFoundError(path)


THREE = Flow(double) | split | total
BY_ITSELF = [2 * n + part for n in range(30) if n != 21 for part in range((2 * n) % 3)]


@pytest.fixture
def run(client: Client, name: str) -> Callable[..., list[Any]]:
    def ran(flow: Flow, items: Any, **options: Any) -> list[Any]:
        options = {"mode": "streaming", "on_error": "yield", "job": name} | options
        return list(client.run(flow, items, **options).results())

    return ran


@pytest.fixture
def command(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("LASTCALL_URL", cluster.url)
    monkeypatch.setenv("LASTCALL_KEY", cluster.key)

    def invoke(*args: object) -> Result:
        return CliRunner().invoke(cli, [str(arg) for arg in args])

    return invoke


@pytest.mark.parametrize("mode", ["auto", "streaming", "horizontal", "vertical"])
def test_each_item_of_a_flow_is_recorded_with_where_it_came_from(
    client: Client, name: str, run: Callable[..., list[Any]], mode: str
) -> None:
    results = run(THREE, range(30), mode=mode)
    assert [one for one in results if isinstance(one, int)] == BY_ITSELF
    job = client.job(name)
    done = [event for event in job.history if event.kind == "done"]
    for queue in {event.queue for event in done}:
        of_queue = [event for event in done if event.queue == queue]
        first = of_queue[0].queue == job.status()[0].name
        sources = sorted(source for event in of_queue for source in event.source)  # type: ignore[type-var]
        assert sources == (list(range(30)) if first else sorted(sources))
        assert sum(event.items for event in of_queue) == len(sources)
        assert all(event.runtime_s >= 0 and event.worker.startswith("cpu@") and event.slot for event in of_queue)
    (failed,) = job.history.events("failed")
    assert (failed.error, list(failed.source)) == ("ValueError: no 42", [21])
    assert "in split" in failed.traceback
    kinds = Counter(event.kind for event in job.history)
    assert kinds["ended"] == len(job.status())
    assert kinds["started"] == kinds["done"]


def test_a_batch_tells_all_the_items_that_went_into_it(
    client: Client, name: str, run: Callable[..., list[Any]]
) -> None:
    assert run(Flow(double) | batch(4) | sum, range(10)) == [12, 44, 34]
    trace = client.job(name).trace(5)
    assert [(step.event.queue, step.value) for step in trace.steps] == [
        ("double", 5), ("batch-4", 10), ("sum", [8, 10, 12, 14]),
    ]  # fmt: skip
    assert trace.results == (44,)


def test_callbacks_are_told_what_was_and_what_comes(client: Client, name: str) -> None:
    told: list[Event] = []
    late: list[Event] = []
    job = client.run(THREE, range(30), mode="streaming", on_error="yield", job=name)
    job.on("failed", told.append)
    job.on("failed", lambda _: 1 / 0)  # of no harm to the others
    job.on("ended", told.append)
    list(job.results())
    assert job.watch.wait(30)
    attached = client.job(name)
    attached.on("ended", lambda _: None)
    attached.on("failed", late.append)
    assert attached.watch.wait(30)
    assert Counter(event.kind for event in told) == {"failed": 1, "ended": 3}
    assert [event.error for event in late] == ["ValueError: no 42"]
    attached.on("failed", lambda event: late.append(event))  # all was told
    assert attached.watch.wait(30)
    assert len(late) == 2


def test_a_callback_that_comes_later_is_told_of_what_was(client: Client, name: str) -> None:
    queue = client.queue(name, double, record="all")
    seen, again = threading.Event(), threading.Event()
    job = client.job(name)
    with queue.producer() as out:
        out.put(1)
        out.flush()
        job.on("done", lambda _: seen.set())
        assert seen.wait(30)
        job.on("done", lambda _: again.set())  # the queue is open still
        assert again.wait(30)
    queue.join()
    assert job.watch.wait(30)


def test_events_are_refused_where_nothing_is_recorded(client: Client, name: str) -> None:
    queue = client.queue(name, double)
    queue.seal()
    for ask in (lambda: client.job(name).on("done", print), lambda: list(client.job(name).history)):
        with pytest.raises(errors.NotRecorded, match='record="all"'):
            ask()
    with pytest.raises(errors.UnknownJob):
        list(client.job(f"{name}-other").history)
    with pytest.raises(errors.ConfigError, match="kind must be"):
        list(client.job(name).history.events("finished"))  # type: ignore[arg-type]


def test_an_item_that_is_tried_again_is_traced_through_its_attempts(
    client: Client, name: str, run: Callable[..., list[Any]]
) -> None:
    assert run(Flow(stage(fail_once, retries=2, backoff_s=0.01)), range(5)) == list(range(5))
    steps = client.job(name).trace(3).steps
    assert [(step.event.kind, step.event.attempt, step.event.error, step.value) for step in steps] == [
        ("retried", 1, "ConnectionError: not yet", 3), ("done", 2, "", 3),
    ]  # fmt: skip


def test_a_slot_that_dies_is_in_the_history_and_its_item_is_given_up_with_its_arguments(
    client: Client, name: str, run: Callable[..., list[Any]]
) -> None:
    results = run(Flow(stage(kill_slot, crash_limit=2)), range(4))
    assert [one for one in results if isinstance(one, int)] == [0, 1, 3]
    steps = client.job(name).trace(2).steps
    kinds = [step.event.kind for step in steps]
    assert kinds.count("returned") >= 2
    assert kinds[-1] == "failed"
    assert steps[-1].value == 2
    assert "signal 9" in steps[-1].event.said or "SIGKILL" in steps[-1].event.said


def test_dead_letters_are_recorded_as_dead(client: Client, name: str) -> None:
    queue = client.queue(name, refuse, record="failures")
    with queue.producer() as out:
        out.put_many(["/", "/nowhere"])
    with pytest.raises(errors.DeadLetters):
        queue.join()
    (event,) = client.job(name).history
    assert (event.kind, event.error.partition(":")[0], event.items) == ("dead", "FileNotFoundError", 1)
    trace = client.job(name).trace(event.item)
    assert [step.value for step in trace.steps] == ["/nowhere"]
    assert trace.source is None  # it is no flow's


def test_what_is_recorded_can_be_turned_down(client: Client, name: str, run: Callable[..., list[Any]]) -> None:
    run(THREE, range(30), record="failures")
    assert {event.kind for event in client.job(name).history} == {"failed"}
    run(THREE, range(30), record="times", job=f"{name}-times")
    trace = client.job(f"{name}-times").trace(4)
    assert {step.value for step in trace.steps} == {NOT_KEPT}
    assert trace.results == ()
    with pytest.raises(errors.ConfigError, match="record must be"):
        client.run(THREE, range(30), record="nothing")


def test_the_history_is_bounded_and_expires_with_the_job(cluster: Cluster, name: str) -> None:
    with cluster.client(ttl_s=1000) as client:
        queue = client.queue(name, double, record="all")
        redis, key = client._connection.redis, keys.of_job(name, "events")
        with redis.pipeline() as pipeline:
            for number in range(12_000):
                pipeline.xadd(key, {f"put {name} 9-{number}": msgpack.packb({"items": 1})}, id=f"1-{number + 1}")
            pipeline.execute()
        with queue.producer() as out:
            out.put(1)
        queue.join()
        assert redis.xlen(key) < 11_000
        assert 0 < redis.pttl(key) <= 1_000_000
        with pytest.raises(errors.UnknownItem, match="the oldest"):
            client.job(name).trace("9-0#0")
        assert client.job(name).trace("1-1#0").steps[-1].event.kind == "done"


def test_a_failed_step_is_replayed_with_the_very_arguments(
    client: Client, name: str, run: Callable[..., list[Any]], tmp_path: Path
) -> None:
    there = tmp_path / "x"
    run(Flow(str) | refuse, [str(there), "/"])
    again = replay(client._connection, name, 0)
    assert (again.event.queue, again.value, again.same) == ("refuse", str(there), True)
    assert isinstance(again.error, FileNotFoundError)
    there.touch()
    mended = replay(client._connection, name, 0)
    assert (mended.error, mended.outputs, mended.same) == (None, (len(str(there)),), False)


def test_each_step_of_an_item_can_be_replayed_and_compared(
    client: Client, name: str, run: Callable[..., list[Any]]
) -> None:
    run(THREE, range(30))
    for queue, value, outputs in (("double", 10, (20,)), ("split", 20, ((20, 0), (20, 1)))):
        again = replay(client._connection, name, 10, queue=queue)
        assert (again.value, again.outputs, again.recorded, again.same) == (value, outputs, outputs, True)
    assert replay(client._connection, name, 10, queue="total").same
    with pytest.raises(errors.ConfigError, match="queue must be"):
        replay(client._connection, name, 10, queue="parse")
    with pytest.raises(errors.UnknownItem):
        replay(client._connection, name, 30)


def test_the_commands(
    client: Client, name: str, run: Callable[..., list[Any]], command: Callable[..., Result], tmp_path: Path
) -> None:
    run(THREE, range(30))
    traced = command("trace", name, 10)
    assert traced.exit_code == 0, traced.output
    assert [line.split(" ")[0] for line in traced.output.splitlines()] == ["double", "split", "total", "total", "gave"]
    assert "value=10\n" in traced.output
    assert "gave 20, 21" in traced.output
    assert '"source"' not in command("trace", name, 10, "--json").output
    replayed = command("replay", name, 21)
    assert replayed.exit_code == SAME, replayed.output
    assert "raised ValueError: no 42" in replayed.output
    assert command("replay", name, 22, "--queue", "split").exit_code == SAME
    run(THREE, range(30), record="times", job=f"{name}-times")
    assert "were not" in command("replay", f"{name}-times", 3).output
    assert {SAME, DIFFERENT, NOT_KNOWN} == {0, 3, 4}
    unknown = command("trace", name, 99)
    assert (unknown.exit_code, "nothing is recorded of item 99" in unknown.output) == (1, True)
    for suffix in (".svg", ".png", ".html"):
        drawn = command("gantt", name, "-o", tmp_path / f"job{suffix}")
        assert drawn.exit_code == 0, drawn.output
    svg = (tmp_path / "job.svg").read_text(encoding="utf-8")
    assert all(f">{queue}<" in svg for queue in ("double", "split", "total"))
    assert (tmp_path / "job.png").read_bytes().startswith(b"\x89PNG")
    assert "pointerenter" in (tmp_path / "job.html").read_text(encoding="utf-8")
    wrong = command("gantt", name, "-o", tmp_path / "job.pdf")
    assert (wrong.exit_code, ".svg, .png, .html" in wrong.output) == (1, True)


def test_replay_debugs_where_it_raises(
    cluster: Cluster, client: Client, name: str, run: Callable[..., list[Any]]
) -> None:
    run(THREE, range(30))
    debugged = subprocess.run(
        [sys.executable, "-m", "lastcall", "replay", name, "21", "--pdb"], input="p n\nq\n", text=True,
        capture_output=True, timeout=60, check=False, env=environment(cluster.url, cluster.key), cwd=ROOT,
    )  # fmt: skip
    assert "(Pdb) 42" in debugged.stdout, debugged.stderr
