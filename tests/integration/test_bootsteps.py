"""What lastcall adds to a Celery worker: it is registered, renews what it runs, gives back what a dead slot held, and
looks after queues.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import celery
import pytest
from celery.worker import state
from redis import Redis

from lastcall.client import Client
from lastcall.connection import Connection
from lastcall.errors import ServerTooOld
from lastcall.reaper import reap_once
from lastcall.settings import Settings
from lastcall.state import keys
from lastcall.state.ledger import Ledger
from lastcall.state.records import Spec
from lastcall_worker.node import Node
from lastcall_worker.reaper import Reaper
from tests.integration.worker_process import KEY, ROOT, WAIT_S, Worker, emptied, until, worker_server
from tests.servers import Server

pytestmark = pytest.mark.integration

POOLS = ["prefork", "threads", "solo", "gevent"]

# What workers run: a function says that it has begun, and waits until it is let go.
WORK = """
    import os
    import redis

    def double(x):
        return 2 * x

    def hold(name):
        server = redis.Redis.from_url(os.environ["LASTCALL_URL"], socket_timeout=None)
        server.rpush("begun:" + name, os.getpid())
        server.blpop(["go:" + name], timeout=60)
        server.close()
        return name
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with worker_server() as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    return emptied(shared)


@pytest.fixture
def redis(server: Server) -> Redis:
    return server.client()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A user's module, which the workers can import."""
    (tmp_path / "users_work.py").write_text(textwrap.dedent(WORK))
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("users_work")
    del sys.modules["users_work"]


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, KEY) as client:
        yield client


def skip_without(pool: str) -> None:
    if pool == "gevent":
        pytest.importorskip("gevent")


def put(client: Client, name: str, function: Any, *items: Any, **options: Any) -> Any:
    """A queue with these items, one a chunk, its producer gone."""
    queue = client.queue(name, function, **options)
    with queue.producer("test", chunk_items=1) as out:
        for item in items:
            out.put(item)
    return queue


def begun(redis: Redis, name: str, timeout_s: float = WAIT_S) -> int:
    """Wait until hold(name) has begun; the pid that runs it."""
    answer = redis.blpop([f"begun:{name}"], timeout=timeout_s)
    assert answer is not None, f"hold({name!r}) has not begun within {timeout_s:g} s"
    return int(answer[1])


def let_go(redis: Redis, *names: str) -> None:
    for name in names:
        redis.rpush(f"go:{name}", 1)


def ledger_of(queue: Any) -> Ledger:
    return Ledger.open(queue._connection.redis, queue.job, queue.name)


# A worker's place in the registry


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_says_what_it_serves_and_is_forgotten_when_it_leaves(
    server: Server, redis: Redis, client: Client, work: ModuleType, tmp_path: Path, pool: str
) -> None:
    skip_without(pool)
    slots = 1 if pool == "solo" else 3
    with Worker(server, tmp_path, pool=pool, slots=slots, queues=("cpu", "gpu")) as worker:
        info = worker.info
        assert info is not None
        assert (info.queues, info.slots, info.pool, info.pid) == (("cpu", "gpu"), slots, pool, worker.process.pid)
        assert list(client.map(work.double, range(100))) == [2 * x for x in range(100)]
        assert worker.stop() == 0
        assert worker.info is None
    assert redis.hlen(keys.WORKERS) == 0


def test_autoscale_counts_the_slots_that_it_may_grow_to(server: Server, tmp_path: Path) -> None:
    with Worker(server, tmp_path, "--autoscale=4,1", pool="prefork") as worker:
        assert worker.info is not None
        assert worker.info.slots == 4


def test_remote_control_changes_what_a_worker_serves_and_its_queues_get_tickets(
    server: Server, redis: Redis, client: Client, work: ModuleType, tmp_path: Path
) -> None:
    queue = put(client, "frames", work.double, 1, 2, 3, workers="gpu")
    with (
        Worker(server, tmp_path, pool="threads", slots=2, reap_s=60) as worker,
        celery.Celery(broker=server.url, set_as_current=False) as app,
    ):
        # A broadcast: lost where the worker does not listen yet.
        until(redis, "it to be told", lambda: app.control.add_consumer("gpu", reply=True))
        assert queue.join(WAIT_S).done == 3
        until(redis, "gpu to be served", lambda: worker.info is not None and worker.info.queues == ("cpu", "gpu"))
        until(redis, "it to be told", lambda: app.control.cancel_consumer("gpu", reply=True))
        until(redis, "gpu to be left", lambda: worker.info is not None and worker.info.queues == ("cpu",))


