"""Flows as values, what is refused when one is made, how modes share queues, and plain Python's results."""

from __future__ import annotations

import asyncio
import functools
import itertools
import operator
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from lastcall import current, errors, task
from lastcall.flow import Flow, Stage, batch, fan_out, filter, reduce, stage
from lastcall.map import Failure
from lastcall.plan import planned
from lastcall.steps import Failed
from tests.coroutines import agenerate
from tests.functions import odd_only, plus_one, square


def twice(n: int) -> Iterator[int]:
    yield n
    yield n


async def later(n: int) -> int:
    await asyncio.sleep(0)
    return n + 1


def is_odd(n: int) -> bool:
    return n % 2 == 1


def names(flow: Flow, mode: str, on_error: str = "stop") -> list[str]:
    return [plan.name for plan in planned(flow, mode, on_error)]


# What a flow is


def test_a_flow_is_made_of_functions_partials_stages_and_flows() -> None:
    multiplied = functools.partial(operator.mul, 3)
    flow = Flow(square, workers="io") | multiplied | stage(plus_one, name="more", rate=10) | (Flow(twice) | square)
    assert [one.name for one in flow.stages] == ["square", "mul", "more", "twice", "square"]
    assert repr(flow) == (
        "Flow(square, workers='io') | partial(mul, 3) | stage(plus_one, name='more', rate=10) | twice | square"
    )
    assert plus_one | Flow(square) == Flow(plus_one) | square
    assert plus_one | stage(square) == Flow(plus_one) | square == stage(plus_one) | square


def test_a_flow_is_printed_as_it_was_made() -> None:
    flow = (
        Flow(square)
        | filter(is_odd)
        | fan_out(plus_one, Flow(square) | plus_one, merge=max)
        | batch(3, timeout_s=2)
        | stage(sum, retries=2, timeout=3.0)
        | reduce(operator.add, initial=0)
    )
    assert repr(flow) == (
        "Flow(square) | filter(is_odd) | fan_out(plus_one, square | plus_one, merge=max) | batch(3, timeout_s=2) | "
        "stage(sum, retries=2, timeout=3.0) | reduce(add, initial=0)"
    )


def test_a_flow_is_not_changed_by_what_is_made_of_it() -> None:
    flow = Flow(square)
    longer = flow | plus_one
    assert len(flow) == 1
    assert len(longer) == 2
    with pytest.raises(AttributeError, match="makes a new one"):
        flow.stages = ()


def test_a_flow_pickles() -> None:
    flow = (
        Flow(square) | filter(is_odd) | fan_out(plus_one, Flow(square) | plus_one) | batch(3) | reduce(operator.add, [])
    )
    assert pickle.loads(pickle.dumps(flow)) == flow
    by_value = Flow(lambda n: n + 1) | (lambda n: n * 2)
    assert list(pickle.loads(cloudpickle.dumps(by_value)).run([1]).results()) == [4]


@pytest.mark.parametrize("mode", ["auto", "vertical", "streaming"])
def test_what_a_queue_runs_pickles(mode: str) -> None:
    flow = Flow(square) | twice | fan_out(plus_one, twice) | filter(is_odd)
    for plan in planned(flow, mode):
        copy = pickle.loads(pickle.dumps(plan.function))
        assert getattr(copy, "__qualname__", None) == getattr(plan.function, "__qualname__", None)


