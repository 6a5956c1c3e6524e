"""Functions on workers that wait for lastcall's work themselves: a slot that waits does what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures

import pytest

from lastcall import Client, Executor, Manager, current, errors
from lastcall.shared.barrier import Barrier
from tests.conftest import Cluster
from tests.functions import odd_only, produce, square
from tests.workers import Worker

pytestmark = pytest.mark.integration


def sum_of_squares(n: int) -> int:
    with Client() as client:
        return sum(client.map(square, range(n), chunksize=1, workers="few"))


def tower(n: int) -> int:
    """As many functions that wait for one another as `n` says."""
    if n == 0:
        return 0
    with Client() as client:
        return 1 + int(client.submit_to("few", tower, n - 1).result(100))


def drained(n: int) -> int:
    with Client() as client:
        queue = client.queue(f"inner-{n}", square, workers="few", max_workers=1)
        produce(queue, "p", list(range(n)))
        return queue.join(100).done


def failing(n: int) -> object:
    with Client() as client:
        return client.submit_to("few", odd_only, n).exception(100)


def leave_with_a_call_out(n: int) -> int:
    with Client() as client:
        client.submit_to("few", square, n)
    return n


def wait_for_all(n: int) -> int:
    with Client() as client:
        calls = [client.submit_to("few", square, n) for n in range(n)]
        done, left = futures.wait(calls, 100)
        assert not left
        return sum(call.result(0) for call in done)


def take_as_completed(n: int) -> int:
    with Client() as client, Executor(2, client=client, workers="few") as executor:
        calls = [executor.submit(square, n) for n in range(n // 2)]
        calls += [client.submit_to("few", square, n) for n in range(n // 2, n)]
        return sum(call.result(0) for call in futures.as_completed(calls))


def time_out(n: int) -> int:
    with Client() as client:
        nobodys = client.submit_to("nobody", square, n)
        done, left = futures.wait([nobodys], 0.2)
        assert nobodys.cancel()
        return len(left) - len(done)


def join_the_last_of_two(n: int) -> int:
    with Client() as client:
        last = client.queue(f"last-{n}", square, job=f"two-{n}", workers="few")
        first = client.queue(f"first-{n}", square, into=last, workers="few")
        produce(first, "p", list(range(n)))
        return last.join(100).done


def put_into_a_full_queue(n: int) -> int:
    with Client() as client:
        queue = client.queue(f"full-{n}", square, workers="few", maxsize=2)
        produce(queue, "p", list(range(20)))
        return queue.join(100).done


def exits(n: int) -> None:
    raise SystemExit(n)


def wait_for_one_that_exits(n: int) -> str:
    with Client() as client:
        queue = client.queue(f"exits-{n}", exits, workers="few", crash_limit=2)
        produce(queue, "p", [1])
        try:
            queue.join(100)
        except errors.DeadLetters as error:
            return str(error.dead)
        return "none"


@pytest.fixture(scope="module", params=["prefork", "threads"])
def few(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A worker with two slots."""
    from tests.conftest import start_server

    server = start_server(tcp=False)
    with Worker(server.unix_url, "a key for nested work", "few", queues="few", pool=request.param, slots=2) as worker:
        worker.ready()
        yield Cluster(server, server.unix_url, "a key for nested work", (worker,))
    server.close()


def test_maps_in_all_slots_at_once_end(few: Cluster) -> None:
    with few.client() as client:
        got = list(client.map(sum_of_squares, [10] * 6, chunksize=1, workers="few", timeout=100))
        assert got == [sum(n * n for n in range(10))] * 6


def test_calls_that_wait_for_calls_end_however_deep(few: Cluster) -> None:
    with few.client() as client:
        assert [f.result(100) for f in [client.submit_to("few", tower, 5) for _ in range(3)]] == [5, 5, 5]


def test_queues_that_are_joined_in_all_slots_end(few: Cluster) -> None:
    with few.client() as client:
        assert list(client.map(drained, range(20, 24), chunksize=1, workers="few", timeout=100)) == [20, 21, 22, 23]


@pytest.mark.parametrize(
    ("function", "n", "expected"),
    [(leave_with_a_call_out, 7, 7), (join_the_last_of_two, 9, 9), (put_into_a_full_queue, 3, 20)],
)
def test_other_waits_in_all_slots_end(few: Cluster, function: Callable[[int], int], n: int, expected: int) -> None:
    with few.client() as client:
        calls = [client.submit_to("few", function, n + 100 * at) for at in range(3)]
        got = [future.result(100) for future in calls]
        assert got == [n + 100 * at if expected == n else expected for at in range(3)]


@pytest.mark.parametrize("function", [wait_for_all, take_as_completed])
def test_waits_for_many_futures_in_all_slots_end(few: Cluster, function: Callable[[int], int]) -> None:
    with few.client() as client:
        calls = [client.submit_to("few", function, 8) for _ in range(4)]
        assert [future.result(100) for future in calls] == [sum(n * n for n in range(8))] * 4


def test_a_wait_for_futures_ends_at_its_timeout(few: Cluster) -> None:
    with few.client() as client:
        assert client.submit_to("few", time_out, 1).result(100) == 1


def test_an_item_that_ends_its_process_does_not_end_who_waits_for_it(few: Cluster) -> None:
    with few.client() as client:
        calls = [client.submit_to("few", wait_for_one_that_exits, n) for n in range(3)]
        assert [future.result(100) for future in calls] == ["1"] * 3


def test_errors_come_out_of_what_was_done_in_place(few: Cluster) -> None:
    with few.client() as client:
        got = [client.submit_to("few", failing, n) for n in (1, 2, 4)]
        assert got[0].result(100) is None
        assert [str(future.result(100)) for future in got[1:]] == ["2 is even", "4 is even"]


def test_a_wait_outside_of_a_worker_helps_nobody(few: Cluster) -> None:
    with few.client() as client, pytest.raises(errors.WaitTimeout):
        next(client.map(square, [1], workers="nobody", timeout=0.2))


def meet(barrier: Barrier) -> tuple[str, int]:
    return current.item, barrier.wait(20)


def test_calls_that_one_slot_has_in_hand_may_wait_for_one_another(few: Cluster) -> None:
    with few.client() as client, Manager(client=client) as manager:
        for parties in (2, 5, 9):
            # Such short ones that slots then take several at once.
            futures.wait([client.submit_to("few", square, n) for n in range(300)], 100)
            barrier = manager.Barrier(parties)
            met = [client.submit_to("few", meet, barrier) for _ in range(parties)]
            items, numbers = zip(*(one.result(100) for one in met), strict=True)
            assert len(set(items)) == parties  # `current` is each one's own
            assert sorted(numbers) == list(range(parties))
            assert not barrier.broken


def raise_after(barrier: Barrier, n: int) -> int:
    barrier.wait(20)
    if n % 2:
        raise ValueError(n)
    return n


def test_what_is_done_meanwhile_keeps_its_own_outcome(few: Cluster) -> None:
    with few.client() as client, Manager(client=client) as manager:
        futures.wait([client.submit_to("few", square, n) for n in range(300)], 100)
        barrier = manager.Barrier(6)
        met = [client.submit_to("few", raise_after, barrier, n) for n in range(6)]
        assert [str(one.exception(100) or one.result()) for one in met] == [str(n) for n in range(6)]