def test_a_worker_that_joins_gets_the_work_that_is_waiting(
    server: Server, client: Client, work: ModuleType, tmp_path: Path
) -> None:
    queue = put(client, "frames", work.double, 1, 2, 3)
    assert queue.status().tickets == 0  # there was nobody to send any to
    with Worker(server, tmp_path, reap_s=60):
        assert queue.join(WAIT_S).done == 3


# Tickets


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_function_may_run_for_longer_than_the_lease(
    server: Server, redis: Redis, work: ModuleType, tmp_path: Path, pool: str
) -> None:
    lease_s = 0.6
    with Client(server.url, KEY, lease_s=lease_s) as client, Worker(server, tmp_path, pool=pool, lease_s=lease_s):
        queue = put(client, "frames", work.hold, "a")
        begun(redis, "a")
        tickets = keys.of_queue("frames", "frames", "tickets")
        ((_, first),) = redis.zrange(tickets, 0, -1, withscores=True)

        def renewed() -> bool:
            held = redis.zrange(tickets, 0, -1, withscores=True)
            assert len(held) == 1, "the ticket was taken for lost"
            return bool(held[0][1] > first + 3 * lease_s * 1000)

        until(redis, "the ticket to be renewed for three leases", renewed)
        let_go(redis, "a")
        assert queue.join(WAIT_S).done == 1
        assert redis.llen("begun:a") == 0, "it ran twice"


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_busy_worker_holds_no_ticket_that_another_could_run(
    server: Server, redis: Redis, client: Client, work: ModuleType, tmp_path: Path, pool: str
) -> None:
    skip_without(pool)
    with Worker(server, tmp_path, pool=pool, slots=1):
        first = put(client, "first", work.hold, "a")
        begun(redis, "a")
        second = put(client, "second", work.double, 1, 2)
        assert client._connection.tickets.waiting("cpu") == 1
        with Worker(server, tmp_path, node="two@test"):
            assert second.join(WAIT_S).done == 2
        let_go(redis, "a")
        assert first.join(WAIT_S).done == 1


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_a_slot_that_becomes_free_takes_the_next_ticket_at_once(
    server: Server, redis: Redis, client: Client, work: ModuleType, tmp_path: Path, pool: str
) -> None:
    skip_without(pool)
    names = [f"queue-{number}" for number in range(6)]
    with Worker(server, tmp_path, pool=pool, slots=1, linger_s=0):
        began = time.monotonic()
        queues = [put(client, name, work.double, 1) for name in names]
        for queue in queues:
            queue.join(WAIT_S)
        # Celery alone wastes 0.5 s on each with threads, and 1.5 s with gevent.
        assert time.monotonic() - began < 2


def test_a_slot_that_does_not_linger_leaves_a_queue_that_stays_open(
    server: Server, client: Client, work: ModuleType, tmp_path: Path
) -> None:
    with Worker(server, tmp_path, slots=1, linger_s=0):
        still = client.queue("open", work.double)
        with still.producer("slow") as out:
            out.put(1)
            out.flush()
            assert next(still.results(timeout=WAIT_S)) == 2
            assert put(client, "other", work.double, 1).join(WAIT_S).done == 1


# Slots that die


def test_what_a_killed_process_held_runs_again_at_once(
    server: Server, redis: Redis, client: Client, work: ModuleType, tmp_path: Path
) -> None:
    with Worker(server, tmp_path, pool="prefork", slots=2) as worker:
        queue = put(client, "frames", work.hold, "a", "b")
        other = begun(redis, "b")
        for _ in range(2):
            victim = begun(redis, "a")
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            redis.rpush("begun:a", begun(redis, "a"))
            # Well below the lease, and below the five seconds after which Celery would look.
            assert time.monotonic() - killed < 3
        let_go(redis, "a", "b")
        assert queue.join(WAIT_S).done == 2
        assert victim != other
        until(redis, "the log", lambda: worker.log.count("the slot that ran ticket") == 2)
        assert worker.log.count("queue frames: the slot that ran ticket") == 2
        assert worker.log.count("gone (signal 9 (SIGKILL)); what it held is ready again") == 2
        assert "Task handler raised error" not in worker.log
        assert "Traceback" not in worker.log


