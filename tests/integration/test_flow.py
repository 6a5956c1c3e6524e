"""Flows on workers: results, errors, credits, waits, and how a job is let go of and found again."""

from __future__ import annotations

import gc
import itertools
import operator
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lastcall import Client, Failure, Flow, batch, errors, fan_out, filter, reduce, stage
from lastcall.feed import Feed
from lastcall.state import keys
from tests.conftest import Cluster
from tests.functions import Gate, odd_only, plus_one, square, work
from tests.workers import until

pytestmark = pytest.mark.integration

MODES = ("auto", "vertical", "streaming", "horizontal")


def some(n: int) -> Iterator[int]:
    yield from range(n % 4)


def is_odd(n: int) -> bool:
    return n % 2 == 1


def north(position: int = 0) -> Iterator[str]:
    return (f"north {n}" for n in range(position, 30))


def south() -> list[str]:
    return [f"south {n}" for n in range(20)]


@pytest.mark.parametrize("mode", MODES)
def test_results_come_in_order(client: Client, mode: str) -> None:
    flow = Flow(square, workers="io") | plus_one | square
    expected = [(n * n + 1) ** 2 for n in range(2_000)]
    assert list(client.run(flow, range(2_000), mode=mode).results()) == expected
    assert sorted(client.run(flow, range(200), mode=mode, ordered=False).results()) == expected[:200]


@pytest.mark.parametrize("mode", MODES)
def test_a_flow_of_every_stage(client: Client, mode: str) -> None:
    flow = (
        Flow(square) | some | filter(is_odd) | fan_out(plus_one, Flow(square) | some) | batch(3) | sum
        | reduce(operator.add, 1_000)
    )  # fmt: skip
    items = range(400)
    assert list(client.run(flow, items, mode=mode).results()) == list(flow.run(items).results())


def test_a_flow_may_be_run_again_and_a_function_is_one(client: Client) -> None:
    flow = Flow(square) | plus_one
    jobs = [client.run(flow, range(n, n + 50)) for n in range(3)]
    assert [list(job.results()) for job in jobs] == [[n * n + 1 for n in range(m, m + 50)] for m in range(3)]
    assert list(client.run(square, [3]).results()) == [9]
    assert list(client.run(square, [3], mode="serial").results()) == [9]
    assert list(client.run(square, []).results()) == []


@pytest.mark.parametrize("mode", MODES)
def test_the_first_error_ends_the_job(client: Client, mode: str) -> None:
    # So slow that it has not ended when the error is read.
    job = client.run(Flow(odd_only) | work, itertools.chain([1, 3, 4], itertools.repeat(5, 2_000)), mode=mode)
    values: list[int] = []
    with pytest.raises(ValueError, match="4 is even"):
        values.extend(job.results())
    assert values in ([], [1], [1, 3])
    assert "CANCELLED" in {status.state for status in job.status()}


@pytest.mark.parametrize("mode", MODES)
def test_errors_may_be_values_in_their_places(client: Client, mode: str) -> None:
    job = client.run(Flow(odd_only) | square, range(300), mode=mode, on_error="yield")
    values = list(job.results())
    assert values[1::2] == [n * n for n in range(1, 300, 2)]
    assert [str(value.error) for value in values[::2]] == [f"{n} is even" for n in range(0, 300, 2)]
    assert {type(value) for value in values[::2]} == {Failure}
    assert sum(status.failed for status in job.status()) == 150


@pytest.mark.parametrize("mode", MODES)
def test_errors_may_be_dead_letters(client: Client, mode: str) -> None:
    job = client.run(Flow(odd_only) | square, range(20), mode=mode, on_error="dead")
    assert list(job.results()) == [n * n for n in range(1, 20, 2)]
    assert sorted(letter.value for letter in job.dead_letters()) == list(range(0, 20, 2))
    with pytest.raises(errors.DeadLetters):
        job.wait(30)


