"""lastcall.Pool beside multiprocessing.Pool: each test that takes `pools` is run with both, so that what it promises is
what multiprocessing does.
"""

from __future__ import annotations

import collections
import functools
import gc
import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]
from typing import Any

import pytest

import lastcall
from lastcall import Client, errors
from tests import functions
from tests.conftest import Cluster
from tests.functions import Deadly, Gate, add, fail, gate_of, odd_only, pass_in_turn, same, square, work
from tests.workers import until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

Pools = Callable[..., Any]
ITERATORS = ("imap", "imap_unordered")
MAPS = ("map", "map_async", *ITERATORS)
LATER = ("apply_async", "map_async")


@pytest.fixture(params=["multiprocessing", "lastcall"])
def pools(request: pytest.FixtureRequest) -> Iterator[Pools]:
    """Makes pools of one kind or the other, of two processes if nothing is said."""
    made: list[Any] = []
    ours = request.param == "lastcall"
    client: Client | None = request.getfixturevalue("client") if ours else None

    def make(processes: Any = 2, *args: Any, **options: Any) -> Any:
        if client is not None:
            pool: Any = lastcall.Pool(processes, *args, client=client, **options)
        else:
            pool = multiprocessing.get_context("fork").Pool(processes, *args, **options)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


@pytest.fixture
def pool(pools: Pools) -> Any:
    return pools()


@pytest.fixture
def gate(cluster: Cluster, name: str) -> Gate:
    return Gate(cluster.url, name)


def gathered(pool: Any, method: str, function: Any, items: Any, *chunksize: int) -> list[Any]:
    """What one of the maps comes to."""
    results = getattr(pool, method)(function, items, *chunksize)
    return list(results.get(60) if method.endswith("async") else results)


