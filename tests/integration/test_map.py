"""client.map(): what goes in, what comes out, and when."""

from __future__ import annotations

import functools
import itertools
import math
import operator
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lastcall import Client, errors
from lastcall.errors import ConfigError, NotSerializable, QueueCancelled, RemoteError, RemoteTraceback
from lastcall.feed import Feed
from lastcall.state.records import Status
from tests import functions
from tests.conftest import Cluster
from tests.functions import Gate, Scale, square
from tests.workers import until

pytestmark = pytest.mark.integration


class Read:
    """An iterable that counts how much of it was read, and says when it is closed."""

    def __init__(self, items: Iterator[Any]) -> None:
        self.items = items
        self.read = 0

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            self.read += 1
            yield item


def ended(client: Client, job: str) -> Status:
    """Wait until a job's one queue has ended."""
    (queue,) = client.job(job).queues
    return until(lambda: status if (status := queue.status()).ended else None, f"job {job} to end")


# What comes out


def test_results_come_in_the_order_of_the_input(client: Client) -> None:
    assert list(client.map(square, range(5_000))) == [n * n for n in range(5_000)]


def test_unordered_results_are_the_same_set_and_the_quick_ones_come_first(client: Client, cluster: Cluster) -> None:
    gate = Gate(cluster.url, "unordered")
    results = client.map(_hold_first, [(gate, n) for n in range(20)], ordered=False, chunksize=1)
    early = list(itertools.islice(results, 19))  # while the first item is held
    assert sorted(early) == list(range(1, 20))
    gate.open()
    assert list(results) == [0]


def _hold_first(item: tuple[Gate, int]) -> int:
    gate, n = item
    return gate(n) if n == 0 else n


def test_ordered_results_wait_for_the_first(client: Client, cluster: Cluster) -> None:
    gate = Gate(cluster.url, "ordered")
    results = client.map(_hold_first, [(gate, n) for n in range(20)], chunksize=1)
    got: list[int] = []
    thread = threading.Thread(target=got.extend, args=(results,))
    thread.start()
    gate.begun()
    assert got == []
    gate.open()
    thread.join(30)
    assert got == list(range(20))


def test_several_iterables_go_side_by_side_up_to_the_shortest(client: Client) -> None:
    assert list(client.map(functions.add, [1, 2, 3], (10, 20, 30, 40), itertools.count(100))) == [111, 123, 135]
    assert list(client.map(operator.add, "ab", "cd")) == ["ac", "bd"]


def test_an_item_that_is_a_tuple_is_one_argument(client: Client) -> None:
    assert list(client.map(functions.length, [(1, 2), (), (1, 2, 3)])) == [2, 0, 3]


@pytest.mark.parametrize("items", [[], (), iter(()), {}, range(0)])
def test_an_empty_input_gives_nothing_and_ends(client: Client, items: Any) -> None:
    results = client.map(square, items)
    assert list(results) == []
    assert ended(client, results.job).state == "DRAINED"


def test_a_map_whose_results_were_all_read_is_drained(client: Client) -> None:
    results = client.map(square, range(100))
    assert sum(results) == sum(n * n for n in range(100))
    status = ended(client, results.job)
    assert (status.state, status.done, status.unread) == ("DRAINED", 100, 0)


def test_any_iterable_is_taken(client: Client) -> None:
    assert sorted(client.map(square, {1, 2, 3})) == [1, 4, 9]
    assert list(client.map(str.upper, {"a": 1, "b": 2})) == ["A", "B"]
    assert list(client.map(square, (n for n in [3, 1]))) == [9, 1]


# How far ahead it reads


def test_endless_input_is_read_no_further_ahead_than_the_window(client: Client) -> None:
    endless = Read(itertools.count())
    results = client.map(square, endless, chunksize=10)
    most_ahead = 0
    for at, value in enumerate(results):
        assert value == at * at
        most_ahead = max(most_ahead, endless.read - at)
        if at == 3_000:
            break
    # 2 slots: 8 chunks a slot at most, kept or under way, and the one that is handed out.
    assert most_ahead <= 10 * (8 * 2 + 1)


