"""lastcall.Executor beside the standard library's: what one of them does, all do."""

from __future__ import annotations

import concurrent.futures
import itertools
import multiprocessing
import subprocess
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from lastcall import Client, Executor, Pool
from lastcall.calls import Calls
from lastcall.errors import (
    FunctionNotAllowed,
    InitializerFailed,
    NotSerializable,
    NoWorker,
    QueueCancelled,
    RemoteTraceback,
)
from tests import functions
from tests.conftest import Cluster, start_server
from tests.functions import Counted, Gate, add, odd_only, square
from tests.workers import Worker, environment, until

pytestmark = pytest.mark.integration

Base = concurrent.futures.Executor
Make = Callable[..., Base]
KINDS = ["threads", "processes", "lastcall"]
HAS_BUFFERSIZE = sys.version_info >= (3, 14)


@pytest.fixture(scope="session")
def forks() -> multiprocessing.context.BaseContext:
    """Processes that have imported what the tests need already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.functions"])
    return context


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(kind: str, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes executors of a kind; they are shut down in the end."""
    made: list[Base] = []

    def executor(max_workers: Any = 2, **options: Any) -> Base:
        one: Base
        if kind == "threads":
            one = ThreadPoolExecutor(max_workers, **options)
        elif kind == "processes":
            one = ProcessPoolExecutor(max_workers, request.getfixturevalue("forks"), **options)
        else:
            one = Executor(
                max_workers, request.getfixturevalue("forks"), client=request.getfixturevalue("client"), **options
            )
        made.append(one)
        return one

    yield executor
    for one in made:
        one.shutdown(cancel_futures=True)


@pytest.fixture
def executor(make: Make) -> Base:
    return make()


def held(executor: Base, cluster: Cluster, name: str) -> tuple[Gate, list[Future[int]]]:
    """An executor whose two slots are held by calls that wait at a gate."""
    gate = Gate(cluster.url, name)
    futures = [executor.submit(gate, n) for n in range(2)]
    gate.begun(2)
    return gate, futures


# submit


def test_a_call_gives_a_future(executor: Base) -> None:
    assert isinstance(executor, Base)
    future = executor.submit(add, 1, 2, c=3)
    assert isinstance(future, Future)
    assert future.result(30) == 6
    assert (future.done(), future.running(), future.cancelled(), future.exception()) == (True, False, False, None)


def test_what_a_call_raises_its_future_raises(executor: Base, kind: str) -> None:
    future = executor.submit(odd_only, 4)
    error = future.exception(30)
    assert type(error) is ValueError
    assert error.args == ("4 is even",)
    with pytest.raises(ValueError, match="4 is even"):
        future.result()
    if kind != "threads":
        assert "in odd_only" in str(error.__cause__)
    if kind == "lastcall":
        assert isinstance(error.__cause__, RemoteTraceback)


def test_callbacks_are_told(executor: Base) -> None:
    told: list[Any] = []
    all_told = threading.Event()
    future = executor.submit(square, 3)
    future.add_done_callback(lambda done: told.append(done.result()))
    future.add_done_callback(lambda done: all_told.set())
    assert all_told.wait(30)
    assert told == [9]


def test_what_cannot_be_called_is_the_futures_error(executor: Base) -> None:
    future: Future[Any] = executor.submit(5)  # type: ignore[arg-type]
    assert isinstance(future.exception(30), TypeError)
    assert executor.submit(square, 2).result(30) == 4


