"""Task events: what a monitor sees of the calls of users' functions."""

from __future__ import annotations

import os
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery
import pytest
from celery.events.state import State
from kombu import Consumer

from lastcall.client import Client
from lastcall_worker.events import FLUSH_EVENTS, Call, TaskEvents
from tests.integration.worker_process import KEY, WAIT_S, Worker, emptied, worker_server
from tests.servers import Server

pytestmark = pytest.mark.integration

NODE = "cpu@box"


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with worker_server() as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    return emptied(shared)


@pytest.fixture
def app(server: Server) -> Iterator[Any]:
    with celery.Celery("monitored", broker=server.url, set_as_current=False) as app:
        yield app


class Monitor:
    """Listens to events as Flower does, into Celery's own State."""

    def __init__(self, app: Any) -> None:
        self.state = State()
        self.types: list[str] = []
        self._app = app
        self._changed = threading.Condition()
        self._listening = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with self._app.connection_for_read() as connection:
            receiver = self._app.events.Receiver(connection, handlers={"*": self._on_event})
            with Consumer(connection, [receiver.queue], callbacks=[receiver._receive], no_ack=True):
                while not self._stopped:
                    try:
                        connection.drain_events(timeout=0.1)
                    except TimeoutError:
                        self._listening.set()  # subscribed by the first wait

    def _on_event(self, event: Any) -> None:
        with self._changed:
            self.types.append(event["type"])
            self.state.event(event)
            self._changed.notify_all()

    def wait_for(self, what: str, true: Callable[[State], Any], timeout_s: float = WAIT_S) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: true(self.state), timeout_s), f"waited for {what}: {self.types}"

    def listening(self) -> None:
        assert self._listening.wait(WAIT_S)

    def __enter__(self) -> Monitor:
        self._thread.start()
        self.listening()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join()


@pytest.fixture
def monitor(app: Any) -> Iterator[Monitor]:
    with Monitor(app) as monitor:
        yield monitor


def call(identity: str = "one", name: str = "shop.double", args: str = "(2,)", kwargs: str = "{}") -> Call:
    return Call(identity, name, args, kwargs, 1_700_000_000.0, 1_700_000_001.0)


def finish(events: TaskEvents, name: str = "shop.double", result: str = "4") -> str:
    identity = str(uuid.uuid4())
    events.finished(call(identity, name), 0.25, result)
    return identity


def test_a_call_is_listed_with_all_there_is_to_say(app: Any, monitor: Monitor) -> None:
    events = TaskEvents(app, NODE)
    identity = finish(events)
    events.flush()
    monitor.wait_for("the task", lambda state: identity in state.tasks and state.tasks[identity].ready)
    task = monitor.state.tasks[identity]
    assert (task.name, task.args, task.kwargs, task.state) == ("shop.double", "(2,)", "{}", "SUCCESS")
    assert (task.result, task.runtime, task.worker.hostname) == ("4", 0.25, NODE)
    assert task.started - task.received == pytest.approx(1.0)
    assert task.succeeded - task.started == pytest.approx(0.25)
    assert monitor.types == ["task-received", "task-started", "task-succeeded"]
    assert [name for name, _ in monitor.state.tasks_by_type("shop.double")] == [identity]


def test_a_call_that_raised_is_a_failed_task_with_its_traceback(app: Any, monitor: Monitor) -> None:
    events = TaskEvents(app, NODE)
    events.failed(call(args="(None,)"), 0.25, "TypeError('no')", "Traceback ...\nTypeError: no\n")
    events.flush()
    monitor.wait_for("the task", lambda state: "one" in state.tasks and state.tasks["one"].ready)
    task = monitor.state.tasks["one"]
    assert (task.state, task.exception) == ("FAILURE", "TypeError('no')")
    assert task.traceback == "Traceback ...\nTypeError: no\n"


def test_a_call_that_is_tried_again_is_a_retried_task(app: Any, monitor: Monitor) -> None:
    events = TaskEvents(app, NODE)
    events.retried(call(), 0.25, "OSError('later')", "Traceback ...")
    events.flush()
    monitor.wait_for("the task", lambda state: "one" in state.tasks and state.tasks["one"].state == "RETRY")
    assert monitor.state.tasks["one"].exception == "OSError('later')"


def test_a_long_call_is_seen_while_it_runs_and_told_of_once(app: Any, monitor: Monitor) -> None:
    events = TaskEvents(app, NODE)
    events.started(call())  # not flushed: the slot is busy with the call
    monitor.wait_for("the start", lambda state: "one" in state.tasks and state.tasks["one"].state == "STARTED")
    events.finished(call(), 3.0, "4")
    events.flush()
    monitor.wait_for("the end", lambda state: state.tasks["one"].ready)
    assert monitor.types == ["task-received", "task-started", "task-succeeded"]


def test_events_that_nobody_flushes_are_sent_all_the_same(app: Any, monitor: Monitor) -> None:
    events = TaskEvents(app, NODE)
    first = finish(events)
    monitor.wait_for("the first", lambda state: first in state.tasks)
    second = finish(events)
    monitor.wait_for("the second", lambda state: second in state.tasks)


def test_events_travel_in_batches(app: Any, server: Server, monitor: Monitor) -> None:
    def published() -> int:
        calls = server.client().info("commandstats").get("cmdstat_publish", {"calls": 0})["calls"]
        assert isinstance(calls, int)
        return calls

    before = published()
    events = TaskEvents(app, NODE)
    identities = {finish(events) for _ in range(1_000)}
    events.flush()
    monitor.wait_for("all", lambda state: identities <= set(state.tasks))
    assert published() - before <= 3_000 / FLUSH_EVENTS + 2


def test_what_is_shown_is_bounded(app: Any, monitor: Monitor) -> None:
    events = TaskEvents(app, NODE)
    long = "x" * 1_000_000
    events.failed(call(args=long, kwargs=long), 0.5, long, "first" + long + "last")
    finished = finish(events, result=long)
    events.flush()
    monitor.wait_for("the tasks", lambda state: finished in state.tasks and state.tasks[finished].ready)
    failed = monitor.state.tasks["one"]
    assert {len(failed.args), len(failed.kwargs), len(failed.exception)} == {200}
    assert len(monitor.state.tasks[finished].result) == 200
    assert len(failed.traceback) == 10_000
    assert failed.traceback.endswith("last")


def test_threads_and_instances_share_one_connection(app: Any, server: Server, monitor: Monitor) -> None:
    def connections() -> int:
        return len(server.client().client_list())

    first = finish(TaskEvents(app, NODE))
    monitor.wait_for("the first", lambda state: first in state.tasks)
    before = connections()
    identities: list[str] = []

    def work() -> None:
        events = TaskEvents(app, NODE)
        identities.extend(finish(events) for _ in range(50))
        events.flush()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monitor.wait_for("all", lambda state: set(identities) <= set(state.tasks))
    assert len(identities) == 400
    assert connections() <= before + 1  # the one that counts


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_sends_its_own_events_in_its_own_name(app: Any, monitor: Monitor) -> None:
    events = TaskEvents(app, NODE)
    parents = finish(events)
    pid = os.fork()
    if pid == 0:
        try:
            events.finished(call("child"), 0.5, "4")
            events.flush()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    monitor.wait_for("the child's", lambda state: "child" in state.tasks)
    monitor.wait_for("the parent's", lambda state: parents in state.tasks)
    assert monitor.state.tasks["child"].pid == pid
    assert monitor.state.tasks[parents].pid == os.getpid()
    assert monitor.types.count("task-succeeded") == 2


def test_a_broker_that_is_away_neither_raises_nor_loses_events(server: Server, app: Any) -> None:
    events = TaskEvents(app, NODE)
    finish(events)
    events.flush()
    server.kill()
    began = time.monotonic()
    identities = {finish(events) for _ in range(1_000)}
    for _ in range(100):
        events.flush()
    assert time.monotonic() - began < 5
    server.start()
    with Monitor(app) as monitor:
        monitor.wait_for("what was kept", lambda state: identities <= set(state.tasks))


def test_what_is_kept_while_the_broker_is_away_is_bounded(server: Server, app: Any) -> None:
    events = TaskEvents(app, NODE)
    server.kill()
    for _ in range(5_000):
        last = finish(events)
    assert len(events._outbox._waiting) <= 10_000
    server.start()
    with Monitor(app) as monitor:
        monitor.wait_for("the newest", lambda state: last in state.tasks)


# With workers


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_monitor_sees_the_users_calls_and_not_the_slots(
    server: Server, app: Any, monitor: Monitor, tmp_path: Path, pool: str
) -> None:
    (tmp_path / "shop.py").write_text(
        textwrap.dedent("""
            def half(number):
                if number % 2:
                    raise ValueError(f"{number} is odd")
                return number // 2
        """)
    )
    with Client(server.url, KEY) as client, Worker(server, tmp_path, pool=pool, node=NODE):
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(tmp_path)
            import shop  # type: ignore[import-not-found]
        unseen = client.submit(shop.half, 8)
        assert unseen.result(WAIT_S) == 4
        # As Flower does: events are off until a monitor asks for them.
        app.control.enable_events(destination=[NODE], reply=True, timeout=WAIT_S, limit=1)
        deadline = time.monotonic() + WAIT_S
        while not monitor.state.tasks:
            assert time.monotonic() < deadline
            assert client.submit(shop.half, 42).result(WAIT_S) == 21
        with pytest.raises(ValueError, match="7 is odd"):
            client.submit(shop.half, 7).result(WAIT_S)
        monitor.wait_for(
            "the calls", lambda state: {task.state for task in state.tasks.values()} == {"SUCCESS", "FAILURE"}
        )
    tasks = list(monitor.state.tasks.values())
    assert {task.name for task in tasks} == {"shop.half"}
    assert {task.worker.hostname for task in tasks} == {NODE}
    good, bad = (next(task for task in tasks if task.state == state) for state in ("SUCCESS", "FAILURE"))
    assert (good.args, good.result) == ("(42,)", "21")
    assert (bad.args, bad.exception) == ("(7,)", "ValueError('7 is odd')")
    assert 'raise ValueError(f"{number} is odd")' in bad.traceback
