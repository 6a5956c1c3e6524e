"""Those who have Celery already: their app's workers run lastcall's work, and their tasks are functions here."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from lastcall import Client, Executor, Pool, errors
from lastcall.celerytask import workers_of
from lastcall.settings import Settings
from lastcall_worker import attach
from tests import their_app as theirs
from tests.conftest import Cluster
from tests.functions import plus_one, produce
from tests.workers import IMPORTABLE, ROOT, Worker, environment, until

pytestmark = pytest.mark.integration

COMMAND = (sys.executable, "-m", "celery", "-A", "tests.their_app", "worker", "--without-gossip", "--without-mingle")


@pytest.fixture(scope="module", params=["prefork", "threads"])
def their_worker(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Worker]:
    """`celery -A tests.their_app worker` on the session's server."""
    settings = Settings.load(cluster.url, cluster.key)
    with Worker(
        cluster.url, cluster.key, f"their-{request.param}", queues="theirs", pool=request.param, slots=2,
        command=COMMAND, more={"THEIR_BROKER": settings.broker or ""},
    ) as worker:  # fmt: skip
        worker.ready()
        yield worker
        worker.kill()


@pytest.mark.usefixtures("their_worker")
class TestTheirTasks:
    def test_are_functions_of_every_call(self, client: Client, their_worker: Worker, name: str) -> None:
        assert list(client.map(theirs.add, range(100))) == list(range(1, 101))
        assert list(client.map(theirs.add, [1, 2], [10, 20])) == [11, 22]
        assert client.submit(theirs.add, 2, y=5).result(30) == 7
        assert client.submit(theirs.shared, 4).result(30) == 40
        queue = client.queue(name, theirs.add)
        produce(queue, "p", [1, 2, 3])
        assert queue.join(30).done == 3
        assert sorted(queue.results()) == [2, 3, 4]
        assert queue.workers == "theirs"
        with Pool(client=client) as pool:
            assert pool.map(functools.partial(theirs.add, 5), [1, 2]) == [6, 7]
            told = [*pool.map(theirs.ask, [1, 2]), pool.apply(theirs.ask, (3,)), *pool.imap(theirs.ask, [4])]
            assert {one["hostname"] for one in told} == {their_worker.node}
            assert pool.apply(abs, (-1,)) == 1  # beside them, on the pool's own workers
        with Executor(client=client, workers="theirs") as executor:
            assert list(executor.map(theirs.automatic, [0, 1, 2], chunksize=3)) == [0, 1, 2]

    def test_know_their_request(self, client: Client, their_worker: Worker) -> None:
        one, two = client.map(theirs.ask, [1, 2])
        assert one["id"] != two["id"]
        assert (one["retries"], one["hostname"], one["args"]) == (0, their_worker.node, (1,))
        assert one["called_directly"] is False
        assert one["task"] == one["current"] == "tests.their_app.ask"
        assert one["delivery_info"]["routing_key"] == "theirs"
        assert one["delivery_info"]["redelivered"] is False

    def test_are_tried_again_as_they_say(self, client: Client) -> None:
        assert list(client.map(theirs.automatic, [0, 1, 2])) == [0, 1, 2]
        assert client.submit(theirs.by_hand, 2).result(30) == 2

    def test_that_fail_too_often_raise_their_own_error(self, client: Client, name: str) -> None:
        with pytest.raises(KeyError, match="try 2"):
            client.submit(theirs.automatic, 9).result(30)
        queue = client.queue(name, theirs.by_hand)
        produce(queue, "p", [9])
        with pytest.raises(errors.DeadLetters):
            queue.join(30)
        (letter,) = queue.dead_letters()
        assert (letter.attempts, repr(letter.error)) == (4, "ConnectionError('try 3')")

    def test_may_not_retry_with_other_arguments(self, client: Client) -> None:
        with pytest.raises(errors.FunctionNotAllowed, match="other arguments"):
            client.submit(theirs.otherwise, 1).result(30)

    def test_ignore_and_reject_mean_what_they_mean(self, client: Client) -> None:
        assert client.submit(theirs.ends, "ignore").result(30) is None
        assert client.submit(theirs.ends, "requeue").result(30) == "requeue"
        with pytest.raises(Exception, match="broken"):
            client.submit(theirs.ends, "reject").result(30)

    def test_have_their_hooks_called(self, client: Client, name: str) -> None:
        redis = client._connection.redis
        assert client.submit(theirs.noted, name, 1).result(30) == "fine"
        first = [line.decode() for line in redis.lrange(f"noted:{name}", 0, -1)]
        assert first == [
            "before_start", "call", f"on_retry KeyError('{name}')",
            "before_start", "call", "on_success fine", "after_return SUCCESS",
        ]  # fmt: skip
        redis.delete(f"noted:{name}")
        with pytest.raises(KeyError):
            client.submit(theirs.noted, name, 9).result(30)
        last = [line.decode() for line in redis.lrange(f"noted:{name}", 0, -1)]
        assert last[-2:] == [f"on_failure KeyError('{name}')", "after_return FAILURE"]

    def test_may_call_others_by_celery(self, client: Client, their_worker: Worker) -> None:
        identity = client.submit(theirs.calls_another, 41).result(30)
        backend = Celery(backend=Settings.load(client.settings.url).broker, set_as_current=False)
        assert backend.AsyncResult(identity).get(timeout=30) == 42

    def test_are_what_they_are_where_some_of_their_arguments_are_bound(
        self, client: Client, their_worker: Worker, name: str
    ) -> None:
        bound = functools.partial(functools.partial(theirs.sum_up, 1), y=2)
        assert client.submit(bound, 10).result(30) == (1, 10, 2, their_worker.node)
        assert list(client.map(bound, [10, 20])) == [(1, n, 2, their_worker.node) for n in (10, 20)]
        queue = client.queue(name, functools.partial(theirs.automatic, until=2))
        assert queue.workers == "theirs"
        client.queue(name, functools.partial(theirs.automatic, until=2))  # the same
        with pytest.raises(errors.FunctionMismatch):
            client.queue(name, functools.partial(theirs.automatic, until=3))
        assert client.submit(functools.partial(theirs.automatic, until=2)).result(30) == 2  # tried again as it says
        with pytest.raises(errors.ItemTimeout):
            client.submit(functools.partial(theirs.slow, careful=False), 2.0).result(30)

    def test_are_given_up_at_their_time_limit(self, client: Client, their_worker: Worker) -> None:
        with pytest.raises(errors.ItemTimeout) as raised:
            client.submit(theirs.slow, 2.0, False).result(30)
        assert raised.value.timeout_s == 0.3
        if "prefork" in their_worker.node:  # nothing is raised into a thread
            assert client.submit(theirs.slow, 5.0, True).result(30) == "tidied up"

    def test_are_given_up_at_a_hard_limit_that_is_below_the_soft_one(self, client: Client) -> None:
        with pytest.raises(errors.ItemTimeout) as raised:
            client.submit(theirs.hard, 2.0).result(30)
        assert raised.value.timeout_s == 0.3

    def test_run_beside_plain_functions(self, client: Client) -> None:
        assert list(client.map(theirs.add.run, range(5), workers="theirs")) == [1, 2, 3, 4, 5]
        assert list(client.map(plus_one, range(5), workers="theirs")) == [1, 2, 3, 4, 5]