def test_a_stages_options_are_its_queues(client: Client) -> None:
    flow = Flow(work, max_workers=1, name="slow") | stage(plus_one, retries=3, workers="io", name="more")
    with client.run(flow, [1, 2]) as job:
        slow, more = job.queues
        assert (slow.name, slow.workers, more.name, more.workers) == ("slow", "cpu", "more", "io")
        metas = [client._connection.redis.hgetall(keys.of_queue(job.id, one.name, "meta")) for one in (slow, more)]
        assert (metas[0][b"max_workers"], metas[1][b"retries"]) == (b"1", b"3")
        assert list(job.results()) == [2, 3]


def test_a_bound_of_the_first_stage_is_no_bound_of_the_others(client: Client) -> None:
    job = client.run(Flow(stage(plus_one, max_workers=1)) | square, range(10), mode="streaming")
    assert list(job.results(timeout=30)) == [(n + 1) ** 2 for n in range(10)]
    first = job.queues[0]._ledger.meta()
    assert (first["max_workers"], first["slots"]) == (b"1", str(client._open().slots("cpu")).encode())


def test_results_that_are_closed_give_no_more_and_come_again_from_the_cursor(client: Client) -> None:
    job = client.run(Flow(plus_one), range(2_000), job=f"closed-{uuid.uuid4()}")
    job.wait(30)
    results = job.results(timeout=30)
    got = list(itertools.islice(results, 1_500))
    results.close()
    assert list(results) == []
    assert next(results, "no more") == "no more"
    again = list(job.results(timeout=30, cursor=results.cursor))
    assert again == [n + 1 for n in range(2_000 - len(again), 2_000)]
    assert len(got) + len(again) >= 2_000


def test_sources_run_on_workers(client: Client) -> None:
    flow = Flow(str.upper) | str.title
    job = client.run(flow, sources=[north, south])
    assert sorted(job.results()) == sorted([*(f"North {n}" for n in range(30)), *(f"South {n}" for n in range(20))])
    producers = {one.name: one.position for one in job.queues[1].status().producers}
    assert (producers["source-1"], producers["source-2"]) == (30, 20)
    assert list(client.run(flow, sources=[south], mode="streaming").results()) == [f"South {n}" for n in range(20)]
    assert sorted(client.run(flow, sources=[north, south], mode="serial").results())[0] == "North 0"


def test_a_source_that_fails_is_told(client: Client) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the tape tore")

    with pytest.raises(OSError, match="the tape tore"):
        list(client.run(square, sources=[broken]).results())


# Credits and laziness


@pytest.mark.parametrize("mode", ["auto", "streaming"])
def test_the_window_holds_an_endless_input_back(client: Client, mode: str) -> None:
    taken = itertools.count()
    numbers = (next(taken) for _ in itertools.count())
    with client.run(Flow(square) | plus_one, numbers, mode=mode, window=100) as job:
        results = job.results()
        assert list(itertools.islice(results, 500)) == [n * n + 1 for n in range(500)]
        read = 500
        assert job.feeder is not None
        until(lambda: job.feeder.blocked, "the window to be full")
        assert next(taken) <= read + 100 + 2 * 25  # and what is read at once, a quarter of the window
    assert {status.state for status in job.status()} == {"CANCELLED"}


def test_a_job_that_nobody_refers_to_is_cancelled(client: Client) -> None:
    job = client.run(square, itertools.count())
    queue = job.queues[0]
    assert next(job.results()) == 0
    del job
    gc.collect()
    assert until(lambda: queue.status().ended, "its end")
    assert queue.status().state == "CANCELLED"


def test_a_wait_for_unread_results_says_so(client: Client) -> None:
    with (
        client.run(square, range(1_000), window=50) as job,
        pytest.raises(errors.ResultsUnread, match="results to be read"),
    ):
        job.wait()


def test_results_may_be_discarded(client: Client, cluster: Cluster, name: str) -> None:
    job = client.run(square, range(1_000), window=50, results="discard", on_error="dead")
    (status,) = job.wait(60)
    assert status.done == 1_000
    with pytest.raises(errors.ConfigError, match="keeps results"):
        job.results()
    with pytest.raises(errors.ConfigError, match="'dead' where results are discarded"):
        client.run(square, [1], results="discard")


# Waiting


