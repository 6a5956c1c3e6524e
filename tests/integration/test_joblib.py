"""joblib.Parallel, and scikit-learn by it, on the cluster's workers."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import threading
import warnings
from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_backend, parallel_config
from joblib.parallel import BACKENDS
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.svm import SVC

import lastcall.joblib
from lastcall import Client
from lastcall.errors import FunctionNotAllowed, NotSerializable, NoWorker, RemoteError, RemoteTraceback
from lastcall.state import keys
from tests.arrays import dies_once, first, scribble
from tests.conftest import Cluster
from tests.documents import printed_by
from tests.functions import Counted, Gate, Odd, fail, same, square
from tests.servers import Server
from tests.tasks import AtOnce, here, in_parallel_in_turn, with_a_bad_end
from tests.workers import until

pytestmark = [
    pytest.mark.integration,
    # joblib's own, about a machine on which it cannot count physical cores, say.
    pytest.mark.filterwarnings("ignore::UserWarning:joblib"),
]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    lastcall.joblib.register()
    yield
    del BACKENDS[lastcall.joblib.NAME]


@pytest.fixture
def on_lastcall(client: Client, registered: None) -> Iterator[None]:
    """Everything here runs on the cluster, whose workers have 2 slots."""
    with parallel_config(backend="lastcall", n_jobs=-1, client=client):
        yield


def test_tasks_run_on_the_workers_in_order(on_lastcall: None) -> None:
    done = Parallel()(delayed(here)(i) for i in range(50))
    assert [i for i, _ in done] == list(range(50))
    assert os.getpid() not in {pid for _, pid in done}


def test_parallel_backend_and_the_backend_by_name_and_as_an_object_do_the_same(
    client: Client, cluster: Cluster
) -> None:
    with parallel_backend("lastcall", n_jobs=2, client=client):
        assert Parallel()(delayed(square)(i) for i in range(5)) == [0, 1, 4, 9, 16]
    backend = lastcall.joblib.LastcallBackend(client=client, workers="io")
    done = Parallel(n_jobs=2, backend=backend)(delayed(here)(i) for i in range(5))
    assert {pid for _, pid in done} == {cluster.workers[1].process.pid}


def test_without_a_client_it_is_that_of_the_environment(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lastcall.joblib, "_clients", {})
    monkeypatch.setenv("LASTCALL_URL", cluster.url)
    monkeypatch.setenv("LASTCALL_KEY", cluster.key)
    for _ in range(2):
        assert Parallel(n_jobs=2, backend="lastcall")(delayed(square)(i) for i in range(3)) == [0, 1, 4]
    (shared,) = lastcall.joblib._clients.values()
    shared.close()
    assert Parallel(n_jobs=2, backend="lastcall")(delayed(square)(i) for i in range(3)) == [0, 1, 4]
    lastcall.joblib._shared_client().close()


def test_n_jobs_counts_the_clusters_slots(on_lastcall: None, client: Client) -> None:
    assert joblib.effective_n_jobs(-1) == 2
    assert joblib.effective_n_jobs(-2) == 1
    assert joblib.effective_n_jobs(-9) == 1
    assert joblib.effective_n_jobs(7) == 7
    with pytest.raises(ValueError, match="no meaning"):
        joblib.effective_n_jobs(0)
    with parallel_config(backend="lastcall", client=client, workers="io"):
        assert joblib.effective_n_jobs(-1) == 4


def test_n_jobs_of_1_runs_here(on_lastcall: None) -> None:
    assert Parallel(n_jobs=1)(delayed(here)(i) for i in range(2)) == [(0, os.getpid()), (1, os.getpid())]


def test_no_more_than_n_jobs_run_at_once(client: Client, cluster: Cluster, name: str) -> None:
    with parallel_config(backend="lastcall", client=client, workers="io"):
        jobs = Parallel(n_jobs=2, pre_dispatch="all", batch_size=1)
        assert max(jobs(delayed(AtOnce(cluster.url, name))(i) for i in range(20))) == 2


def test_pre_dispatch_bounds_what_is_read_of_the_tasks(on_lastcall: None, cluster: Cluster, name: str) -> None:
    gate, read = Gate(cluster.url, name), itertools.count()
    tasks = (delayed(gate)(next(read)) for _ in range(10))
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.extend(jobs(tasks)))
    jobs = Parallel(n_jobs=2, pre_dispatch=3, batch_size=1)
    thread.start()
    gate.begun(2)
    assert next(read) == 3
    gate.open(10)
    thread.join(60)
    assert sorted(done) == [0, 1, 2, *range(4, 11)]


def test_short_tasks_are_put_together(on_lastcall: None, client: Client) -> None:
    backend = joblib.parallel.get_active_backend()[0]
    sizes: list[int] = []
    completed = backend.batch_completed

    def note(size: int, duration: float) -> None:
        sizes.append(size)
        completed(size, duration)

    backend.batch_completed = note
    assert len(Parallel()(delayed(sqrt)(i) for i in range(3000))) == 3000
    assert sum(sizes) == 3000
    assert max(sizes) >= 16


def test_generators_give_results_as_they_come(on_lastcall: None, cluster: Cluster, name: str) -> None:
    gate = Gate(cluster.url, name)
    tasks = [delayed(gate)(0), delayed(square)(1), delayed(square)(2)]
    results = Parallel(return_as="generator_unordered", batch_size=1)(tasks)
    assert {next(results), next(results)} == {1, 4}
    gate.open()
    assert list(results) == [0]
    results = Parallel(return_as="generator", batch_size=1)(delayed(gate)(i) for i in range(3))
    gate.open()
    gate.open(2)
    assert list(results) == [0, 1, 2]


def test_a_generator_that_is_left_drops_what_has_not_begun(on_lastcall: None, cluster: Cluster, name: str) -> None:
    counted = Counted(cluster.url, name)
    results = Parallel(return_as="generator", batch_size=1, pre_dispatch=4)(delayed(counted)(i) for i in range(10_000))
    assert next(results) == 0
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        results.close()
    assert len(counted.runs()) < 1000
    assert Parallel()(delayed(square)(i) for i in range(3)) == [0, 1, 4]  # and the backend goes on


def test_an_error_ends_it_at_once_and_says_where_it_was_raised(on_lastcall: None, cluster: Cluster, name: str) -> None:
    counted = Counted(cluster.url, name, raising=(5,))
    with pytest.raises(Odd) as raised:
        Parallel(batch_size=1)(delayed(counted)(i) for i in range(10_000))
    assert isinstance(raised.value.__cause__, RemoteTraceback)
    assert len(counted.runs()) < 1000


@pytest.mark.parametrize("managed", [True, False])
def test_the_same_parallel_goes_on_after_an_error(on_lastcall: None, managed: bool) -> None:
    jobs = Parallel()
    if managed:
        jobs.__enter__()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            jobs(delayed(divmod)(1, i) for i in range(5))
        assert jobs(delayed(square)(i) for i in range(5)) == [0, 1, 4, 9, 16]
    if managed:
        jobs.__exit__(None, None, None)


@pytest.mark.parametrize("managed", [True, False])
def test_the_same_parallel_gives_nothing_of_a_call_that_failed_or_was_left(on_lastcall: None, managed: bool) -> None:
    squares = [i * i for i in range(30)]
    for _ in range(5):  # what is read ahead of a call that ends early is different each time
        jobs = Parallel(return_as="generator")
        with jobs if managed else contextlib.nullcontext():
            with pytest.raises(ZeroDivisionError):
                list(jobs(delayed(divmod)(1, (i + 7) % 20) for i in range(20)))
            assert list(jobs(delayed(square)(i) for i in range(30))) == squares
            left = jobs(delayed(here)(i) for i in range(30))
            next(left)
            del left
            assert list(jobs(delayed(square)(i) for i in range(30))) == squares


def test_a_generator_is_whole_though_another_call_begins_meanwhile(on_lastcall: None) -> None:
    jobs = Parallel(return_as="generator")
    results = jobs(delayed(square)(i) for i in range(200))
    assert next(results) == 0
    assert Parallel()(delayed(square)(i) for i in range(30)) == [i * i for i in range(30)]
    assert list(results) == [i * i for i in range(1, 200)]


@pytest.mark.parametrize("bad", [0, 100], ids=["the first", "one that is asked for when others are done"])
def test_a_task_that_cannot_be_sent_raises(on_lastcall: None, bad: int) -> None:
    with pytest.raises(NotSerializable, match="lock"):
        Parallel(pre_dispatch=2)(delayed(same)(threading.Lock() if i == bad else i) for i in range(200))


@pytest.mark.parametrize("n", [0, 50])
def test_tasks_that_raise_while_they_are_read_raise_here(on_lastcall: None, n: int) -> None:
    with pytest.raises(LookupError, match="no more tasks"):
        Parallel()(with_a_bad_end(n))


def test_no_tasks_give_no_results(on_lastcall: None) -> None:
    assert Parallel()([]) == []


def test_timeout_is_of_each_task(on_lastcall: None, cluster: Cluster, name: str) -> None:
    gate = Gate(cluster.url, name)
    try:
        with pytest.raises(multiprocessing.TimeoutError):
            Parallel(timeout=0.2)(delayed(gate)(i) for i in range(2))
    finally:
        gate.open(2)


def test_verbose_tells_how_far_it_is(on_lastcall: None, capsys: pytest.CaptureFixture[str]) -> None:
    Parallel(verbose=100)(delayed(square)(i) for i in range(4))
    said = capsys.readouterr()
    assert "Using backend LastcallBackend with 2 concurrent workers" in said.out + said.err
    assert "4 out of   4" in said.out + said.err


@pytest.mark.parametrize("backend", [None, "lastcall"])
def test_tasks_that_are_parallel_themselves_do_not_wait_for_each_other(on_lastcall: None, backend: str | None) -> None:
    done = Parallel(batch_size=1)(delayed(in_parallel_in_turn)(n, backend) for n in range(1, 9))
    for n, (squares, pids, pid) in enumerate(done, 1):
        assert squares == [i * i for i in range(n)]
        assert pids == {pid}  # in the slot that has the task


def test_functions_of_a_script_and_closures_are_sent(on_lastcall: None) -> None:
    more = 5
    assert Parallel()(delayed(lambda n: n + more)(i) for i in range(3)) == [5, 6, 7]


def test_a_task_whose_process_is_killed_runs_again(on_lastcall: None) -> None:
    data = np.full(100_000, 5.0)
    done = Parallel(batch_size=1)([delayed(dies_once)(data), delayed(first)(data), delayed(first)(data, 1)])
    assert done[0][0] > 1
    assert [done[0][1], *done[1:]] == [5.0, 5.0, 6.0]


def test_large_arrays_are_sent_once_and_are_read_only(on_lastcall: None, client: Client) -> None:
    data = np.random.default_rng().random(500_000)
    redis = client._connection.redis
    before = redis.info("stats")["total_net_input_bytes"]  # type: ignore[index]
    done = Parallel(batch_size=1)(delayed(first)(data, n) for n in range(20))
    assert done == [data[0] + n for n in range(20)]
    assert redis.info("stats")["total_net_input_bytes"] - before < 2 * data.nbytes  # type: ignore[index]
    with pytest.raises(ValueError, match="read-only"):
        Parallel()(delayed(scribble)(data, n) for n in range(2))
    done = Parallel(mmap_mode="c")(delayed(scribble)(data, n) for n in range(3))
    assert done == [(data[0], float(n)) for n in range(3)]


def test_a_parallel_call_leaves_no_queue_behind(on_lastcall: None, client: Client) -> None:
    before = set(client._connection.redis.hkeys(keys.QUEUES))  # type: ignore[arg-type]
    Parallel()(delayed(square)(i) for i in range(5))
    with pytest.raises(FileNotFoundError):
        Parallel()(delayed(open)("/does/not/exist") for _ in range(5))
    until(lambda: set(client._connection.redis.hkeys(keys.QUEUES)) <= before, "its queues to end")  # type: ignore[arg-type]


def test_where_no_worker_comes_it_says_so(lonely: Cluster) -> None:
    with (
        lonely.client(worker_wait_s=0.2) as client,
        parallel_config(backend="lastcall", n_jobs=-1, client=client),
        pytest.raises(NoWorker, match="lastcall worker -Q cpu"),
    ):
        Parallel()(delayed(square)(i) for i in range(3))


def test_without_a_key_it_says_that_there_must_be_one(server: Server) -> None:
    with Client(server.unix_url) as client, parallel_config(backend="lastcall", n_jobs=2, client=client):
        with pytest.raises(FunctionNotAllowed, match="LASTCALL_KEY"):
            Parallel()(delayed(square)(i) for i in range(3))
        client.close(wait=False)


def test_an_exception_that_does_not_pickle_arrives_all_the_same(on_lastcall: None) -> None:
    with pytest.raises(RemoteError, match="nobody can hold me"):
        Parallel()([delayed(fail)("wild"), delayed(square)(1)])


def test_the_documents_program_does_what_it_says(cluster: Cluster, tmp_path: Path) -> None:
    assert printed_by("docs/joblib.md", cluster, tmp_path) == [[str([n**3 for n in range(10)]), "0", "2", "4"]]


# scikit-learn


@pytest.fixture(scope="module")
def data() -> Any:
    return make_classification(400, 10, random_state=0)


def test_cross_val_score_is_what_it_is_in_one_process(on_lastcall: None, data: Any) -> None:
    on_workers = cross_val_score(SVC(), *data, cv=4, scoring=Elsewhere(os.getpid()))
    with parallel_config(backend="sequential"):
        here = cross_val_score(SVC(), *data, cv=4)
    assert on_workers.tolist() == here.tolist()


def test_grid_search_is_what_it_is_in_one_process(on_lastcall: None, data: Any) -> None:
    grid = {"C": [0.1, 1, 10], "kernel": ["linear", "rbf"]}
    on_workers = GridSearchCV(SVC(), grid, cv=3, scoring=Elsewhere(os.getpid())).fit(*data)
    with parallel_config(backend="sequential"):
        here = GridSearchCV(SVC(), grid, cv=3).fit(*data)
    assert on_workers.best_params_ == here.best_params_
    assert on_workers.cv_results_["mean_test_score"].tolist() == here.cv_results_["mean_test_score"].tolist()


def test_a_grid_search_in_a_cross_validation_ends(on_lastcall: None, data: Any) -> None:
    search = GridSearchCV(SVC(), {"C": [0.1, 1]}, cv=2, n_jobs=2)
    assert len(cross_val_score(search, *data, cv=4)) == 4


class Elsewhere:
    """The estimator's own score, if this is not the test's process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __call__(self, estimator: Any, x: Any, y: Any) -> float:
        assert os.getpid() != self.pid
        return float(estimator.score(x, y))