def test_a_worker_without_their_app_imports_it(client: Client) -> None:
    assert list(client.map(theirs.add, [1], workers="cpu")) == [2]


def test_an_option_that_cannot_be_kept_is_an_error_that_says_what_to_do(client: Client) -> None:
    for task, option in (
        (theirs.limited, "rate_limit"), (theirs.expiring, "expires"),
        (theirs.redelivered, "acks_on_failure_or_timeout"),
    ):  # fmt: skip
        with pytest.raises(errors.ConfigError, match=rf"^{option} of Celery task tests\.their_app\."):
            client.submit(task, 1)
    with pytest.raises(errors.ConfigError, match="a signature"):
        client.map(theirs.add.s(1), [2])
    with pytest.raises(errors.ConfigError, match=r"awaits, an `async def`.*task\.run"):
        client.submit(theirs.awaits, 1)
    assert list(client.map(theirs.awaits.run, [1, 2])) == [2, 3]
    with pytest.raises(errors.ConfigError, match="your own"):
        client.submit(theirs.app.tasks["celery.backend_cleanup"])


def test_a_task_goes_to_the_celery_queue_that_celery_would_send_it_to() -> None:
    assert workers_of(theirs.add) == "theirs"
    assert workers_of(theirs.routed) == "elsewhere"