def test_a_result_that_is_held_up_holds_up_the_reading(client: Client, cluster: Cluster) -> None:
    gate = Gate(cluster.url, "held-up")
    endless = Read((gate, n) for n in itertools.count())
    results = client.map(_hold_first, endless, chunksize=1)
    reader = ThreadPoolExecutor(1)
    first = reader.submit(next, results)
    gate.begun()
    (queue,) = client.job(results.job).queues
    until(lambda: queue.status().done == 15, "the window to be full")  # 16 chunks, of which one is held
    assert endless.read == 16
    gate.open()
    assert first.result(30) == 0
    reader.shutdown()


def test_nothing_is_kept_of_what_was_read(client: Client) -> None:
    results = client.map(square, iter(range(90_000)), chunksize=500)
    (queue,) = client.job(results.job).queues
    tracemalloc.start()
    try:
        next(itertools.islice(results, 10_000, 10_000), None)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        for at, _ in enumerate(results):
            if at % 10_000 == 0:
                stored = client._connection.redis.xlen(queue._ledger.results_key)
                assert stored <= 8 * 2  # a chunk's results, for each chunk of the window at most
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1_000_000
    assert peak - before < 4_000_000  # the window: 16 chunks of 500 ints


def test_input_that_comes_slowly_is_worked_on_meanwhile(client: Client) -> None:
    asked: list[int] = []
    seen: list[int] = []

    def slow() -> Iterator[int]:
        for n in range(6):
            asked.append(n)
            yield n
            # Not before the one before the last was answered: a map that first reads ahead would wait for ever.
            if n >= 2:
                assert len(seen) >= n - 2
            until_answered.wait(0.05)

    until_answered = threading.Event()
    for value in client.map(square, slow()):
        seen.append(value)
    assert seen == [0, 1, 4, 9, 16, 25]


# Chunks


def test_a_chunksize_is_kept(client: Client) -> None:
    results = client.map(functions.who, range(95), chunksize=10)
    (queue,) = client.job(results.job).queues
    assert len(list(results)) == 95
    assert queue.status().producers[0].position == 95
    (sequence,) = [record.split()[2] for record in client._connection.redis.hvals(queue._ledger._own[6])]
    assert int(sequence) == 10  # chunks


def test_chunks_grow_for_quick_functions_and_do_not_for_slow_ones(client: Client) -> None:
    def chunks(function: Any, items: Any) -> int:
        results = client.map(function, iter(items))
        (queue,) = client.job(results.job).queues
        assert len(list(results)) == len(items)
        (sequence,) = [record.split()[2] for record in client._connection.redis.hvals(queue._ledger._own[6])]
        return int(sequence)

    assert chunks(square, range(50_000)) < 100
    assert chunks(functions.work, [60] * 20) == 20