@pytest.mark.parametrize("mode", ["auto", "streaming"])
def test_wait_raises_what_ends_the_job(client: Client, mode: str) -> None:
    assert [status.state for status in client.run(Flow(square) | square, range(50), mode=mode).wait(60)][
        -1
    ] == "DRAINED"
    job = client.run(Flow(odd_only) | square, range(1, 3), mode=mode)
    with pytest.raises(ValueError, match="2 is even"):
        job.wait(60)


def test_results_are_there_after_a_wait(client: Client) -> None:
    job = client.run(Flow(square) | plus_one, range(100))
    job.wait(60)
    assert list(job.results()) == [n * n + 1 for n in range(100)]


def test_a_wait_ends_at_its_timeout(client: Client, cluster: Cluster, name: str) -> None:
    gate = Gate(cluster.url, name)
    with client.run(Flow(gate) | square, [1]) as job:
        gate.begun()
        with pytest.raises(errors.WaitTimeout):
            job.wait(0.05)
        with pytest.raises(errors.WaitTimeout):
            next(job.results(timeout=0.05))
        gate.open()
        assert list(job.results()) == [1]


def test_a_wait_says_which_workers_are_missing(cluster: Cluster) -> None:
    with cluster.client(worker_wait_s=0.1) as client:
        job = client.run(Flow(square, workers="nobody-serves-this") | square, [1], mode="streaming")
        with pytest.raises(errors.NoWorker, match="nobody-serves-this"):
            list(job.results(timeout=60))
        job.close()


def test_what_the_input_raises_comes_behind_the_results_of_what_came_before(client: Client) -> None:
    def broken() -> Iterator[int]:
        yield from range(10)
        raise OSError("the tape tore")

    job = client.run(Flow(square) | plus_one, broken())
    results = job.results()
    assert [next(results) for _ in range(10)] == [n * n + 1 for n in range(10)]
    with pytest.raises(OSError, match="the tape tore"):
        next(results)
    with pytest.raises(OSError, match="the tape tore"):
        job.wait(30)