def test_a_time_limit_gives_back_what_the_slot_held(
    server: Server, redis: Redis, client: Client, work: ModuleType, tmp_path: Path
) -> None:
    with Worker(server, tmp_path, "--time-limit=1", pool="prefork") as worker:
        queue = put(client, "frames", work.hold, "a")
        first, second = begun(redis, "a"), begun(redis, "a")
        assert first != second
        let_go(redis, "a")
        assert queue.join(WAIT_S).done == 1
        assert worker.log.count("is gone (it ran into the time limit of 1 s)") == 1


def test_a_cold_shutdown_hands_on_what_was_running(
    server: Server, redis: Redis, client: Client, work: ModuleType, tmp_path: Path
) -> None:
    with Worker(server, tmp_path, pool="prefork") as worker:
        queue = put(client, "frames", work.hold, "a")
        begun(redis, "a")
        worker.stop(signal.SIGQUIT)
        ended = time.monotonic()
        with Worker(server, tmp_path, node="two@test"):
            begun(redis, "a")
            assert time.monotonic() - ended < 8  # of which most is the start of a worker; the lease is 10 s
            let_go(redis, "a")
            assert queue.join(WAIT_S).done == 1


def test_a_warm_shutdown_finishes_what_is_running_and_keeps_its_ticket(
    server: Server, redis: Redis, work: ModuleType, tmp_path: Path
) -> None:
    lease_s = 0.6
    with (
        Client(server.url, KEY, lease_s=lease_s) as client,
        Worker(server, tmp_path, pool="prefork", lease_s=lease_s) as worker,
    ):
        queue = put(client, "frames", work.hold, "a")
        begun(redis, "a")
        worker.process.terminate()
        until(redis, "the worker to leave the registry", lambda: worker.info is None)
        tickets = keys.of_queue("frames", "frames", "tickets")
        ((_, left_at),) = redis.zrange(tickets, 0, -1, withscores=True)

        def renewed() -> bool:
            ((_, deadline),) = redis.zrange(tickets, 0, -1, withscores=True)
            return bool(deadline > left_at + 2 * lease_s * 1000)

        until(redis, "the ticket to be renewed while the worker leaves", renewed)
        let_go(redis, "a")
        assert worker.wait() == 0
        assert queue.join(WAIT_S).done == 1
        assert redis.llen("begun:a") == 0, "it ran twice"


# The reaper


@pytest.fixture
def connection(server: Server) -> Iterator[Connection]:
    connection = Connection.of(Settings.load(server.url, KEY, reap_s=0.05))
    yield connection
    connection.close()


def ledger(connection: Connection, name: str, *, lease_ms: int = 60_000, celery_queue: str = "") -> Ledger:
    """A queue that is listed, as client.queue() lists it."""
    made = Ledger(connection.redis, name, [name])
    made.create(Spec(lease_ms=lease_ms, celery=celery_queue, function=b"", identity="", style="", reopen=True))
    connection.redis.hset(keys.QUEUES, made.address, celery_queue)
    return made


def sweep(connection: Connection, **options: Any) -> Any:
    return reap_once(connection.redis, connection.registry, connection.tickets, **options)