def in_thread(function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    came: list[Any] = []
    thread = threading.Thread(target=lambda: came.append(function()), daemon=True)
    thread.start()
    return thread, came


# The article's table: multi-args, concurrence, blocking, ordered results


TABLE = [
    ("map", False, True, True, True),
    ("apply", True, False, True, False),
    ("map_async", False, True, False, True),
    ("apply_async", True, True, False, False),
]


def start(pool: Any, method: str, function: Any, items: list[Any], collect: Callable[[Any], Any]) -> Any:
    """Run items as programs do it by this method; gives what the last call gave."""
    if method == "map":
        collect(pool.map(function, items, 1))
        return None
    if method == "map_async":
        return pool.map_async(function, items, 1, callback=collect)
    if method == "apply":
        for item in items:
            collect(pool.apply(function, (item,)))
        return None
    return [pool.apply_async(function, (item,), callback=collect) for item in items]


@pytest.mark.parametrize(("method", "several", "concurrent", "blocking", "ordered"), TABLE)
def test_the_table_row_by_row(
    pool: Any, cluster: Cluster, name: str, method: str, several: bool, concurrent: bool, blocking: bool, ordered: bool
) -> None:
    # Multi-args
    if several:
        got = getattr(pool, method)(add, (1, 2), {"c": 3})
        assert (got.get(60) if method in LATER else got) == 6
    else:
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            gathered(pool, method, add, [(1, 2)])

    gates = {which: Gate(cluster.url, f"{name}-{which}") for which in "ab"}
    collected: list[Any] = []
    through = functools.partial(pass_in_turn, gates)
    thread, _ = in_thread(lambda: start(pool, method, through, ["a", "b"], collected.append))

    # Concurrence
    gates["a"].begun()
    if concurrent:
        gates["b"].begun()
    # Blocking
    if blocking:
        assert thread.is_alive()
    else:
        thread.join(30)
        assert not thread.is_alive()
    assert collected == []
    # Ordered results: b is done first, where it may
    if concurrent:
        gates["b"].open()
        if ordered:
            gates["a"].open()
            until(lambda: collected, "the results")
            assert collected == [["a", "b"]]
        else:
            until(lambda: collected, "the first result")
            assert collected == ["b"]
            gates["a"].open()
            until(lambda: len(collected) == 2, "the second result")
            assert collected == ["b", "a"]
    else:
        gates["a"].open()
        gates["b"].begun()  # not before: there is one call at a time
        assert collected == ["a"]
        gates["b"].open()
        until(lambda: len(collected) == 2, "the second result")
    thread.join(30)


def test_imap_is_ordered_and_concurrent_and_does_not_block_and_unordered_gives_what_is_done_first(
    pool: Any, cluster: Cluster, name: str
) -> None:
    for method, first in (("imap", "a"), ("imap_unordered", "b")):
        gates = {which: Gate(cluster.url, f"{name}-{method}-{which}") for which in "ab"}
        results = getattr(pool, method)(functools.partial(pass_in_turn, gates), "ab")
        for gate in gates.values():
            gate.begun()
        gates["b"].open()
        if method == "imap":
            with pytest.raises(multiprocessing.TimeoutError):
                results.next(timeout=0.1)
            gates["a"].open()
        assert results.next(timeout=30) == first
        gates["a"].open()
        assert len(list(results)) == 1


# Calls


def test_apply_gives_what_the_function_returns_and_raises_what_it_raises(pool: Any) -> None:
    assert pool.apply(square, (7,)) == 49
    assert pool.apply(functions.keyword_only, (), {"n": 3}) == 3
    assert pool.apply(square, [7]) == 49  # any iterable
    with pytest.raises(ValueError, match="4 is even"):
        pool.apply(odd_only, (4,))


def test_an_exception_comes_as_itself_with_the_remote_traceback_as_its_cause(pool: Any) -> None:
    with pytest.raises(ValueError, match="it is 7") as caught:
        pool.apply(fail, ("value",))
    assert caught.value.args == ("it is 7", 7)
    cause = caught.value.__cause__
    assert type(cause).__name__ == "RemoteTraceback"
    assert 'raise ValueError("it is 7", 7)' in str(cause)
    with pytest.raises(ValueError, match="it is 7") as caught:
        pool.map(fail, ["value"])
    assert "in fail" in str(caught.value.__cause__)


def test_a_result_says_whether_it_is_ready_and_whether_it_was_successful(pool: Any, gate: Gate) -> None:
    result = pool.apply_async(gate, (1,))
    gate.begun()
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    assert result.wait(0.01) is None
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.01)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0)
    gate.open()
    assert result.wait(30) is None
    assert result.ready()
    assert result.successful()
    assert result.get() == result.get(0) == 1
    failed = pool.apply_async(odd_only, (2,))
    failed.wait(30)
    assert failed.ready()
    assert not failed.successful()
    for _ in range(2):
        with pytest.raises(ValueError, match="2 is even"):
            failed.get()


def test_callbacks_are_called_by_one_thread_and_the_result_is_ready_after_them(pool: Any) -> None:
    called: list[tuple[Any, int, bool]] = []
    results: list[Any] = []

    def note(value: Any) -> None:
        until(lambda: len(results) > len(called), "the result to be known")
        called.append((value, threading.get_ident(), results[-1].ready()))

    for n in (1, 3):
        results.append(pool.apply_async(odd_only, (n,), callback=note, error_callback=pytest.fail))
        assert results[-1].get(30) == n
    results.append(pool.apply_async(odd_only, (2,), callback=pytest.fail, error_callback=note))
    with pytest.raises(ValueError, match="2 is even"):
        results[-1].get(30)
    results.append(pool.map_async(odd_only, [1, 3], callback=note))
    results[-1].get(30)
    results.append(pool.map_async(odd_only, [1, 2, 3], 1, pytest.fail, note))
    with pytest.raises(ValueError, match="2 is even"):
        results[-1].get(30)
    values, threads, ready = zip(*called, strict=True)
    assert [str(value) for value in values] == ["1", "3", "2 is even", "[1, 3]", "2 is even"]
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()
    assert not any(ready)


def test_callbacks_of_one_process_come_in_the_order_of_the_calls(pools: Pools) -> None:
    called: list[int] = []
    pool = pools(1)
    for n in range(100):
        pool.apply_async(square, (n,), callback=called.append)
    pool.close()
    pool.join()
    assert called == [n * n for n in range(100)]