def test_what_the_input_raised_is_known_before_the_queue_ends(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    read = threading.Event()
    leave = Feed.leave

    def leave_and_wait(feed: Feed) -> None:  # the feeder's thread comes no further, as where it gets no turn
        leave(feed)
        read.wait(30)

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the tape tore")

    monkeypatch.setattr(Feed, "leave", leave_and_wait)
    try:
        with pytest.raises(OSError, match="the tape tore"):
            list(client.run(square, broken()).results())
    finally:
        read.set()


def test_an_item_that_cannot_be_sent_is_an_error_of_the_input(client: Client) -> None:
    results = client.run(square, [1, 2, threading.Lock(), 4]).results()
    assert [next(results), next(results)] == [1, 4]
    with pytest.raises(errors.NotSerializable, match="item 2"):
        next(results)


# Letting go, and attaching


def test_a_job_is_found_again_by_its_id(client: Client, cluster: Cluster, name: str) -> None:
    flow = Flow(square) | plus_one
    with cluster.client() as first:
        assert first.run(flow, range(500), mode="streaming", job=name, window=20_000).detach(60) == name
    job = client.job(name)
    job.wait(60)
    expected = [n * n + 1 for n in range(500)]
    results = job.results()
    assert [next(results) for _ in range(500)] == expected
    assert list(job.results(ordered=True)) == expected
    assert list(job.results(cursor=results.cursor)) == []
    with pytest.raises(errors.ConfigError, match="no other job has had"):
        client.run(flow, [1], job=name)


@pytest.mark.parametrize("mode", ["vertical", "streaming"])
def test_errors_are_raised_in_their_places_where_a_job_is_found_again(client: Client, mode: str, name: str) -> None:
    client.run(Flow(some) | odd_only, [3, 2], mode=mode, job=name, on_error="yield").detach(60)
    results, got = client.job(name).results(timeout=30), []
    for _ in range(5):
        try:
            got.append(next(results))
        except ValueError as error:
            got.append(str(error))
    assert got == ["0 is even", 1, "2 is even", "0 is even", 1]


@pytest.mark.parametrize("flow", [Flow(square) | plus_one, Flow(batch(50, timeout_s=0.05))], ids=["map", "batch"])
def test_what_has_come_goes_on_while_the_input_keeps_waiting(client: Client, flow: Flow) -> None:
    seen = threading.Event()

    def numbers() -> Iterator[int]:
        yield from (1, 2, 3)
        assert seen.wait(60), "the first results did not come before the input went on"
        yield 4

    results = client.run(flow, numbers()).results(timeout=60)
    first = next(results)
    seen.set()
    assert len([first, *results]) > 1


def test_detach_waits_for_the_input(client: Client, cluster: Cluster, name: str) -> None:
    held = threading.Event()

    def slow() -> Iterator[int]:
        yield 1
        held.wait(60)
        yield 2

    job = client.run(square, slow(), job=name)
    with pytest.raises(errors.WaitTimeout, match="the input of job"):
        job.detach(timeout=0.05)
    held.set()
    job.detach(60)
    assert list(client.job(name).results()) == [1, 4]


def test_a_client_that_closes_gives_its_input_up(cluster: Cluster, client: Client, name: str) -> None:
    with cluster.client() as first:
        first.run(square, itertools.count(), job=name, window=100)
        job = first.job(name)
        until(lambda: job.status()[0].done, "a result")
    with pytest.raises(errors.ProducerLost):
        client.job(name).wait(60)


def test_a_cancelled_job_says_so(client: Client) -> None:
    job = client.run(square, itertools.count(), window=100)
    next(job.results())
    assert {status.state for status in job.cancel()} == {"CANCELLED"}
    with pytest.raises(errors.QueueCancelled):
        list(job.results())


# Bad input


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (lambda client: client.run(square), "items must be given, or else sources"),
        (lambda client: client.run(square, [1], sources=[south]), "items must be given, or else sources"),
        (lambda client: client.run(square, 3), "items must be iterable"),
        (lambda client: client.run(3, [1]), "a stage must be callable"),
        (lambda client: client.run(square, sources=[]), "sources must be one or more functions"),
        (lambda client: client.run(square, sources=[3]), "sources must be one or more functions"),
        (lambda client: client.run(square, [1], mode="diagonal"), "mode must be 'auto' or"),
        (lambda client: client.run(square, [1], on_error="ignore"), "on_error must be"),
        (lambda client: client.run(square, [1], results="some"), "results must be"),
        (lambda client: client.run(square, [1], window=0), "window must be a positive int"),
        (lambda client: client.run(batch(10), [1], window=19), "window must be at least twice the largest batch, 20"),
        (lambda client: client.run(square, [1], window=9, mode="horizontal"), "window must be left out"),
        (lambda client: client.run(square, itertools.count(), mode="horizontal"), "items must be an input that ends"),
        (lambda client: client.run(square, [1], job="a/b"), "job must be a non-empty string"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_put(
    client: Client, run: Callable[[Client], object], says: str
) -> None:
    before = {status.job for status in client.status()}
    with pytest.raises(errors.ConfigError, match=says):
        run(client)
    assert {status.job for status in client.status()} <= before


def test_reduce_of_nothing_is_told(client: Client) -> None:
    total = Flow(square) | reduce(operator.add)
    with pytest.raises(errors.NothingToReduce):
        client.run(total, [])
    for mode in ("auto", "streaming"):
        job = client.run(Flow(square) | filter(is_odd) | reduce(operator.add), iter([0, 2]), mode=mode)
        with pytest.raises(TypeError, match="at least one item"):
            list(job.results())
        with pytest.raises(TypeError, match="at least one item"):
            job.wait(30)
    assert list(client.run(Flow(square) | reduce(operator.add, 7), []).results()) == [7]


def test_the_end_of_an_endless_input_cannot_be_waited_for(client: Client) -> None:
    with client.run(square, itertools.count(), window=100) as job:
        for wait in (job.wait, job.detach):
            with pytest.raises(errors.ConfigError, match="called on a job whose input ends"):
                wait()


def test_an_input_that_asks_for_its_own_results_is_refused(client: Client) -> None:
    jobs: list[Any] = []
    read = threading.Event()

    def ring() -> Iterator[int]:
        yield 1
        read.wait(30)
        yield from jobs[0].results()

    jobs.append(client.run(square, ring()))
    results = jobs[0].results()
    assert next(results) == 1
    read.set()
    with pytest.raises(errors.ConfigError, match="a cycle"):
        next(results)