def test_a_task_that_no_app_has_is_an_error_that_names_it(client: Client, cluster: Cluster) -> None:
    app = Celery("nowhere", set_as_current=False)

    @app.task(name="not.there")
    def not_there() -> None: ...

    with pytest.raises(errors.FunctionNotImportable, match=r"not\.there.*their\.app"):
        client.submit_to("cpu", not_there).result(30)


def test_without_a_key_tasks_of_the_workers_own_app_run(server: Any) -> None:
    with (
        Client(server.unix_url) as client,
        Worker(
            server.unix_url, None, "keyless", queues="theirs", pool="threads", slots=1,
            command=COMMAND, more={"THEIR_BROKER": Settings.load(server.unix_url).broker or ""},
        ) as worker,
    ):  # fmt: skip
        worker.ready()
        assert list(client.map(theirs.add, [1, 2])) == [2, 3]
        with pytest.raises(errors.FunctionNotAllowed):
            client.map(plus_one, [1])
        with pytest.raises(errors.FunctionNotAllowed, match="a partial's arguments are pickled"):
            client.map(functools.partial(theirs.add, 1), [1])


def test_a_client_that_sends_its_tickets_to_another_broker_is_told(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    url, key = server.unix_url, "a key for two brokers"
    broker = (Settings.load(url).broker or "").replace("virtual_host=0", "virtual_host=3")
    more = {"THEIR_BROKER": broker, "LASTCALL_REAP_S": "60"}  # else its reaper may be there before the client is told
    with Worker(url, key, "elsewhere", queues="theirs", pool="threads", command=COMMAND, more=more) as worker:
        worker.ready()
        with Client(url, key) as client:
            future = client.submit(theirs.add, 1)
            until(lambda: "take theirs from" in caplog.text, "the client to say so")
            with pytest.raises(errors.WaitTimeout) as raised:
                future.result(1)
            assert future.cancel()
        for said in (str(raised.value), caplog.text):
            assert re.search(r"go to Celery's broker at \S+=0, and its workers take theirs from \S+=3: ", said)
            assert "set LASTCALL_BROKER_URL" in said
        with Client(url, key, worker_wait_s=1) as client:
            with pytest.raises(errors.NoWorker, match=r"go to Celery's broker at .* set LASTCALL_BROKER_URL"):
                list(client.map(theirs.add, range(300)))
            with pytest.raises(errors.NoWorker, match="set LASTCALL_BROKER_URL"):
                client.submit(theirs.add, 1).result(30)
        caplog.clear()
        with Client(url, key, broker_url=broker) as client:
            assert client.submit(theirs.add, 1).result(30) == 2
        assert "take theirs from" not in caplog.text


def test_the_pages_programs_run(server: Any, tmp_path: Path) -> None:
    app, program = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "celery.md").read_text("utf-8"), re.DOTALL)
    url, key = server.unix_url, "a key for this page alone"
    broker = Settings.load(url.replace("db=0", "db=3")).broker or ""  # it is not where the ledger is
    (tmp_path / "their.py").write_text(app.replace("redis://127.0.0.1:6379/0", broker), "utf-8")
    (tmp_path / "program.py").write_text(program, "utf-8")
    path = {"PYTHONPATH": f"{IMPORTABLE}{os.pathsep}{tmp_path}"}
    command = [part.replace("tests.their_app", "their") for part in COMMAND]
    with Worker(url, key, "page", queues="celery,cpu", pool="threads", command=command, more=path) as worker:
        worker.ready()
        ran = subprocess.run(
            [sys.executable, str(tmp_path / "program.py")], cwd=tmp_path,
            env=environment(url, key, path | {"LASTCALL_BROKER_URL": broker}),
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (ran.stderr, ran.stdout.splitlines()) == ("", ["50005000", "7", "2", "[2, 3, 4]"])


class TestAttach:
    URL = "redis://127.0.0.1:6379/3"

    @pytest.fixture(autouse=True)
    def _nothing_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("URL", "KEY", "BROKER_URL"):
            monkeypatch.delenv(f"LASTCALL_{name}", raising=False)

    def app(self, broker: str = URL, **conf: Any) -> Celery:
        app = Celery("a-test", broker=broker, set_as_current=False)
        app.conf.update(conf)
        return app

    def test_takes_a_redis_broker_for_its_server(self) -> None:
        app = attach(self.app())
        assert (app.lastcall_settings.url, app.lastcall_settings.broker) == (self.URL, self.URL)
        assert app.conf.task_default_queue == "celery"  # what is theirs stays
        assert app.conf.task_ignore_result is False
        assert app.conf.worker_disable_prefetch is True

    def test_sends_tickets_through_their_broker_and_keeps_the_ledger_in_lastcalls_server(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LASTCALL_URL", self.URL)
        settings = attach(self.app("amqp://guest@127.0.0.1//")).lastcall_settings
        assert (settings.url, settings.broker) == (self.URL, "amqp://guest@127.0.0.1//")
        # Of the environment that clients have: its workers take tickets from nowhere but their app's.
        monkeypatch.setenv("LASTCALL_BROKER_URL", "redis://127.0.0.1:6379/5")
        assert attach(self.app("amqp://guest@127.0.0.1//")).lastcall_settings.broker == "amqp://guest@127.0.0.1//"

    def test_refuses_what_would_keep_tickets_from_their_slots(self) -> None:
        with pytest.raises(errors.ConfigError, match="LASTCALL_URL"):
            attach(self.app("amqp://guest@127.0.0.1//"))
        with pytest.raises(errors.ConfigError, match="accept_content"):
            attach(self.app(accept_content=["pickle"]))
        with pytest.raises(errors.ConfigError, match="global_keyprefix"):
            attach(self.app(broker_transport_options={"global_keyprefix": "mine:"}))
        app = attach(self.app())
        with pytest.raises(errors.ConfigError, match="has not been called"):
            attach(app)

    def test_leaves_their_prefetching_and_says_what_it_costs(self, caplog: pytest.LogCaptureFixture) -> None:
        app = attach(self.app(worker_prefetch_multiplier=4))
        assert (app.conf.worker_prefetch_multiplier, app.conf.worker_disable_prefetch) == (4, False)
        assert "worker_prefetch_multiplier is 4" in caplog.text

    def test_does_not_let_their_defaults_for_tasks_reach_its_own(self) -> None:
        app = attach(self.app(
            task_default_rate_limit="1/m", task_time_limit=5, task_soft_time_limit=4, task_acks_late=True,
            task_annotations={"*": {"rate_limit": "1/m", "time_limit": 5, "soft_time_limit": 4, "acks_late": True}},
        ))  # fmt: skip
        slot = app.tasks["lastcall.slot"]
        assert not slot.rate_limit
        assert slot.acks_late is False
        assert min(slot.time_limit, slot.soft_time_limit) > 10**6