def test_the_end_of_a_known_input_is_cut_finer(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise one slot would have the last big chunk to itself.
    sizes: list[int] = []
    seal = Feed._seal

    def record(self: Feed, items: list[Any]) -> None:
        sizes.append(len(items))
        seal(self, items)

    monkeypatch.setattr(Feed, "_seal", record)
    assert len(list(client.map(functions.work, [0.2] * 4_000))) == 4_000
    known, sizes = sizes, []
    assert len(list(client.map(functions.work, iter([0.2] * 4_000)))) == 4_000
    assert max(known) > 40
    assert max(known[-5:]) <= max(known) / 4
    assert sizes[-2] > max(sizes) / 4


# Errors


@pytest.mark.parametrize("bad", [0, -1, 1.5, "10", True])
def test_a_chunksize_that_is_no_positive_int_is_refused(client: Client, bad: Any) -> None:
    with pytest.raises(ConfigError, match=f"chunksize must be a positive int, got {bad!r}"):
        client.map(square, [1], chunksize=bad)


def test_an_input_that_is_not_iterable_is_refused(client: Client) -> None:
    with pytest.raises(ConfigError, match="iterable 1 must be iterable, got int"):
        client.map(functions.add, [1], 5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="iterables must be at least one, got none"):
        client.map(square)


def test_an_error_comes_as_itself_after_the_results_before_it(client: Client) -> None:
    results = client.map(functions.odd_only, [1, 3, 5, 6, 7], chunksize=2)
    got = []
    with pytest.raises(ValueError, match="6 is even") as caught:
        got.extend(results)
    assert got == [] or got == [1, 3, 5]
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "odd_only" in str(caught.value.__cause__)
    assert 'raise ValueError(f"{n} is even")' in str(caught.value.__cause__)
    assert "lastcall_worker" not in str(caught.value.__cause__)
    assert ended(client, results.job).state in ("CANCELLED", "DRAINED")


def test_an_error_cancels_what_is_left(client: Client) -> None:
    results = client.map(functions.odd_only, itertools.chain([2], itertools.repeat(1)))
    with pytest.raises(ValueError, match="2 is even"):
        list(results)
    assert ended(client, results.job).state == "CANCELLED"
    assert list(results) == []


def test_errors_keep_arguments_notes_and_fields(client: Client) -> None:
    def raised(how: str) -> BaseException:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            list(client.map(functions.fail, [how]))
        return caught.value

    assert raised("value").args == ("it is 7", 7)
    noted = raised("noted")
    assert isinstance(noted, KeyError)
    assert noted.__notes__ == ["in the third jar"]
    odd = raised("odd")
    assert isinstance(odd, functions.Odd)
    assert (odd.code, odd.where, str(odd)) == (7, "the attic", "code 7 in the attic")
    wild = raised("wild")
    assert isinstance(wild, RemoteError)
    assert str(wild) == "tests.functions.Wild: nobody can hold me"
    chained = raised("chained")
    assert isinstance(chained, RuntimeError)
    assert "it is 7" in str(chained.__cause__)


def test_an_input_that_raises_does_so_after_the_results_of_what_it_gave(client: Client) -> None:
    def three() -> Iterator[int]:
        yield from (1, 2, 3)
        raise LookupError("no fourth")

    for options in ({}, {"chunksize": 2}, {"ordered": False}):
        results = client.map(square, three(), **options)  # type: ignore[arg-type]
        got = []
        with pytest.raises(LookupError, match="no fourth"):
            got.extend(next(results) for _ in range(4))
        with pytest.raises(StopIteration):
            next(results)
        assert ended(client, results.job).state in ("DRAINED", "CANCELLED")


def test_an_argument_that_cannot_be_pickled_is_named_by_its_number(client: Client) -> None:
    def items() -> Iterator[Any]:
        yield from range(30)
        yield threading.Lock()

    with pytest.raises(NotSerializable) as caught:
        list(client.map(functions.same, items()))
    assert caught.value.index == 30
    assert "cannot send item 30 (a _thread.lock)" in str(caught.value)
    assert "pickle" in str(caught.value)


def test_a_result_that_cannot_be_pickled_is_named_by_its_number(client: Client) -> None:
    for chunksize in (1, 3, 100):
        results = client.map(functions.unpicklable_result, range(3 - 3, 6), chunksize=chunksize)
        with pytest.raises(NotSerializable) as caught:
            list(results)
        assert "cannot send the result of item 3 (a _thread.lock)" in str(caught.value)
        assert caught.value.index == 3


def test_an_item_over_the_limit_is_named_by_its_number(cluster: Cluster) -> None:
    with cluster.client(max_item_bytes=50_000) as client:
        with pytest.raises(errors.ItemTooLarge) as caught:
            list(client.map(functions.length, [b"x" * 10] * 4 + [b"x" * 60_000], chunksize=3))
        assert caught.value.index == 4
        for part in ("item 4 has 60,0", "the limit is 50,000", "LASTCALL_MAX_ITEM_BYTES"):
            assert part in str(caught.value)


def test_a_chunk_that_would_be_over_the_limit_is_split(cluster: Cluster) -> None:
    with cluster.client(max_item_bytes=50_000) as client:
        results = client.map(functions.length, [b"x" * 20_000] * 9, chunksize=9)
        assert list(results) == [20_000] * 9


# Its end


def test_leaving_a_loop_cancels_what_is_left(client: Client) -> None:
    job = ""
    for value in (results := client.map(square, itertools.count())):
        job = results.job
        if value > 100:
            break
    del results
    assert ended(client, job).state == "CANCELLED"


def test_leaving_a_loop_over_a_map_without_a_name_cancels_it_at_once(client: Client) -> None:
    before = {status.job for status in client.status()}
    for value in client.map(square, itertools.count()):
        if value > 100:
            break
    # No garbage collection has to come first.
    assert not [status for status in client.status() if status.job.startswith("map-") and status.job not in before]


def test_close_cancels(client: Client) -> None:
    results = client.map(square, itertools.count())
    next(results)
    results.close()
    assert ended(client, results.job).state == "CANCELLED"
    assert list(results) == []
    results.close()


def test_a_map_that_is_never_read_ends_with_its_object(client: Client) -> None:
    results = client.map(square, itertools.count())
    job = results.job
    del results
    assert ended(client, job).state == "CANCELLED"


def test_a_map_that_was_cancelled_elsewhere_says_so(client: Client, cluster: Cluster) -> None:
    gate = Gate(cluster.url, "cancelled-map")
    results = client.map(gate, range(3), chunksize=1)
    gate.begun(2)
    client.job(results.job).cancel()
    with pytest.raises(QueueCancelled, match=f"{results.job}/map was cancelled"):
        list(results)
    gate.open(2)


# Several


def test_two_maps_at_once_take_turns(client: Client) -> None:
    squares, sums = client.map(square, range(2_000)), client.map(functions.add, range(2_000), range(2_000))
    for n, (one, other) in enumerate(zip(squares, sums, strict=True)):
        assert (one, other) == (n * n, 2 * n)


def test_maps_from_many_threads(client: Client) -> None:
    def run(start: int) -> list[int]:
        return list(client.map(square, range(start, start + 500)))

    with ThreadPoolExecutor(6) as threads:
        for start, values in zip(range(6), threads.map(run, range(6)), strict=True):
            assert values == [n * n for n in range(start, start + 500)]


def test_max_workers_is_a_cap_on_slots(client: Client, cluster: Cluster) -> None:
    gate = Gate(cluster.url, "max-workers")
    results = client.map(gate, range(3), chunksize=1, max_workers=1)
    (queue,) = client.job(results.job).queues
    assert queue._ledger.meta()["max_workers"] == b"1"
    for n in range(3):
        assert gate.begun() == [repr(n)]
        (status,) = client.job(results.job).status()
        assert (status.leased, status.tickets) == (1, 1)
        gate.open()
    assert list(results) == list(range(3))


def test_workers_names_the_celery_queue(client: Client) -> None:
    places = set(client.map(functions.who, [20] * 40, workers="io", chunksize=1))
    assert len({process for process, _ in places}) == 1  # threads of one
    processes = {process for process, _ in client.map(functions.who, range(40), workers="cpu", chunksize=1)}
    assert not processes & {process for process, _ in places}


# What functions there are


@pytest.mark.parametrize(
    "function",
    [
        lambda n: 3 * n,
        functools.partial(operator.mul, 3),
        functools.partial(functools.partial(functions.add, 0), c=0),
        Scale(3),
        Scale(3).times,
        (lambda factor: lambda n: factor * n)(3),
        functools.partial(lambda factor, n: factor * n, 3),
        (3).__mul__,
    ],
    ids=["lambda", "partial", "partial of partial", "instance", "method", "closure", "partial of lambda", "built in"],
)
def test_functions_of_every_kind_travel(client: Client, function: Any) -> None:
    if isinstance(function, functools.partial) and function.keywords:
        assert list(client.map(function, [5, 6])) == [5, 6]
    else:
        assert list(client.map(function, range(4))) == [0, 3, 6, 9]


def test_built_in_functions_and_types_travel(client: Client) -> None:
    assert list(client.map(math.sqrt, [4, 9])) == [2, 3]
    assert list(client.map(complex, [1], [2])) == [1 + 2j]
    assert next(client.map(functions.Scale, [2]))(4) == 8


def test_something_that_cannot_be_called_is_refused(client: Client) -> None:
    with pytest.raises(ConfigError, match="function must be callable, got a value of type str"):
        client.map("square", [1])  # type: ignore[arg-type]


# Waits


def test_a_timeout_is_for_each_result_and_says_what_it_waited_for(client: Client, cluster: Cluster) -> None:
    gate = Gate(cluster.url, "map-timeout")
    results = client.map(_hold_first, [(gate, n) for n in (1, 0)], chunksize=1, timeout=0.3)
    assert next(results) == 1
    with pytest.raises(errors.WaitTimeout, match=r"waited \d+\.\d s for results of queue map-.*/map \(.*1 running"):
        next(results)
    assert ended(client, results.job).state == "CANCELLED"
    gate.open()