def test_the_reaper_finds_a_lost_producer_and_says_so(
    connection: Connection, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    frames = ledger(connection, "frames", lease_ms=1)
    frames.join("camera-1")
    reaper = Reaper(connection.settings, "one@test")
    with caplog.at_level(logging.WARNING):
        reaper.start()
        until(redis, "the queue to end", lambda: frames.status().state == "INCOMPLETE")
        until(redis, "the queue to be delisted", lambda: not redis.hexists(keys.QUEUES, frames.address))
        reaper.stop()
    assert caplog.messages == ["queue frames: producer camera-1 was lost, its lease ran out"]


def test_reapers_take_turns(connection: Connection, redis: Redis) -> None:
    redis.set(keys.REAPER, "other@test", px=60_000)
    reaper = Reaper(connection.settings, "one@test")
    frames = ledger(connection, "frames", lease_ms=1)
    frames.join("camera-1")
    reaper.start()
    assert not reaper.swept.wait(0.3)
    assert frames.status().state == "OPEN"
    redis.delete(keys.REAPER)
    assert reaper.swept.wait(WAIT_S)
    assert redis.get(keys.REAPER) in (b"one@test", None)
    reaper.stop()
    assert frames.status().state == "INCOMPLETE"


def test_the_reaper_outlives_the_server(
    server: Server, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    reaper = Reaper(connection.settings, "one@test")
    reaper.start()
    assert reaper.swept.wait(WAIT_S)
    said = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: said.set()  # type: ignore[method-assign]
    logger = logging.getLogger("lastcall_worker.reaper")
    logger.addHandler(handler)
    server.kill()
    assert said.wait(WAIT_S)
    logger.removeHandler(handler)
    server.start()
    reaper.swept.clear()
    assert reaper.swept.wait(WAIT_S)
    reaper.stop()
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # once, not in every period


def test_an_error_in_one_queue_does_not_stop_the_others(connection: Connection, redis: Redis) -> None:
    good = [ledger(connection, f"good-{number}", lease_ms=1) for number in range(3)]
    for queue in good:
        queue.join("camera-1")
    redis.set(keys.of_queue("bad", "bad", "meta"), "not a hash")
    redis.hset(keys.QUEUES, "bad/bad", "cpu")
    done = sweep(connection)
    assert {queue for queue, _ in done.failed} == {"bad/bad"}
    assert "WRONGTYPE" in str(done.failed[0][1])
    assert {queue.status().state for queue in good} == {"INCOMPLETE"}
    assert sorted(done.lost) == [(queue.address, "camera-1") for queue in good]


def test_ended_and_expired_queues_are_no_longer_listed(connection: Connection, redis: Redis) -> None:
    ended, live = ledger(connection, "ended"), ledger(connection, "live")
    live.join("camera-1")
    ended.seal()
    redis.hset(keys.QUEUES, "gone/gone", "cpu")
    done = sweep(connection)
    assert sorted(done.ended) == ["ended/ended", "gone/gone"]
    assert redis.hkeys(keys.QUEUES) == [b"live/live"]


def test_a_queue_that_is_opened_again_meanwhile_stays_listed(
    connection: Connection, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = ledger(connection, "frames")
    ended.seal()
    hdel = connection.redis.hdel

    def opened_before(*args: Any) -> Any:
        ledger(connection, "frames")
        return hdel(*args)

    monkeypatch.setattr(connection.redis, "hdel", opened_before)
    done = sweep(connection)
    assert done.ended == []
    assert redis.hgetall(keys.QUEUES) == {b"frames/frames": b""}


def test_only_the_queues_that_a_worker_serves_are_topped_up(connection: Connection) -> None:
    cpu, gpu = ledger(connection, "one", celery_queue="cpu"), ledger(connection, "two", celery_queue="gpu")
    assert sweep(connection, celery_queues={"cpu"}).queues == 1
    assert sweep(connection).queues == 2
    assert (cpu.status().state, gpu.status().state) == ("NEW", "NEW")


# Configuration


def test_a_server_that_is_too_old_ends_the_worker(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def too_old(settings: Settings) -> Connection:
        raise ServerTooOld("Redis 6.2.14", "Redis >= 7.0")

    monkeypatch.setattr(Connection, "of", too_old)
    monkeypatch.setattr(state, "should_stop", None)
    consumer = SimpleNamespace(task_consumer=SimpleNamespace(queues=[SimpleNamespace(name="cpu")]))
    worker = SimpleNamespace(
        hostname="one@test", pool=SimpleNamespace(num_processes=2), max_concurrency=None, consumer=consumer
    )
    node = Node(worker, connection.settings, Reaper(connection.settings, "one@test"))
    node.start()
    node.stop(WAIT_S)
    assert state.should_stop == 1
    assert "Redis 6.2.14" in caplog.text


def worker_output(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LASTCALL_")}
    clean["PYTHONPATH"] = os.pathsep.join([str(ROOT / "producer"), str(ROOT / "worker")])
    command = [sys.executable, "-m", "celery", "-A", "lastcall_worker.app", "worker", *options]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, timeout=WAIT_S, check=False)


def test_a_worker_without_a_server_says_what_to_set() -> None:
    result = worker_output()
    assert result.returncode != 0
    assert "LASTCALL_URL" in result.stderr
    assert "redis://host:6379/0" in result.stderr


def test_celerys_own_help_shows_the_option() -> None:
    result = worker_output("--help", LASTCALL_URL="redis://localhost:1/0")
    assert result.returncode == 0
    assert "--until-drained QUEUE" in result.stdout