# What is refused


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Flow(3), "a stage must be callable"),
        (lambda: Flow(square) | None, "a stage must be callable"),
        (lambda: Flow(square) | agenerate, "got the async generator"),
        (lambda: "clean" | Flow(square), "a stage must be callable"),
        (lambda: filter(True), r"filter\(\) must be callable"),
        (lambda: reduce(0), r"reduce\(\) must be callable"),
        (lambda: reduce(Flow(square)), r"reduce\(\) must be callable"),
        (lambda: fan_out(square, 7), "a stage must be callable"),
        (lambda: fan_out(square, plus_one, merge="both"), "merge must be callable"),
        (lambda: fan_out(square), "branches must be two or more"),
        (lambda: fan_out(square, batch(2)), r"without batch\(\) and reduce\(\)"),
        (lambda: fan_out(square, fan_out(plus_one, reduce(max))), r"without batch\(\) and reduce\(\)"),
        (lambda: batch(0), "n must be a positive int, got 0"),
        (lambda: batch(2, timeout_s=-1), "timeout_s must be a number of seconds"),
        (lambda: stage(square, rate=0), "rate must be a number of items a second"),
        (lambda: stage(square, rate=True), "rate must be a number of items a second"),
        (lambda: stage(square, max_workers=0), "max_workers must be a positive int"),
        (lambda: stage(square, concurrency=-1), "concurrency must be a positive int"),
        (lambda: stage(square, retries=-1), "retries must be an int from 0"),
        (lambda: stage(square, workers="a b"), "workers must be a non-empty string"),
        (lambda: stage(square, name="a/b"), "name must be a non-empty string"),
        (lambda: stage(square, flat="yes"), "flat must be True, False or None"),
        (lambda: Flow(stage(square), workers="io"), "options must be given with a function"),
        (lambda: stage(square, name="a") | stage(plus_one, name="a"), "for each stage of a flow, got 'a' twice"),
        (lambda: stage(square, name="a") | fan_out(square, stage(square, name="a")), "got 'a' twice"),
        (lambda: filter(later), r"filter\(\) must be given a plain function"),
        (lambda: fan_out(square, later), "a branch must be without coroutine functions"),
        (lambda: stage(later, flat=True), "a stage must be a function, a generator function or a coroutine function"),
        (lambda: planned(Flow(square), "diagonal"), "mode must be 'auto' or 'serial' or"),
        (lambda: planned(Flow(square), "auto", "ignore"), "on_error must be 'stop' or 'dead' or 'yield'"),
        (lambda: Flow(square).run([1], on_error="ignore"), "on_error must be 'stop' or 'dead' or 'yield'"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_when_the_flow_is_made(make: Callable[[], object], says: str) -> None:
    with pytest.raises(errors.ConfigError, match=says):
        make()


def test_a_cycle_is_refused() -> None:
    both = fan_out(square, plus_one)
    flow = Flow(both)
    object.__setattr__(both, "branches", (flow, flow))  # `|` and fan_out() make none
    for use in (lambda: planned(flow, "auto"), lambda: flow.run([1]), lambda: fan_out(flow, square)):
        with pytest.raises(errors.ConfigError, match="without a cycle, got a flow that contains itself"):
            use()


@pytest.mark.parametrize(
    "items", [itertools.count(), itertools.cycle("ab"), itertools.repeat(1)], ids=["count", "cycle", "repeat"]
)
def test_the_end_of_an_endless_input_cannot_be_waited_for(items: Iterator[Any]) -> None:
    job = Flow(str).run(items)
    with pytest.raises(errors.ConfigError, match="called on a job whose input ends"):
        job.wait()
    assert len(list(itertools.islice(job.results(), 3))) == 3
    assert Flow(square).run(itertools.repeat(2, 3)).wait()[0].done == 3


def test_a_wait_for_an_endless_generator_ends_at_its_timeout() -> None:
    with pytest.raises(errors.WaitTimeout):
        Flow(square).run(n for n in itertools.count()).wait(timeout=0.05)


def test_reduce_of_nothing_is_refused() -> None:
    total = Flow(square) | reduce(operator.add)
    with pytest.raises(errors.NothingToReduce, match="add must be given at least one item"):
        total.run([])
    with pytest.raises(TypeError):
        list(total.run(iter([])).results())
    assert list((Flow(square) | reduce(operator.add, 0)).run([]).results()) == [0]


# How modes share queues


def test_streaming_and_horizontal_give_each_stage_a_queue() -> None:
    flow = Flow(square) | plus_one | square
    for mode in ("streaming", "horizontal"):
        assert names(flow, mode) == ["square", "plus_one", "square-2"]
    assert [plan.barrier for plan in planned(flow, "horizontal")] == [False, True, True]
    assert not any(plan.barrier for plan in planned(flow, "streaming"))


def test_auto_joins_neighbours_that_say_nothing_of_their_own() -> None:
    flow = Flow(square, workers="io") | plus_one | square | stage(plus_one, retries=1) | square | filter(is_odd)
    assert names(flow, "auto") == ["square", "plus_one+square-2", "plus_one-2", "square-3+is_odd"]
    assert names(Flow(square, workers="io") | filter(is_odd), "auto") == ["square+is_odd"]


def test_auto_keeps_what_a_task_says_of_itself() -> None:
    @task(name="tests.unit.test_flow.careful", retries=2)
    def careful(n: int) -> int:
        return n

    assert names(Flow(square) | careful | square, "auto") == ["square", "careful", "square-2"]
    assert planned(Flow(square) | careful, "auto")[1].options.policy.retries == 2


def test_vertical_joins_all_between_gathers() -> None:
    flow = Flow(square, workers="io") | stage(plus_one, retries=1, max_workers=2) | batch(2) | sum | reduce(max)
    plans = planned(flow, "vertical")
    assert [plan.name for plan in plans] == ["square+plus_one", "batch-2", "sum", "max"]
    options = plans[0].options
    assert (options.workers, options.max_workers, options.policy.retries) == ("io", 2, 1)
    assert plans[2].fold is max


def test_a_fan_out_is_linear_and_its_stages_keep_their_workers() -> None:
    flow = Flow(square) | fan_out(stage(plus_one, workers="io"), stage(square, workers="gpu")) | plus_one
    plans = planned(flow, "streaming")
    assert [(plan.name, plan.options.queue) for plan in plans] == [
        ("square", "cpu"), ("plus_one", "io"), ("square-2", "gpu"), ("plus_one-2", "cpu"),
    ]  # fmt: skip


def test_behind_a_flat_map_a_queue_is_shared_only_where_errors_come_to_the_same() -> None:
    flow = Flow(twice) | odd_only
    assert names(flow, "vertical", "stop") == names(flow, "vertical", "yield") == ["twice+odd_only"]
    assert names(flow, "vertical", "dead") == ["twice", "odd_only"]
    assert names(flow | batch(2), "vertical", "yield") == ["twice", "odd_only", "batch-2"]
    assert names(flow | stage(square, retries=1), "vertical", "yield") == ["twice", "odd_only+square"]


def test_coroutines_have_a_queue_of_their_own() -> None:
    flow = Flow(square) | later | fan_out(square, plus_one) | later | reduce(operator.add)
    assert names(flow, "vertical") == ["square", "later", "square-2+plus_one", "later-2", "add"]
    assert planned(flow, "vertical")[3].fold is None
    assert list(flow.run([1, 2]).results()) == [sum([5, 4, 26, 7])]


def test_an_error_behind_a_flat_map_spoils_no_neighbour() -> None:
    def to_three(n: int) -> Iterator[int]:
        yield from range(n, n + 3)

    (plan,) = planned(Flow(to_three) | odd_only, "vertical", "yield")
    assert plan.function is not None
    values = list(plan.function(1))
    assert [values[0], values[2]] == [1, 3]
    assert type(values[1]) is Failed


# Plain Python


def serial(flow: Flow | Stage, items: Any, on_error: str = "stop") -> list[Any]:
    return list((flow if isinstance(flow, Flow) else Flow(flow)).run(items, on_error=on_error).results())


def test_stages_do_what_they_are_named_after() -> None:
    assert serial(Flow(square) | plus_one, range(4)) == [1, 2, 5, 10]
    assert serial(twice, [1, 2]) == [1, 1, 2, 2]
    assert serial(stage(str.split, flat=True), ["a b", "c"]) == ["a", "b", "c"]
    assert serial(filter(is_odd), range(6)) == [1, 3, 5]
    assert serial(batch(2), range(5)) == [[0, 1], [2, 3], [4]]
    assert serial(reduce(operator.add), "abc") == ["abc"]
    assert serial(reduce(operator.add, "_"), "abc") == ["_abc"]
    assert serial(fan_out(square, twice), [2, 3]) == [4, 2, 2, 9, 3, 3]
    assert serial(fan_out(square, plus_one, merge=operator.add), [2, 3]) == [7, 13]
    assert serial(fan_out(fan_out(square, plus_one), plus_one), [2]) == [4, 3, 3]


def test_a_merge_needs_one_value_of_each_branch() -> None:
    flow = Flow(fan_out(square, filter(is_odd), merge=operator.add))
    values = serial(flow, [1, 2], "yield")
    assert values[0] == 2
    assert str(values[1].error).startswith("branch 2 of fan_out must give exactly one value for each item")


def test_on_error_says_what_becomes_of_an_item() -> None:
    flow = Flow(odd_only) | square
    results = flow.run([1, 2, 3]).results()
    assert next(results) == 1
    with pytest.raises(ValueError, match="2 is even"):
        next(results)
    values = serial(flow, [1, 2, 3], "yield")
    assert [value if not isinstance(value, Failure) else str(value.error) for value in values] == [1, "2 is even", 9]
    job = flow.run([1, 2, 3], on_error="dead")
    assert list(job.results()) == [1, 9]
    assert [(letter.value, str(letter.error)) for letter in job.dead_letters()] == [(2, "2 is even")]
    with pytest.raises(errors.DeadLetters):
        job.wait()


def test_a_serial_job_is_lazy_and_counts() -> None:
    seen: list[int] = []

    def look(n: int) -> int:
        seen.append(n)
        return n

    job = (Flow(look) | filter(is_odd)).run(itertools.count())
    assert seen == []
    assert list(itertools.islice(job.results(), 2)) == [1, 3]
    assert seen == [0, 1, 2, 3]
    first, second = job.status()
    assert (first.name, first.put, first.state) == ("look", 4, "OPEN")
    assert (second.name, second.put) == ("is_odd", 4)
    assert {status.state for status in job.cancel()} == {"CANCELLED"}
    assert list(job.results()) == []
    with pytest.raises(errors.ConfigError, match="detach"):
        job.detach()


def test_a_serial_job_tries_again_and_tells_a_function_where_it_runs() -> None:
    def third_time(n: int) -> tuple[int, str]:
        if current.attempt < 3:
            raise ConnectionError
        return current.attempt, current.queue

    assert serial(stage(third_time, retries=2, name="bank"), [0]) == [(3, "bank")]
    (failure,) = serial(stage(third_time, retries=1), [0], "yield")
    assert isinstance(failure.error, ConnectionError)


def test_what_the_input_raises_comes_behind_the_results_of_what_came_before() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the tape tore")

    results = (Flow(square) | reduce(operator.add)).run(broken()).results()
    assert next(results) == 5
    with pytest.raises(OSError, match="the tape tore"):
        next(results)


def test_the_serial_mode_says_that_it_records_nothing(tmp_path: Path) -> None:
    job = Flow(square).run([1, 2])
    asked: list[Callable[[], object]] = [
        lambda: job.history,
        lambda: job.watch,
        lambda: job.on("failed", print),
        lambda: job.trace(0),
        lambda: job.gantt(tmp_path / "job.svg"),
    ]
    for ask in asked:
        with pytest.raises(errors.NotRecorded, match=r"job serial-\w+ is not recorded: .* the mode serial"):
            ask()
    assert list(job.results()) == [1, 4]