def test_a_callback_may_call_the_pool_and_terminate_it(pool: Any) -> None:
    again: list[Any] = []
    pool.apply_async(square, (3,), callback=lambda n: again.append(pool.apply_async(square, (n,)))).get(30)
    assert again[0].get(30) == 81
    over = threading.Event()

    def end(_: Any) -> None:
        pool.terminate()
        over.set()

    pool.apply_async(square, (3,), callback=end)
    assert over.wait(30)
    pool.join()


# Maps


@pytest.mark.parametrize("method", ["map", "map_async", "imap"])
def test_maps_give_results_in_the_order_of_the_items(pool: Any, method: str) -> None:
    expected = [n * n for n in range(500)]
    assert gathered(pool, method, square, range(500)) == expected
    assert gathered(pool, method, square, (n for n in range(500))) == expected
    assert gathered(pool, method, square, list(range(500)), 7) == expected
    assert gathered(pool, method, square, [5], 100) == [25]


def test_imap_unordered_gives_them_all(pool: Any) -> None:
    assert sorted(pool.imap_unordered(square, range(500))) == [n * n for n in range(500)]
    assert sorted(pool.imap_unordered(square, range(500), chunksize=20)) == [n * n for n in range(500)]


def test_starmap_takes_tuples_of_arguments(pool: Any) -> None:
    assert pool.starmap(add, [(1, 2), (3, 4, 5)]) == [3, 12]
    assert pool.starmap_async(add, iter([(1, 2), (3, 4, 5)]), 1).get(30) == [3, 12]
    assert pool.starmap(add, [[1, 2]]) == [3]
    with pytest.raises(TypeError, match="int"):
        pool.starmap(add, [5])
    called: list[Any] = []
    pool.starmap_async(add, [(1, 2)], callback=called.append).get(30)
    assert called == [[3]]


def test_maps_of_nothing(pool: Any) -> None:
    called: list[Any] = []
    for items in ([], (), iter([])):
        assert pool.map(square, items) == []
        assert pool.starmap(add, items) == []
        result = pool.map_async(square, items, callback=called.append)
        assert result.get(30) == []
        assert result.successful()
        assert list(pool.imap(square, items)) == []
        assert list(pool.imap_unordered(square, items)) == []
    assert called == []


def test_a_map_does_all_items_before_it_raises(pool: Any, gate: Gate) -> None:
    result = pool.map_async(gate_of, [5, (gate, 1)], 1)  # the first cannot be taken apart
    gate.begun()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.3)
    gate.open()
    with pytest.raises(TypeError, match="int"):
        result.get(30)


@pytest.mark.parametrize("method", ITERATORS)
def test_an_error_in_an_imap_is_raised_in_its_place_and_the_rest_come_behind_it(pools: Pools, method: str) -> None:
    results = getattr(pools(1), method)(odd_only, [1, 2, 3, 4, 5])
    came: list[Any] = []
    for _ in range(5):
        try:
            came.append(next(results))
        except ValueError as error:
            came.append(str(error))
    assert came == [1, "2 is even", 3, "4 is even", 5]
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(results)


def test_a_map_reads_an_iterable_that_does_not_say_its_length_at_once(pool: Any) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    for method in ("map", "map_async", "starmap", "starmap_async"):
        with pytest.raises(OSError, match="the disk is gone"):
            getattr(pool, method)(square, items())
        with pytest.raises(TypeError, match="not iterable"):
            getattr(pool, method)(square, 5)


@pytest.mark.parametrize("method", ITERATORS)
def test_an_imap_raises_what_its_iterable_raises_behind_what_came_before(pools: Pools, method: str) -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise OSError("the disk is gone")

    results = getattr(pools(1), method)(square, items())
    assert [next(results), next(results)] == [1, 4]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    results = getattr(pools(1), method)(square, 5)
    with pytest.raises(TypeError, match="not iterable"):
        next(results)


def test_a_map_raises_what_an_iterable_with_a_length_raises(pool: Any) -> None:
    class Broken:
        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Iterator[int]:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        pool.map_async(square, Broken(), 1).get(30)


def test_an_imap_may_be_read_when_the_pool_was_joined(pool: Any) -> None:
    results = pool.imap_unordered(square, range(20_000), 500)
    pool.imap(square, range(10))  # nobody reads this one
    pool.close()
    pool.join()
    assert sorted(results) == [n * n for n in range(20_000)]


def test_an_imap_of_an_imap(pool: Any) -> None:
    assert list(pool.imap(square, pool.imap(square, range(50)))) == [n**4 for n in range(50)]


def test_an_imap_starts_before_its_iterable_has_ended(pool: Any) -> None:
    more = threading.Event()

    def items() -> Iterator[int]:
        yield 3
        assert more.wait(30)
        yield 4

    results = pool.imap(square, items())
    assert results.next(timeout=30) == 9
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(timeout=0.1)
    more.set()
    assert list(results) == [16]


# What cannot be sent


def test_an_argument_that_cannot_be_pickled_is_raised_by_the_result_and_the_pool_goes_on(pool: Any) -> None:
    told: list[Any] = []
    result = pool.apply_async(same, (threading.Lock(),), error_callback=told.append)
    with pytest.raises(TypeError, match="lock"):
        result.get(30)
    (error,) = told
    assert isinstance(error, TypeError)
    with pytest.raises(TypeError, match="lock"):
        pool.map(same, [1, threading.Lock(), 3], 1)
    with pytest.raises(TypeError, match="lock"):
        pool.apply(same, (), {"value": threading.Lock()})
    assert pool.map(same, [1, 2, 3]) == [1, 2, 3]


def test_an_item_of_an_imap_that_cannot_be_pickled_is_raised_in_its_place(pools: Pools) -> None:
    results = pools(1).imap(same, iter([threading.Lock(), 1, threading.Lock(), 2, 3, threading.Lock()]))
    came: list[Any] = []
    for _ in range(6):
        try:
            came.append(next(results))
        except TypeError:
            came.append("?")
    assert came == ["?", 1, "?", 2, 3, "?"]
    assert list(results) == []


def test_a_result_that_cannot_be_pickled(pool: Any) -> None:
    with pytest.raises(MaybeEncodingError, match="lock") as caught:
        pool.apply(functions.unpicklable_result, (3,))
    assert "lock" in caught.value.exc
    assert "lock" in caught.value.value
    with pytest.raises(MaybeEncodingError, match="lock"):
        pool.map(functions.unpicklable_result, [1, 2, 3], 1)
    results = pool.imap(functions.unpicklable_result, [2, 3, 4])
    assert next(results) == 2
    with pytest.raises(MaybeEncodingError, match="lock"):
        next(results)
    assert next(results) == 4


def test_what_is_not_callable_is_a_type_error(pool: Any) -> None:
    for result in (pool.apply_async(5), pool.map_async(5, [1])):
        with pytest.raises(TypeError, match="'int' object is not callable"):
            result.get(30)
    with pytest.raises(TypeError, match="'int' object is not callable"):
        next(pool.imap(5, [1]))


def test_arguments_that_do_not_fit_are_a_type_error_of_the_result(pool: Any) -> None:
    for result in (pool.apply_async(square, 5), pool.apply_async(square, (1,), 5), pool.apply_async(square, (1, 2))):
        with pytest.raises(TypeError):
            result.get(30)
    with pytest.raises(multiprocessing.TimeoutError):
        pool.apply_async(work, (300,)).get(-1)


# The pool's life


def test_a_pool_that_is_closed_takes_nothing_more_and_finishes_what_it_has(pool: Any, gate: Gate) -> None:
    result = pool.apply_async(gate, (1,))
    mapped = pool.map_async(square, range(100))
    gate.begun()
    with pytest.raises(ValueError, match="Pool is still running"):
        pool.join()
    pool.close()
    pool.close()
    for method in ("apply", "apply_async", "map", "map_async", "starmap", "starmap_async", *ITERATORS):
        with pytest.raises(ValueError, match="Pool not running"):
            getattr(pool, method)(square, [1])
    with pytest.raises(ValueError, match="Pool not running"), pool:
        pytest.fail("a closed pool was entered")
    gate.open()
    pool.join()
    pool.join()
    assert result.ready()
    assert result.get() == 1
    assert mapped.get() == [n * n for n in range(100)]


def test_leaving_the_block_terminates(pool: Any, gate: Gate) -> None:
    with pool as entered:
        assert entered is pool
        pool.apply_async(gate, (1,))
        pool.map_async(gate, [1])
        iter(pool.imap(gate, [1]))
        gate.begun()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply(square, (1,))
    pool.join()
    pool.terminate()
    gate.open(10)  # a slot runs on until its function returns


def test_a_pool_does_not_pickle(pool: Any) -> None:
    with pytest.raises(NotImplementedError, match="pool objects cannot be passed between processes or pickled"):
        pickle.dumps(pool)


def test_a_pool_says_what_state_it_is_in(pools: Pools) -> None:
    pool = pools(2)
    assert "state=RUN pool_size=2>" in repr(pool)
    pool.close()
    assert "state=CLOSE" in repr(pool)
    pool.terminate()
    assert "state=TERMINATE" in repr(pool)


def test_a_pool_that_was_never_closed_is_warned_of(cluster: Cluster) -> None:
    with cluster.client() as client:
        for make in (lambda: multiprocessing.get_context("fork").Pool(1), lambda: lastcall.Pool(1, client=client)):
            made = [make()]
            with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
                _drop(made)


def _drop(made: list[Any]) -> None:
    made.clear()
    gc.collect()


def test_bad_arguments_are_what_they_are_in_multiprocessing(pools: Pools, pool: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        pools(0)
    with pytest.raises(ValueError, match="at least 1"):
        pools(-1)
    with pytest.raises(TypeError):
        pools("2")
    with pytest.raises(TypeError, match="initializer must be a callable"):
        pools(1, 5)
    for value in (0, -1, 0.5, "12"):
        with pytest.raises(ValueError, match="maxtasksperchild must be a positive int or None"):
            pools(1, maxtasksperchild=value)
    for method in ITERATORS:
        with pytest.raises(ValueError, match=r"must be|Chunksize"):
            getattr(pool, method)(square, [1], 0)


def test_one_process_does_one_thing_at_a_time(pools: Pools, gate: Gate) -> None:
    pool = pools(1)
    results = [pool.apply_async(gate, (n,)) for n in range(3)]
    for n in range(3):
        assert gate.begun() == [str(n)]  # and no other before this one was let go
        assert [result.ready() for result in results] == [at < n for at in range(3)]
        gate.open()
        assert results[n].get(30) == n


def test_the_initializer_is_run_once_in_each_process(pools: Pools) -> None:
    what = ("a", {"b": 3}, os.urandom(8))
    pool = pools(2, functions.set_up, what)
    seen = [*pool.map(functions.was_set_up, range(30), 1), *pool.imap(functions.was_set_up, range(5))]
    seen += [pool.apply(functions.was_set_up) for _ in range(10)]
    assert all(one[2:] == (1, what) for one in seen)
    assert len({one[0] for one in seen}) in (1, 2)


def test_a_process_that_has_run_enough_tasks_is_replaced_by_one_that_is_set_up_anew(pools: Pools) -> None:
    what = ("often", os.urandom(8))
    pool = pools(2, functions.set_up, what, maxtasksperchild=3)
    seen = pool.map(functions.was_set_up, range(12), 1)
    seen += [pool.apply(functions.was_set_up) for _ in range(6)]
    seen += [result.get(60) for result in [pool.apply_async(functions.was_set_up) for _ in range(6)]]
    runs = collections.Counter(one[0] for one in seen)
    assert max(runs.values()) == 3
    assert all(one[2:] == (1, what) for one in seen)


def test_a_chunk_is_one_task_of_a_process(pools: Pools) -> None:
    runs = collections.Counter(pid for pid, _ in pools(1, maxtasksperchild=1).map(functions.where, range(9), 3))
    assert list(runs.values()) == [3, 3, 3]


# Of lastcall's pools alone


@pytest.fixture
def ours(client: Client) -> Iterator[lastcall.Pool]:
    with lastcall.Pool(client=client) as pool:
        yield pool


def test_an_exception_whose_init_takes_several_arguments_arrives(ours: lastcall.Pool) -> None:
    # multiprocessing's pool hangs: unpickling it ends the thread that reads results.
    with pytest.raises(functions.Odd, match="code 7 in the attic") as caught:
        ours.apply_async(fail, ("odd",)).get(30)
    assert (caught.value.code, caught.value.where) == (7, "the attic")
    with pytest.raises(functions.Odd, match="code 7 in the attic"):
        ours.map(fail, ["odd"])
    with pytest.raises(errors.RemoteError, match="nobody can hold me"):
        ours.apply(fail, ("wild",))


def test_a_timeout_is_the_builtin_one_and_multiprocessings_and_says_what_was_waited_for(
    ours: lastcall.Pool, gate: Gate
) -> None:
    result, results = ours.apply_async(gate, (1,)), ours.imap(gate, [1])
    with pytest.raises(TimeoutError, match=r"waited 0\.1 s for the result of apply_async\(Gate\)") as caught:
        result.get(0.1)
    assert isinstance(caught.value, multiprocessing.TimeoutError)
    with pytest.raises(TimeoutError, match=r"waited 0\.1 s for the next result of imap\(Gate\)") as caught:
        results.next(0.1)
    assert isinstance(caught.value, multiprocessing.TimeoutError)
    assert repr(result) == "<AsyncResult of apply_async(Gate), not ready>"
    gate.open(2)
    assert (result.get(30), next(results)) == (1, 1)


def test_what_a_terminated_pool_does_not_finish_is_raised(client: Client, gate: Gate) -> None:
    # With multiprocessing these would be waited for for ever.
    pool = lastcall.Pool(client=client)
    later = [pool.apply_async(gate, (1,)), pool.map_async(gate, range(50), 1)]
    results = pool.imap(gate, range(50))

    def blocked() -> str:
        try:
            return str(pool.map(gate, range(50)))
        except errors.QueueCancelled:
            return "cancelled"

    thread, came = in_thread(blocked)
    gate.begun(2)
    pool.terminate()
    for result in later:
        with pytest.raises(errors.QueueCancelled):
            result.get(30)
    with pytest.raises(errors.QueueCancelled):
        next(results)
    thread.join(30)
    assert came == ["cancelled"]
    gate.open(200)


def test_a_process_that_dies_is_told_of_and_replaced(ours: lastcall.Pool) -> None:
    # With multiprocessing the result would be waited for for ever.
    with pytest.raises(errors.WorkerLost):
        ours.apply_async(Deadly("exit", 3), (3,)).get(60)
    assert ours.map(Deadly("exit", 99), range(5)) == list(range(5))


def test_lambdas_and_local_functions_are_sent(ours: lastcall.Pool) -> None:
    def local(n: int) -> int:
        return n + 1

    assert ours.map(lambda n: n * 2, range(5)) == [0, 2, 4, 6, 8]
    assert ours.apply(local, (1,)) == 2


def test_an_imap_reads_no_further_than_it_must(ours: lastcall.Pool) -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    results = ours.imap(same, items(), chunksize=100)
    assert [next(results) for _ in range(1_000)] == list(range(1, 1_001))
    assert read < 30_000
    ours.terminate()


def test_what_nobody_iterates_over_is_run_nonetheless(client: Client, cluster: Cluster, name: str) -> None:
    counted = functions.Counted(cluster.url, name)
    with lastcall.Pool(client=client) as pool:
        pool.imap_unordered(counted, range(50))
        gc.collect()
        pool.close()
        pool.join()
    assert counted.runs() == dict.fromkeys(range(50), 1)


def test_a_pool_that_nobody_refers_to_is_terminated_unless_somebody_has_a_result_of_it(
    client: Client, gate: Gate
) -> None:
    made = [lastcall.Pool(client=client)]
    result = made[0].apply_async(gate, (1,))
    made[0].map_async(gate, [2])
    gate.begun(2)
    calls = made[0]._work._calls["cpu"]
    _drop(made)
    assert calls._queue.status().state == "OPEN"
    with pytest.warns(ResourceWarning, match="unclosed running"):
        del result
    assert calls._queue.status().state == "CANCELLED"
    gate.open(2)


def test_a_callback_that_raises_is_reported_and_the_next_one_is_called(
    ours: lastcall.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda told: reported.append(told.exc_value))
    called: list[int] = []
    result = ours.apply_async(square, (2,), callback=lambda n: [][n])
    assert result.get(30) == 4
    ours.apply_async(square, (3,), callback=called.append).get(30)
    assert called == [9]
    assert [type(error) for error in reported] == [IndexError]
    with pytest.raises(TypeError, match="a callback must be callable"):
        ours.apply_async(square, (3,), callback=5)  # type: ignore[arg-type]


def test_an_initializer_that_raises_is_told_to_every_caller(client: Client) -> None:
    with lastcall.Pool(2, functions.cannot_set_up, ("camera",), client=client) as pool:
        with pytest.raises(
            errors.InitializerFailed, match=r"cannot_set_up raised OSError: there is no camera"
        ) as caught:
            pool.apply(square, (3,))
        assert 'raise OSError(f"there is no {what}")' in str(caught.value.__cause__)
        assert caught.value.worker == "cpu@test"
        with pytest.raises(errors.InitializerFailed, match="make another pool"):
            pool.map(square, range(10))
        with pytest.raises(errors.InitializerFailed):
            next(pool.imap(square, [1]))
    with lastcall.Pool(2, client=client) as pool:
        assert pool.map(square, range(3)) == [0, 1, 4]


def test_initargs_that_cannot_be_sent_are_told_at_once(client: Client) -> None:
    with pytest.raises(errors.NotSerializable, match="cannot send initargs"):
        lastcall.Pool(2, functions.set_up, (threading.Lock(),), client=client)


def test_each_pool_has_its_own_initializer(client: Client) -> None:
    with lastcall.Pool(1, functions.set_up, ("one",), client=client) as one:
        assert one.apply(functions.was_set_up)[2:] == (1, ("one",))
        with lastcall.Pool(1, lambda: functions.set_up("two"), client=client) as two:
            assert two.map(functions.was_set_up, [0])[0][2:] == (1, ("two",))


def test_threads_run_what_a_thread_pool_is_given_each_with_its_initializer(client: Client, name: str) -> None:
    with lastcall.ThreadPool(4, functions.set_up, (name,), client=client) as pool:
        seen = pool.map(functions.was_set_up, range(40), 1)
        pids = {one[0] for one in seen}
        threads = {one[1] for one in seen}
        assert len(pids) == 1
        assert os.getpid() not in pids
        assert all(one[3] == (name,) for one in seen)
        assert len(threads) <= 4
        assert max(one[2] for one in seen) <= len(threads)
        assert pool.apply_async(lambda: sys.modules["lastcall"].current.worker).get(30) == "io@test"
        assert repr(pool) == "<lastcall.ThreadPool state=RUN pool_size=4>"


def test_a_process_that_is_replaced_is_no_crash_and_other_work_goes_on_beside_it(
    ours: lastcall.Pool, client: Client, cluster: Cluster
) -> None:
    worker = cluster.workers[0]
    before = len(worker.log)
    with lastcall.Pool(maxtasksperchild=1, client=client) as pool:
        later = pool.map_async(functions.where, range(12), 1)
        beside = [ours.apply(functions.where) for _ in range(40)]
        seen = later.get(60)
        coroutines = pool.map(functions.where_async, range(4), 1)
    assert {attempt for _, attempt in (*seen, *beside, *coroutines)} == {1}
    assert len({pid for pid, _ in seen}) == 12
    assert len({pid for pid, _ in coroutines}) == 4
    assert "ERROR" not in worker.log[before:]


def test_maxtasksperchild_warns_where_no_process_can_be_replaced(client: Client) -> None:
    class Threads(lastcall.Pool):
        _workers = "io"

    with pytest.warns(UserWarning, match="maxtasksperchild=5 is of no effect .* whose pool is threads") as caught:
        pool = Threads(2, maxtasksperchild=5, client=client)
    assert caught[0].filename == __file__
    with pool:
        assert pool.map(square, range(12), 1) == [n * n for n in range(12)]


def test_a_pool_leaves_its_client_open_and_a_pool_of_its_own_takes_the_environments_server(
    client: Client, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lastcall.Pool(client=client) as pool:
        pool.apply(square, (1,))
    assert client.submit(square, 3).result(30) == 9
    monkeypatch.setenv("LASTCALL_URL", cluster.url)
    monkeypatch.setenv("LASTCALL_KEY", cluster.key)
    with lastcall.Pool(2) as pool:
        assert pool.map(square, range(3)) == [0, 1, 4]
    pool = lastcall.Pool()
    result = pool.apply_async(work, (1,))
    pool.close()
    pool.join()
    assert result.get() == 1


def test_a_fork_is_told_that_neither_the_pool_nor_its_results_are_its_own(
    ours: lastcall.Pool, client: Client, gate: Gate
) -> None:
    executor = lastcall.Executor(client=client)
    assert client.submit(square, 2).result(30) == 4
    result, results, future = ours.apply_async(gate, (1,)), ours.imap(gate, [2]), executor.submit(gate, 3)
    uses: list[Callable[[], Any]] = [
        lambda: ours.map(square, [1]), lambda: ours.apply(square, (1,)), lambda: executor.submit(square, 1),
        result.get, lambda: next(results), future.result, lambda: client.submit(square, 1),
    ]  # fmt: skip
    fork = multiprocessing.get_context("fork")
    told, telling = fork.Pipe(duplex=False)
    child = fork.Process(target=_say_errors, args=(uses, ours, telling))
    child.start()
    assert told.poll(30)
    assert told.recv() == ["ConfigError"] * len(uses)
    child.join(30)
    assert child.exitcode == 0
    gate.open(3)
    assert [result.get(30), next(results), future.result(30), ours.apply(square, (3,))] == [1, 2, 3, 9]
    executor.shutdown()


def test_multiprocessings_own_are_refused_with_what_to_take_instead(ours: lastcall.Pool) -> None:
    for own in (multiprocessing.Lock(), multiprocessing.Queue()):
        with pytest.raises(errors.NotSerializable, match=r"through inheritance: .* lastcall.Manager\(\)"):
            ours.apply(type, (own,))
    with multiprocessing.Manager() as manager, pytest.raises(errors.NotDeserializable, match=r"lastcall.Manager\(\)"):
        ours.apply(type, (manager.Lock(),))


def _say_errors(uses: list[Callable[[], Any]], pool: lastcall.Pool, telling: Any) -> None:
    raised = []
    for use in uses:
        try:
            use()
        except Exception as error:
            raised.append(type(error).__name__)
    pool.close()
    pool.join()  # its own, which is nothing
    telling.send(raised)


def test_pools_in_functions_on_all_slots_at_once_end(ours: lastcall.Pool) -> None:
    squares = sum(n * n for n in range(6))
    assert ours.map(functions.sum_by_pool, [6] * 4, 1) == [2 * squares + 36] * 4


def test_many_calls_are_all_answered(ours: lastcall.Pool) -> None:
    counts = collections.Counter(result.get(60) for result in [ours.apply_async(same, (n % 7,)) for n in range(2_000)])
    assert sum(counts.values()) == 2_000


def test_an_item_that_is_too_large_is_raised_in_its_place(cluster: Cluster) -> None:
    with cluster.client(max_item_bytes=10_000) as client, lastcall.Pool(client=client) as pool:
        results = pool.imap(functions.length, [b"a", b"b" * 20_000, b"c" * 9_000])
        assert next(results) == 1
        with pytest.raises(errors.ItemTooLarge, match="item 1 has 20,0"):
            next(results)
        assert list(results) == [9_000]
        with pytest.raises(errors.ItemTooLarge):
            pool.apply_async(functions.length, (b"b" * 20_000,)).get(30)
        with pytest.raises(errors.ItemTooLarge):
            lastcall.Pool(1, functions.set_up, (b"b" * 20_000,), client=client)


def test_a_pool_that_was_silent_for_too_long_calls_through_another_queue(cluster: Cluster) -> None:
    with cluster.client(lease_s=0.5) as client, lastcall.Pool(client=client) as pool:
        assert pool.apply(square, (2,)) == 4
        calls = pool._work._calls["cpu"]
        queue, producer = calls._queue, calls._producer
        client._connection.heart.drop_producer(queue._ledger, "client", producer._epoch)  # it beats no more
        until(lambda: queue.status().state == "INCOMPLETE", "the lease to run out")
        producer._on_lost()
        assert pool.apply(square, (3,)) == 9
        assert pool._work._calls["cpu"] is not calls