@pytest.mark.parametrize("kind", ["processes", "lastcall"], indirect=True)
def test_what_cannot_be_sent_is_the_futures_error(executor: Base) -> None:
    assert isinstance(executor.submit(functions.same, threading.Lock()).exception(30), TypeError)
    assert isinstance(executor.submit(functions.unpicklable_result, 3).exception(30), TypeError)
    assert executor.submit(square, 2).result(30) == 4


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), ("2", TypeError)])
def test_max_workers_must_be_a_positive_int(make: Make, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make(value)


# map


def test_map_gives_results_in_order(executor: Base) -> None:
    assert list(executor.map(square, range(50), timeout=30)) == [n * n for n in range(50)]
    assert list(executor.map(add, [1, 2, 3], [10, 20])) == [11, 22]
    assert list(executor.map(square, [])) == []
    assert list(executor.map(square)) == []  # type: ignore[call-arg]


def test_map_in_chunks_gives_the_same(executor: Base) -> None:
    assert list(executor.map(square, range(50), chunksize=7)) == [n * n for n in range(50)]
    assert list(executor.map(add, range(5), range(5), chunksize=100)) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("kind", ["processes", "lastcall"], indirect=True)
def test_chunksize_must_be_positive(executor: Base) -> None:
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        executor.map(square, range(3), chunksize=0)


def test_map_raises_what_an_item_raised_and_ends(executor: Base) -> None:
    results = executor.map(odd_only, [1, 3, 4, 5])
    assert [next(results), next(results)] == [1, 3]
    with pytest.raises(ValueError, match="4 is even"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("kind", ["processes", "lastcall"], indirect=True)
def test_a_chunk_has_one_outcome(executor: Base) -> None:
    results = executor.map(odd_only, [1, 3, 5, 6], chunksize=2)
    assert [next(results), next(results)] == [1, 3]
    with pytest.raises(ValueError, match="6 is even"):
        next(results)


def test_map_raises_what_its_input_raises_at_once(executor: Base) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        executor.map(square, numbers())


def test_map_reads_its_input_before_anything_is_asked_for(executor: Base) -> None:
    read: list[int] = []
    results = executor.map(square, (read.append(n) or n for n in range(5)))  # type: ignore[func-returns-value]
    assert read == [0, 1, 2, 3, 4]
    assert list(results) == [0, 1, 4, 9, 16]


def test_map_times_out_counted_from_its_call(executor: Base, cluster: Cluster, name: str) -> None:
    gate = Gate(cluster.url, name)
    results = executor.map(gate, [1], timeout=0.05)
    gate.begun()
    with pytest.raises(TimeoutError):
        next(results)
    gate.open()


def test_map_that_fails_cancels_what_has_not_begun(executor: Base, cluster: Cluster, name: str) -> None:
    gate, futures = held(executor, cluster, name)
    counted = Counted(cluster.url, name)
    results = executor.map(counted, range(20), timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)
    gate.open(2)
    assert [future.result(30) for future in futures] == [0, 1]
    executor.shutdown()
    # The standard library's processes have a few more handed to them than run.
    assert set(counted.runs()) <= set(range(3))


@pytest.mark.parametrize("kind", KINDS if HAS_BUFFERSIZE else ["lastcall"], indirect=True)
class TestBuffersize:
    def test_input_is_read_as_results_are(self, executor: Any) -> None:
        read: list[int] = []
        results = executor.map(square, (read.append(n) or n for n in range(100)), buffersize=3)  # type: ignore[func-returns-value]
        assert read == [0, 1, 2]
        assert [next(results), next(results)] == [0, 1]
        assert read == [0, 1, 2, 3, 4]
        assert list(results) == [n * n for n in range(2, 100)]

    def test_input_may_be_endless(self, executor: Any) -> None:
        assert list(itertools.islice(executor.map(square, itertools.count(), buffersize=4), 10)) == [
            n * n for n in range(10)
        ]

    def test_it_must_be_a_positive_int_or_none(self, executor: Any) -> None:
        for value, error, said in ((0, ValueError, "or > 0"), ("3", TypeError, "must be an int")):
            with pytest.raises(error, match=said):
                executor.map(square, [1], buffersize=value)
        assert list(executor.map(square, [3], buffersize=None)) == [9]


@pytest.mark.parametrize("chunksize", [1, 3])
def test_map_keeps_no_result_that_its_reader_has_let_go_of(executor: Base, chunksize: int) -> None:
    for result in executor.map(set, [[n] for n in range(6)], chunksize=chunksize):
        seen = weakref.ref(result)
        del result
        until(lambda: seen() is None, "the result to be gone")  # noqa: B023


# Processes


def test_each_process_or_thread_is_set_up_before_its_first_call(make: Make, name: str) -> None:
    executor = make(2, initializer=functions.set_up, initargs=(name, 3))
    seen = [future.result(30) for future in [executor.submit(functions.was_set_up) for _ in range(10)]]
    assert {one[3] for one in seen} == {(name, 3)}


def test_an_initializer_that_raises_breaks_the_executor(make: Make, kind: str) -> None:
    executor = make(2, initializer=functions.cannot_set_up, initargs=("camera",))
    error = executor.submit(square, 3).exception(30)
    assert isinstance(error, BrokenExecutor)
    if kind == "lastcall":
        assert isinstance(error, BrokenProcessPool)
        assert "cannot_set_up raised OSError: there is no camera on worker cpu@test" in str(error)

    def broken() -> bool:
        try:
            executor.submit(square, 3)
        except BrokenExecutor:
            return True
        return False

    until(broken, "the executor to take no more")


def pool_that_cannot_be_set_up(n: int) -> int:
    with Pool(1, functions.cannot_set_up, ("camera",)) as pool:
        return pool.apply(square, (n,))


def test_another_pools_initializer_breaks_nothing(client: Client, name: str) -> None:
    with Executor(2, initializer=functions.set_up, initargs=(name,), client=client) as executor:
        with pytest.raises(InitializerFailed, match="there is no camera"):
            executor.submit(pool_that_cannot_be_set_up, 3).result(60)
        assert executor.submit(square, 3).result(30) == 9


def test_what_an_initializer_must_be(make: Make, kind: str) -> None:
    with pytest.raises(TypeError, match="initializer must be a callable"):
        make(1, initializer=5)
    if kind == "lastcall":
        with pytest.raises(NotSerializable, match="cannot send initargs"):
            make(1, initializer=functions.set_up, initargs=(threading.Lock(),))


@pytest.mark.parametrize("kind", ["processes", "lastcall"], indirect=True)
def test_a_process_that_has_run_enough_calls_is_replaced(make: Make) -> None:
    executor = make(1, max_tasks_per_child=3)
    runs = Counter(executor.submit(functions.where).result(30)[0] for _ in range(10))
    assert max(runs.values()) == 3
    assert len(runs) >= 4
    for value, error in ((0, ValueError), ("3", TypeError)):
        with pytest.raises(error, match="max_tasks_per_child must be"):
            make(1, max_tasks_per_child=value)


@pytest.mark.parametrize("kind", ["processes", "lastcall"], indirect=True)
def test_a_call_whose_process_dies_each_time_raises_what_a_broken_pool_does(executor: Base) -> None:
    with pytest.raises(BrokenProcessPool):
        executor.submit(functions.Deadly("exit", 3), 3).result(60)


def test_max_tasks_per_child_warns_where_no_process_can_be_replaced(client: Client) -> None:
    with pytest.warns(UserWarning, match="max_tasks_per_child=5 is of no effect .* whose pool is threads") as caught:
        executor = Executor(max_tasks_per_child=5, workers="io", client=client)
    assert caught[0].filename == __file__
    with executor:
        assert list(executor.map(square, range(8))) == [n * n for n in range(8)]


# Waiting


def test_wait_and_as_completed_take_the_futures(executor: Base, cluster: Cluster, name: str) -> None:
    gate = Gate(cluster.url, name)
    slow, quick = executor.submit(gate, 1), executor.submit(square, 3)
    done, pending = concurrent.futures.wait([slow, quick], timeout=30, return_when=FIRST_COMPLETED)
    assert (done, pending) == ({quick}, {slow})
    with pytest.raises(TimeoutError):
        slow.result(0.05)
    gate.open()
    assert set(concurrent.futures.as_completed([slow, quick], timeout=30)) == {slow, quick}
    assert concurrent.futures.wait([slow, quick]) == ({slow, quick}, set())


# Cancelling


def test_what_has_not_begun_can_be_cancelled_and_never_runs(executor: Base, cluster: Cluster, name: str) -> None:
    gate, running = held(executor, cluster, name)
    counted = Counted(cluster.url, name)
    futures = [executor.submit(counted, n) for n in range(8)]
    told: list[Future[int]] = []
    last = futures[-1]
    last.add_done_callback(told.append)
    assert last.cancel()
    assert last.cancel()
    assert (last.cancelled(), last.done(), last.running(), told) == (True, True, False, [last])
    for ask in (last.result, last.exception):
        with pytest.raises(CancelledError):
            ask(30)
    gate.open(2)
    assert [future.result(30) for future in [*running, *futures[:-1]]] == [0, 1, *range(7)]
    assert sorted(counted.runs()) == list(range(7))


def test_who_waits_is_told_of_a_cancelled_one(executor: Base, cluster: Cluster, name: str) -> None:
    gate, running = held(executor, cluster, name)
    futures = [executor.submit(square, n) for n in range(6)]
    found: list[Future[int]] = []
    began = threading.Event()

    def wait() -> None:
        completed = concurrent.futures.as_completed([*running, futures[-1]], timeout=30)
        began.set()
        found.append(next(completed))

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert began.wait(30)
    assert futures[-1].cancel()
    # The standard library's tell those that wait when they come to the cancelled one.
    gate.open(2)
    waiter.join(30)
    assert found
    done, _ = concurrent.futures.wait([*running, *futures], timeout=30)
    assert len(done) == 8


def test_what_runs_or_is_done_cannot_be_cancelled(executor: Base, cluster: Cluster, name: str) -> None:
    gate, running = held(executor, cluster, name)
    assert not running[0].cancel()
    assert running[0].running()
    assert not running[0].done()
    gate.open(2)
    assert running[0].result(30) == 0
    assert not running[0].cancel()
    assert not running[0].running()


# The end


def test_leaving_the_block_waits_also_after_an_error(make: Make, cluster: Cluster, name: str) -> None:
    futures: list[Future[int]] = []

    def block() -> None:
        with make() as executor:
            gate = Gate(cluster.url, name)
            futures.extend(executor.submit(gate, n) for n in range(3))
            gate.open(3)
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        block()
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [0, 1, 2]


def test_nothing_is_taken_after_shutdown(executor: Base) -> None:
    assert executor.submit(square, 2).result(30) == 4
    executor.shutdown()
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(square, 2)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(square, [2])


def test_shutdown_before_any_call(executor: Base) -> None:
    executor.shutdown()
    with pytest.raises(RuntimeError):
        executor.submit(square, 2)


def test_shutdown_need_not_wait(executor: Base, cluster: Cluster, name: str) -> None:
    gate, running = held(executor, cluster, name)
    later = executor.submit(square, 3)
    executor.shutdown(wait=False)
    assert not running[0].done()
    with pytest.raises(RuntimeError):
        executor.submit(square, 2)
    gate.open(2)
    assert [future.result(30) for future in (*running, later)] == [0, 1, 9]


def test_shutdown_may_cancel_what_has_not_begun(executor: Base, cluster: Cluster, name: str) -> None:
    gate, running = held(executor, cluster, name)
    counted = Counted(cluster.url, name)
    futures = [executor.submit(counted, n) for n in range(20)]
    executor.shutdown(wait=False, cancel_futures=True)
    gate.open(2)
    # Not wait(): the standard library's tell nobody of those that were cancelled so.
    until(lambda: all(future.done() for future in [*running, *futures]), "the end")
    assert [future.result(0) for future in running] == [0, 1]
    assert all(future.done() for future in futures)
    # The standard library's processes have a few more handed to them than run.
    assert all(future.cancelled() for future in futures[3:])
    assert {n for n, future in enumerate(futures) if not future.cancelled()} == set(counted.runs())


SCRIPT = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from lastcall import Executor
from tests.functions import square, work

def main():
    kind, how = sys.argv[1:]
    executor = {"threads": ThreadPoolExecutor, "processes": ProcessPoolExecutor}.get(kind, Executor)(2)
    for n in (300, 1, 2, 3):
        executor.submit(work, n).add_done_callback(lambda done: print(done.result(), flush=True))
    if how == "shutdown":
        executor.shutdown(wait=False)
    if how == "raise":
        raise LookupError("enough")

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
"""


@pytest.mark.parametrize(
    ("kind", "how"),
    [*itertools.product(KINDS, ["nothing", "shutdown", "raise"]), ("private", "nothing")],
    indirect=["kind"],
)
def test_a_program_ends_when_its_calls_are_done(kind: str, how: str, cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(SCRIPT)
    where = (None, None) if kind == "private" else (cluster.url, cluster.key)
    ran = subprocess.run(
        [sys.executable, str(script), kind, how], env=environment(*where),
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert sorted(map(float, ran.stdout.split())) == [1, 2, 3, 300], ran.stderr
    assert ran.returncode == (1 if how == "raise" else 0), ran.stderr
    assert ("LookupError" in ran.stderr) if how == "raise" else not ran.stderr


# What is lastcall's own


def calls_of(executor: Executor) -> Calls:
    return executor._work._calls[-1]


def test_max_workers_caps_the_slots(client: Client, cluster: Cluster, name: str) -> None:
    gate = Gate(cluster.url, name)
    with Executor(1, client=client) as executor:
        futures = [executor.submit(gate, n) for n in range(4)]
        assert gate.begun() == ["0"]
        status = calls_of(executor).ledger.status()
        assert (status.tickets, status.leased, status.ready) == (1, 1, 3)
        gate.open(4)
        assert gate.begun(3) == ["1", "2", "3"]
        assert [future.result(30) for future in futures] == [0, 1, 2, 3]


def test_calls_go_to_the_celery_queue_that_was_named(client: Client) -> None:
    with Executor(client=client, workers="io") as executor:
        assert len({process for process, _ in executor.map(functions.who, range(20))}) == 1
    assert client.submit(square, 2).result(30) == 4  # the client is left open


def test_shutdown_waits_for_its_own_calls_alone(client: Client, cluster: Cluster, name: str) -> None:
    gate = Gate(cluster.url, name)
    other = client.submit(gate, 1)
    gate.begun()
    with Executor(client=client) as executor:
        future = executor.submit(square, 3)
    assert future.done()
    assert not other.done()
    gate.open()
    assert other.result(30) == 1
    assert client._retired == []


def test_an_executor_whose_client_is_closed_takes_nothing(cluster: Cluster) -> None:
    with cluster.client() as client:
        executor = Executor(client=client)
        future = executor.submit(square, 3)
    assert future.result(0) == 9  # the client waited for it
    for submit in (lambda: executor.submit(square, 3), lambda: executor.map(square, [1, 2], chunksize=2)):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after its client was closed"):
            submit()
    executor.shutdown()


def test_an_executor_of_its_own_client_closes_it(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTCALL_URL", cluster.url)
    monkeypatch.setenv("LASTCALL_KEY", cluster.key)
    with Executor(2) as executor:
        assert list(executor.map(square, range(3))) == [0, 1, 4]
        assert "<Executor unix://" in repr(executor)
    assert executor._work.client._closed


def test_a_block_that_is_left_by_ctrl_c_waits_for_nothing(client: Client, cluster: Cluster, name: str) -> None:
    executor = Executor(client=client)
    gate, running = held(executor, cluster, name)
    waiting = executor.submit(square, 1)
    with pytest.raises(KeyboardInterrupt), executor:
        raise KeyboardInterrupt
    assert [type(future.exception(30)) for future in running] == [QueueCancelled] * 2
    assert waiting.cancelled()
    gate.open(2)


@pytest.mark.parametrize("end", ["terminate_workers", "kill_workers"])
def test_terminating_waits_for_nothing_and_others_are_served_on(
    client: Client, cluster: Cluster, name: str, end: str
) -> None:
    executor = Executor(client=client)
    gate, running = held(executor, cluster, name)
    waiting = [executor.submit(square, n) for n in range(5)]
    getattr(executor, end)()
    assert [type(future.exception(30)) for future in running] == [QueueCancelled] * 2
    assert all(future.cancelled() for future in waiting)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(square, 3)
    gate.open(2)
    assert client.submit(square, 3).result(30) == 9
    executor.shutdown()
    getattr(executor, end)()


def test_shutdown_from_a_callback_does_not_wait_for_itself(client: Client, cluster: Cluster, name: str) -> None:
    gate = Gate(cluster.url, name)
    executor = Executor(2, client=client)
    shut = threading.Event()

    def shutdown(_: object) -> None:
        executor.shutdown()
        shut.set()

    first, second = executor.submit(square, 3), executor.submit(gate, 1)
    first.add_done_callback(shutdown)
    assert shut.wait(30)
    gate.open()
    assert second.result(30) == 1


def test_an_executor_that_was_silent_for_too_long_calls_through_another_queue(cluster: Cluster) -> None:
    with cluster.client(lease_s=0.5) as client, Executor(client=client) as executor:
        assert executor.submit(square, 2).result(30) == 4
        calls = calls_of(executor)
        client._connection.heart.drop_producer(calls.ledger, "client", calls._producer._epoch)  # it beats no more
        until(lambda: calls.ledger.status().state == "INCOMPLETE", "the lease to run out")
        calls._producer._on_lost()
        assert executor.submit(square, 3).result(30) == 9
        assert calls_of(executor) is not calls


def test_calls_of_an_executor_fail_by_name_when_no_worker_comes(lonely: Cluster) -> None:
    with lonely.client(worker_wait_s=0.2) as client, Executor(client=client) as executor:
        assert isinstance(executor.submit(square, 1).exception(30), NoWorker)


def test_an_argument_that_cannot_be_pickled_is_named(client: Client) -> None:
    with Executor(client=client) as executor:
        error = executor.submit(functions.same, 1, threading.Lock()).exception(0)
        assert isinstance(error, NotSerializable)
        assert "cannot send argument 1 (a _thread.lock)" in str(error)


def test_what_a_task_says_goes_for_a_chunk(client: Client) -> None:
    with Executor(client=client) as executor:
        assert list(executor.map(functions.stubborn, [1, 1], chunksize=2)) == [2, 2]


def test_without_a_key_chunks_of_tasks_travel_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LASTCALL_KEY", raising=False)
    server = start_server(tcp=False)
    try:
        worker = Worker(server.unix_url, None, "open", pool="threads", options=("-I", "tests.functions"))
        with worker, Client(server.unix_url) as client, Executor(client=client) as executor:
            worker.ready()
            assert list(executor.map(functions.cube, range(5), chunksize=2)) == [0, 1, 8, 27, 64]
            assert list(executor.map(functions.cube, range(5))) == [0, 1, 8, 27, 64]
            with pytest.raises(FunctionNotAllowed):
                next(executor.map(functions.not_a_task, [1, 2], chunksize=2))
            assert isinstance(executor.submit(functions.not_a_task, 1).exception(30), FunctionNotAllowed)
    finally:
        server.close()
