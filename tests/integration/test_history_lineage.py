"""What an item's trace holds is its own, in full, and a replay compares with that, whatever stages make of items."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from operator import add
from typing import Any

import pytest

from lastcall import Client, Flow, current, errors, fan_out, filter, reduce
from lastcall.flow import batch, stage
from lastcall.replay import Replay, replay
from lastcall.state import keys

pytestmark = pytest.mark.integration


def increase(n: int) -> int:
    return n + 1


async def increase_soon(n: int) -> int:
    await asyncio.sleep(0.001)
    return n + 1


def double(n: int) -> int:
    return 2 * n


def is_odd(n: int) -> bool:
    return n % 2 == 1


def parts(n: int) -> Iterator[tuple[int, int]]:
    for part in range(n):
        yield n, part


def much(n: int) -> Iterator[bytes]:
    """More than is held back, each of which is short."""
    for part in range(1200):
        yield b"%d" % (part % 7)


def kill_slot(pair: tuple[int, int]) -> tuple[int, int]:
    if pair == (3, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return pair


def fail_once(n: int) -> int:
    if current.attempt == 1 and n % 3 == 0:
        raise ConnectionError("not yet")
    return n


def refuse(path: str) -> str:
    raise FileNotFoundError(f"no \udcff in {path}")


@pytest.fixture
def run(client: Client, name: str) -> Callable[..., list[Any]]:
    def ran(flow: Flow, items: Any, **options: Any) -> list[Any]:
        options = {"mode": "streaming", "on_error": "yield", "job": name} | options
        return list(client.run(flow, items, **options).results())

    return ran


@pytest.fixture
def again(client: Client, name: str) -> Callable[..., Replay]:
    return lambda item, queue="": replay(client._connection, name, item, queue=queue)


@pytest.fixture
def way(client: Client, name: str) -> Callable[..., list[tuple[str, str, Any]]]:
    return lambda item: [(one.event.queue, one.event.kind, one.value) for one in client.job(name).trace(item).steps]


def test_batches_of_others_are_no_part_of_an_items_way(run: Any, way: Any) -> None:
    assert run(Flow(double) | batch(4) | sum, range(10)) == [12, 44, 34]
    for item in range(10):
        values = [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18]][item // 4]
        assert way(item) == [("double", "done", item), ("batch-4", "done", 2 * item), ("sum", "done", values)]


def test_what_several_items_gave_is_told_apart(run: Any, way: Any, client: Client, name: str) -> None:
    run(Flow(increase) | parts | str, range(6))
    for item in range(6):
        mine = [(item + 1, part) for part in range(item + 1)]
        assert [value for queue, _, value in way(item) if queue == "str"] == mine
        assert client.job(name).trace(item).results == tuple(map(str, mine))


def test_an_item_behind_a_generator_that_kills_its_slot_is_found_by_the_number_in_the_input(run: Any, way: Any) -> None:
    run(Flow(increase) | parts | stage(kill_slot, crash_limit=2) | str, range(6))
    assert ("kill_slot", "failed", (3, 1)) in way(2)
    assert "failed" not in [kind for item in (0, 1, 3, 4, 5) for _, kind, _ in way(item)]


def test_a_replayed_step_is_compared_with_what_was_tried_again_behind_it_once(run: Any, again: Any) -> None:
    assert run(Flow(increase) | stage(fail_once, retries=2, backoff_s=0.01), range(9)) == list(range(1, 10))
    for item in range(9):
        assert again(item, "increase").recorded == (item + 1,)
        assert again(item, "increase").same


def test_what_a_filter_left_out_is_known_to_have_given_nothing(run: Any, again: Any) -> None:
    assert run(Flow(increase) | filter(is_odd) | double, range(6)) == [2, 6, 10]
    for item in range(6):
        replayed = again(item, "is_odd")
        assert (replayed.outputs, replayed.recorded) == (((item + 1,),) * 2 if item % 2 == 0 else ((), ()))


def test_coroutines_are_replayed(run: Any, again: Any) -> None:
    assert run(Flow(increase_soon) | double, range(4)) == [2, 4, 6, 8]
    assert (again(2, "increase_soon").outputs, again(2, "increase_soon").same) == ((3,), True)


def test_a_reduction_is_no_step_of_one_item(run: Any, again: Any) -> None:
    assert run(Flow(double) | reduce(add), range(5)) == [20]
    assert again(3).event.queue == "double"
    with pytest.raises(errors.ConfigError, match="takes many together"):
        again(3, "add")


def test_a_step_whose_outputs_are_folded_is_not_compared(run: Any, again: Any) -> None:
    assert run(Flow(double) | reduce(add), range(3000), mode="vertical") == [3000 * 2999]
    assert again(2999).same in (True, None)


def test_all_that_a_generator_emitted_is_its_result(client: Client, name: str, run: Any, again: Any) -> None:
    assert len(run(Flow(much), range(2))) == 2400
    kinds = [event.kind for event in client.job(name).history]
    assert kinds.count("emitted") == 2
    (step,) = client.job(name).trace(1).steps
    assert (step.event.kind, step.event.made) == ("done", 1200)
    again_ = again(1)
    assert again_.recorded in (None, tuple(much(1)))  # None: the first part was too large to be kept
    assert again_.same is not False


def test_what_goes_through_a_fan_out_is_shown_as_its_author_knows_it(run: Any, way: Any, again: Any) -> None:
    assert run(Flow(increase) | fan_out(double, increase, merge=add), range(3)) == [4, 7, 10]
    assert [value for _, _, value in way(1)] == [1, 2, 2]
    assert again(1, "double").same
    assert again(1, "double").outputs[0].done == ((4,),)


def test_an_error_that_is_no_utf_8_is_the_items_and_not_the_slots(
    client: Client, name: str, run: Any, again: Any
) -> None:
    (failure,) = run(Flow(refuse), ["here"])
    assert isinstance(failure.error, FileNotFoundError)
    (event,) = client.job(name).history.events("failed")
    assert event.error == r"FileNotFoundError: no \udcff in here"
    assert again(0).same


def test_a_queue_that_begins_anew_has_a_history_of_its_own(client: Client, name: str) -> None:
    for _ in range(2):
        queue = client.queue(name, refuse, record="failures", reopen=True)
        with queue.producer() as out:
            out.put("here")
        with pytest.raises(errors.DeadLetters):
            queue.join()
        assert len(list(client.job(name).history)) == 1


def test_failures_beyond_a_bound_are_kept_without_arguments_and_large_entries_take_the_place_of_several(
    client: Client, name: str
) -> None:
    redis = client._connection.redis
    queue = client.queue(name, refuse, record="all")
    redis.hset(keys.of_job(name, "job"), "failures", 64 << 20)
    with queue.producer() as out:
        for number in range(300):
            out.put(f"{number}{'x' * 3000}")
            out.flush()
        redis.hset(keys.of_job(name, "job"), "usual", 1 << 20)
        out.put("y" * 3000)
    with pytest.raises(errors.DeadLetters):
        queue.join()
    events = list(client.job(name).history.events("dead"))
    assert len(events) == 301
    assert all(event.error.startswith("FileNotFoundError") for event in events)
    assert not any(event.traceback or event.payload for event in events)
    assert redis.xlen(keys.of_job(name, "events")) < 600


def test_jobs_that_record_failures_alone_and_have_none_have_an_empty_history(
    client: Client, name: str, run: Any
) -> None:
    run(Flow(increase), range(3), record="failures")
    assert list(client.job(name).history) == []
    with pytest.raises(errors.UnknownItem, match="did not fail"):
        client.job(name).trace(1)
