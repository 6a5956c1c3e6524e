"""client.submit(): futures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import operator
import subprocess
import sys
import threading
from concurrent.futures import Future, as_completed
from pathlib import Path

import pytest

from lastcall import Client, errors
from lastcall.client import ClientClosed
from lastcall.errors import (
    ConfigError,
    FunctionNotImportable,
    ItemTooLarge,
    LeaseLost,
    NotSerializable,
    NoWorker,
    QueueCancelled,
    RemoteTraceback,
)
from tests import functions
from tests.conftest import Cluster
from tests.functions import Gate, Scale, add, square
from tests.workers import environment, until

pytestmark = pytest.mark.integration


def test_a_call_gives_a_future_of_concurrent_futures(client: Client) -> None:
    future = client.submit(add, 1, 2, c=3)
    assert isinstance(future, Future)
    assert future.result(30) == 6
    assert future.done()
    assert future.exception() is None


def test_keyword_arguments_of_any_name_arrive(client: Client) -> None:
    def names(**kwargs: int) -> list[str]:
        return sorted(kwargs)

    # Those that submit() itself has are positional only.
    assert client.submit(names, function=1, self=2, workers=3, args=4).result(30) == [
        "args", "function", "self", "workers",
    ]  # fmt: skip
    assert client.submit(functions.keyword_only, n=5).result(30) == 5


def test_many_calls_at_once(client: Client) -> None:
    futures = [client.submit(square, n) for n in range(2_000)]
    assert [future.result(30) for future in futures] == [n * n for n in range(2_000)]
    calls = client._calls["cpu"]
    (status,) = client.job(calls.job).status()
    assert (status.put, status.done) == (2_000, 2_000)
    until(lambda: not client.job(calls.job).status()[0].unread, "results to be acknowledged")
    assert client._connection.redis.xlen(calls._queue._ledger.results_key) == 0


def test_as_completed_gives_those_first_that_are_done_first(client: Client, cluster: Cluster) -> None:
    gate = Gate(cluster.url, "as-completed")
    slow, quick = client.submit(gate, "slow"), client.submit(square, 3)
    done = as_completed([slow, quick], timeout=30)
    assert next(done) is quick
    gate.open()
    assert next(done) is slow


def test_futures_can_be_awaited(client: Client) -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(asyncio.wrap_future(client.submit(square, n)) for n in range(10)))

    assert asyncio.run(main()) == [n * n for n in range(10)]


def test_callbacks_run_when_the_answer_is_there(client: Client) -> None:
    seen: list[int] = []
    all_seen = threading.Event()

    def note(future: Future[int]) -> None:
        seen.append(future.result())
        if len(seen) == 1:
            client.submit(square, seen[0]).add_done_callback(note)  # a call out of a callback
        else:
            all_seen.set()

    client.submit(square, 3).add_done_callback(note)
    assert all_seen.wait(30)
    assert seen == [9, 81]


def test_an_error_arrives_as_itself(client: Client) -> None:
    future = client.submit(functions.fail, "odd")
    error = future.exception(30)
    assert isinstance(error, functions.Odd)
    assert (error.code, error.where) == (7, "the attic")
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "in fail" in str(error.__cause__)
    with pytest.raises(functions.Odd):
        future.result()


def test_a_call_with_wrong_arguments_fails_by_itself(client: Client) -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        client.submit(add, 1).result(30)
    assert client.submit(add, 1, 1).result(30) == 2


def test_a_timeout_is_the_futures_own(client: Client, cluster: Cluster) -> None:
    gate = Gate(cluster.url, "future-timeout")
    future = client.submit(gate, 1)
    gate.begun()
    with pytest.raises(concurrent.futures.TimeoutError, match="for the answer to a call in queue calls-"):
        future.result(0.05)
    with pytest.raises(
        errors.WaitTimeout, match=r"waited 0.5 s for the answer to a call in queue .*: 0 ready, 1 running"
    ):
        future.exception(0.5)
    assert not future.cancel()  # it runs
    assert future.running()
    gate.open()
    assert future.result(30) == 1


@pytest.mark.parametrize(
    ("function", "args", "value"),
    [
        (lambda a: a + 1, (1,), 2),
        (functools.partial(operator.add, 1), (1,), 2),
        (Scale(3), (2,), 6),
        (Scale(3).times, (2,), 6),
        (divmod, (7, 2), (3, 1)),
        (str.join, ("-", ["a", "b"]), "a-b"),
        ({}.get, ("missing", 4), 4),
    ],
    ids=["lambda", "partial", "instance", "method", "built in", "method of a type", "method of a dict"],
)
def test_functions_of_every_kind_can_be_called(client: Client, function: object, args: object, value: object) -> None:
    assert client.submit(function, *args).result(30) == value  # type: ignore[arg-type, misc]


def test_what_is_submitted_is_as_it_was_then(client: Client, cluster: Cluster) -> None:
    gate = Gate(cluster.url, "then")
    held = [client.submit(gate, n) for n in range(2)]
    gate.begun(2)
    scale, items = Scale(2), [1]
    one, other = client.submit(scale, 10), client.submit(functions.same, items)
    scale.factor = 3
    items.append(2)
    three = client.submit(scale, 10)
    gate.open(2)
    assert (one.result(30), other.result(30), three.result(30)) == (20, [1], 30)
    assert [future.result(30) for future in held] == [0, 1]


def test_a_function_that_goes_by_value_is_as_it_was_at_each_call(client: Client) -> None:
    factor = 1

    def scaled(n: int) -> int:
        return n * factor

    futures = []
    for n in range(6):
        futures.append(client.submit(scaled, 10))
        factor += n % 2  # after every second call
    assert [future.result(30) for future in futures] == [10, 10, 20, 20, 30, 30]


def test_submit_to_names_the_celery_queue(client: Client) -> None:
    threads = [client.submit_to("io", functions.who) for _ in range(20)]
    processes = [client.submit(functions.who) for _ in range(20)]
    assert len({future.result(30)[0] for future in threads}) == 1
    assert not {f.result(30)[0] for f in threads} & {f.result(30)[0] for f in processes}


def test_calls_from_many_threads_share_a_queue(client: Client) -> None:
    def calls(start: int) -> list[int]:
        return [future.result(30) for future in [client.submit(square, start + n) for n in range(100)]]

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        got = list(threads.map(calls, range(0, 800, 100)))
    assert [value for values in got for value in values] == [n * n for n in range(800)]
    assert len(client._calls) == 1


# What cannot be sent


def test_an_argument_that_cannot_be_pickled_is_named(client: Client) -> None:
    with pytest.raises(NotSerializable, match=r"cannot send argument 1 \(a _thread.lock\): pickle"):
        client.submit(functions.same, 1, threading.Lock())
    with pytest.raises(NotSerializable, match=r"cannot send argument 'key' \(a _thread.lock\)"):
        client.submit(functions.same, 1, key=threading.Lock())
    assert client.submit(square, 2).result(30) == 4


def test_a_result_that_cannot_be_pickled_is_an_error(client: Client) -> None:
    with pytest.raises(NotSerializable, match=r"cannot send the result of item 0 \(a _thread.lock\)"):
        client.submit(functions.unpicklable_result, 3).result(30)


def test_a_call_over_the_limit_is_refused(cluster: Cluster) -> None:
    with cluster.client(max_item_bytes=1_000) as client:
        with pytest.raises(ItemTooLarge, match=r"an item has 1,\d+ bytes, the limit is 1,000: raise LASTCALL_MAX"):
            client.submit(functions.length, b"x" * 1_000)
        assert client.submit(functions.length, b"x" * 100).result(30) == 100


def test_something_that_cannot_be_called_is_refused(client: Client) -> None:
    with pytest.raises(ConfigError, match="function must be callable, got a value of type int"):
        client.submit(5)  # type: ignore[arg-type]


def test_a_function_that_the_worker_cannot_import_says_which_module_and_which_worker(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def local(n):\n    return n\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here  # type: ignore[import-not-found]

    for future in (client.submit(only_here.local, 1), client.submit(functools.partial(only_here.local, 1))):
        with pytest.raises(FunctionNotImportable) as caught:
            future.result(30)
        assert (caught.value.module, caught.value.worker) == ("only_here", "cpu@test")
        assert "worker cpu@test cannot import only_here" in str(caught.value)
        assert "install it there, or put its folder on the worker's PYTHONPATH" in str(caught.value)
    with pytest.raises(FunctionNotImportable, match="worker cpu@test cannot import only_here"):
        list(client.map(only_here.local, [1]))


# The end


def test_leaving_the_block_waits_for_calls_that_are_out(cluster: Cluster) -> None:
    gate = Gate(cluster.url, "leaving")
    with cluster.client() as client:
        futures = [client.submit(gate, n) for n in range(2)]
        job = client._calls["cpu"].job
        gate.begun(2)
        gate.open(2)
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [0, 1]
    with cluster.client() as client:
        assert [status.state for status in client.job(job).status()] == ["DRAINED"]


def test_leaving_the_block_by_an_error_cancels_calls_that_are_out(cluster: Cluster) -> None:
    gate = Gate(cluster.url, "leaving-by-error")
    futures: list[Future[int]] = []

    def block() -> None:
        with cluster.client() as client:
            futures.extend(client.submit(gate, n) for n in range(3))
            gate.begun(2)
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        block()
    for future in futures:
        assert isinstance(future.exception(5), QueueCancelled)
    gate.open(2)


def test_a_closed_client_says_so(cluster: Cluster) -> None:
    client = cluster.client()
    client.close()
    client.close()
    for use in (
        lambda: client.submit(square, 1),
        lambda: client.map(square, [1]),
        lambda: client.queue("closed"),
        lambda: client.job("closed"),
        client.status,
        client.workers,
    ):
        with pytest.raises(ClientClosed, match="this client is closed: use it, and what it gave, inside"):
            use()


def test_calls_fail_by_name_when_no_worker_comes(lonely: Cluster) -> None:
    with lonely.client(worker_wait_s=0.2) as client:
        future = client.submit(square, 1)
        error = future.exception(30)
        assert isinstance(error, NoWorker)
        assert 'no worker serves the Celery queue "cpu": start one with: lastcall worker -Q cpu' in str(error)
        # Its queue is gone with it; the next call has another.
        until(lambda: not client.status(), "the queue of calls to be cancelled")
        assert isinstance(client.submit(square, 1).exception(30), NoWorker)


@pytest.mark.parametrize("told", [True, False], ids=["the heart noticed", "the heart has not noticed yet"])
def test_a_client_that_was_silent_for_too_long_calls_through_another_queue(cluster: Cluster, told: bool) -> None:
    with cluster.client(lease_s=0.5) as client:
        assert client.submit(square, 2).result(30) == 4
        calls = client._calls["cpu"]
        queue, producer = calls._queue, calls._producer
        client._connection.heart.drop_producer(queue._ledger, "client", producer._epoch)  # it beats no more
        until(lambda: queue.status().state == "INCOMPLETE", "the lease to run out")
        if told:
            producer._on_lost()
        else:
            error = client.submit(square, 3).exception(30)
            assert isinstance(error, LeaseLost)
            assert error.__notes__ == ["This call was not run: submit it again."]
        assert client.submit(square, 3).result(30) == 9
        assert client._calls["cpu"] is not calls


SCRIPT = """
import functools
from lastcall import Client, errors

class Scale:
    def __init__(self, factor):
        self.factor = factor
    def __call__(self, n):
        return self.factor * n
    def __eq__(self, other):
        return self.factor == other.factor
    def __hash__(self):
        return hash(self.factor)

class Trouble(Exception):
    pass

def triple(n):
    return helper(n)

def helper(n):
    return 3 * n

def trouble(n):
    raise Trouble(n)

if __name__ == "__main__":
    with Client() as client:
        assert list(client.map(triple, range(4))) == [0, 3, 6, 9]
        assert client.submit(triple, 5).result(30) == 15
        assert client.submit(functools.partial(triple, 5)).result(30) == 15
        assert client.submit(Scale, 5).result(30) == Scale(5)
        assert client.submit(Scale(5), 5).result(30) == 25
        try:
            client.submit(trouble, 5).result(30)
        except Trouble as error:
            assert error.args == (5,)
        queue = client.queue("main-script", triple)
        assert client.queue("main-script", triple).name == queue.name
        with queue.producer() as out:
            out.put_many(range(4))
        assert sorted(queue.results(timeout=30)) == [0, 3, 6, 9]
    print("done")
"""


def test_functions_and_classes_of_a_script_travel(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, str(script)], env=environment(cluster.url, cluster.key),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr
