"""The same flow gives the same results in every mode: random flows, beside a plain Python model of them."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lastcall import Failure, Flow, Stage, batch, errors, fan_out, filter, reduce, stage
from tests.conftest import Cluster

pytestmark = pytest.mark.integration

MODES = ("serial", "auto", "vertical", "streaming", "horizontal")


class Bad(Exception):
    """What the functions here raise."""


# What flows are made of: functions of any value that holds numbers.


def total(value: Any) -> int:
    return value if isinstance(value, int) else sum(map(total, value))


def plus(k: int, value: Any) -> int:
    return total(value) + k


def failing(k: int, value: Any) -> int:
    if total(value) % 5 == k % 5:
        raise Bad(total(value))
    return total(value) * 2


def keeps(k: int, value: Any) -> bool:
    return total(value) % 3 != k % 3


def fails_to_choose(k: int, value: Any) -> bool:
    if total(value) % 7 == k % 7:
        raise Bad(-total(value))
    return True


def several(k: int, value: Any) -> Iterator[int]:
    for n in range((total(value) + k) % 4):
        yield total(value) + n


def breaks_off(k: int, value: Any) -> Iterator[int]:
    yield total(value)
    if total(value) % 4 == k % 4:
        raise Bad(total(value))


def both(left: Any, right: Any) -> int:
    return total(left) - 2 * total(right)


def add(left: Any, right: Any) -> int:
    return total(left) + total(right)


@dataclass(frozen=True)
class Piece:
    """One stage, and what it means in plain Python: how the values behind it come of those before."""

    stage: Any
    means: Callable[[list[Any]], list[Any]]
    shown: str
    gathers: bool = False
    one_to_one: bool = False

    def __repr__(self) -> str:
        return self.shown


def each(function: Callable[[Any], list[Any]]) -> Callable[[list[Any]], list[Any]]:
    """Item by item; one that fails is its error, and goes through all that follows as it is."""

    def through(values: list[Any]) -> list[Any]:
        made: list[Any] = []
        for value in values:
            if isinstance(value, Bad | errors.MergeMismatch):
                made.append(value)
                continue
            try:
                made += function(value)
            except Bad as error:
                made.append(error)
        return made

    return through


def mapped(function: Any, k: int) -> Piece:
    f = functools.partial(function, k)
    return Piece(f, each(lambda value: [f(value)]), f"{function.__name__}({k})", one_to_one=function is plus)


def filtered(function: Any, k: int) -> Piece:
    f = functools.partial(function, k)
    return Piece(filter(f), each(lambda value: [value] if f(value) else []), f"filter({function.__name__}({k}))")


def flattened(function: Any, k: int) -> Piece:
    f = functools.partial(function, k)
    return Piece(stage(f), each(lambda value: list(f(value))), f"{function.__name__}({k})")


def batched(n: int) -> Piece:
    def means(values: list[Any]) -> list[Any]:
        passing = [value for value in values if isinstance(value, Exception)]
        items = [value for value in values if not isinstance(value, Exception)]
        return [*passing, *(items[at : at + n] for at in range(0, len(items), n))]

    return Piece(batch(n), means, f"batch({n})", gathers=True)


def reduced(initial: int) -> Piece:
    def means(values: list[Any]) -> list[Any]:
        passing = [value for value in values if isinstance(value, Exception)]
        items = [value for value in values if not isinstance(value, Exception)]
        return [*passing, functools.reduce(add, items, initial)]

    return Piece(reduce(add, initial), means, f"reduce({initial})", gathers=True)


numbers = st.integers(0, 20)
one_to_one = numbers.map(functools.partial(mapped, plus))
simple = st.one_of(
    one_to_one,
    numbers.map(functools.partial(mapped, failing)),
    numbers.map(functools.partial(filtered, keeps)),
    numbers.map(functools.partial(filtered, fails_to_choose)),
    numbers.map(functools.partial(flattened, several)),
    numbers.map(functools.partial(flattened, breaks_off)),
)


def branched(branches: list[list[Piece]], merge: bool) -> Piece:
    flows = [
        functools.reduce(operator.or_, [piece.stage for piece in rest], Flow(first.stage)) for first, *rest in branches
    ]

    def of_branch(branch: list[Piece], value: Any) -> list[Any]:
        values = [value]
        for piece in branch:
            values = piece.means(values)
            for one in values:
                if isinstance(one, Exception):
                    raise one  # in a branch an error is one of the item
        return values

    def means(value: Any) -> list[Any]:
        gave = [of_branch(branch, value) for branch in branches]
        if not merge:
            return list(itertools.chain(*gave))
        for at, values in enumerate(gave):
            if len(values) != 1:
                return [errors.MergeMismatch("fan_out", at + 1, len(values))]
        return [both(*(values[0] for values in gave))]

    return Piece(fan_out(*flows, merge=both if merge else None), each(means), f"fan_out({branches}, merge={merge})")


fan_outs = st.one_of(
    st.builds(branched, st.lists(st.lists(simple, min_size=1, max_size=2), min_size=2, max_size=3), st.just(False)),
    st.builds(branched, st.lists(st.lists(simple, min_size=1, max_size=2), min_size=2, max_size=2), st.just(True)),
)
pieces = st.one_of(simple, simple, fan_outs, st.integers(1, 4).map(batched), numbers.map(reduced))


def options(piece: Piece, workers: str | None) -> Any:
    """Some on other workers."""
    if workers is None or not isinstance(piece.stage, functools.partial):
        return piece.stage
    return stage(piece.stage, workers=workers)


@st.composite
def flows(draw: st.DrawFn) -> tuple[Flow, list[Piece]]:
    chosen = draw(st.lists(pieces, min_size=1, max_size=5))
    made = [options(piece, draw(st.sampled_from([None, None, "io"]))) for piece in chosen]
    return functools.reduce(operator.or_, made[1:], Flow(made[0])), chosen


def plain(value: Any) -> Any:
    """A result, so that it may be compared: an error by what it says."""
    if isinstance(value, Failure):
        value = value.error
    if isinstance(value, errors.MergeMismatch):  # the model does not know how the stage is called
        return f"branch {value.branch} gave {value.gave}"
    return repr(value)


@given(flow=flows(), items=st.lists(numbers, max_size=40), on_error=st.sampled_from(["yield", "dead", "stop"]))
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_every_mode_gives_the_same_results(
    cluster: Cluster, flow: tuple[Flow, list[Piece]], items: list[int], on_error: str
) -> None:
    made, chosen = flow
    expected: list[Any] = list(items)
    for piece in chosen:
        expected = piece.means(expected)
    failed = [value for value in expected if isinstance(value, Exception)]
    values = [value for value in expected if not isinstance(value, Exception)]
    gathers = any(piece.gathers for piece in chosen)
    with cluster.client() as client:
        for mode in MODES:
            job = client.run(made, items, mode=mode, on_error=on_error)
            results: list[Any] = []
            ended_by: Exception | None = None
            try:
                results.extend(job.results(timeout=30))
            except (Bad, errors.MergeMismatch) as error:
                ended_by = error
            if on_error == "stop" and failed:
                assert ended_by is not None, mode
                assert plain(ended_by) in map(plain, failed), mode
                if not gathers:
                    assert plain(ended_by) == plain(failed[0]), mode
                    assert results == values[: len(results)], mode
                continue
            assert ended_by is None, mode
            if on_error == "dead":
                assert results == values, mode
            elif gathers:  # an error does not wait for the values that a gather takes together
                assert [value for value in results if not isinstance(value, Failure)] == values, mode
                assert sorted(map(plain, results)) == sorted(map(plain, expected)), mode
            else:
                assert list(map(plain, results)) == list(map(plain, expected)), mode


def test_the_model_knows_every_kind_of_stage() -> None:
    kinds = {one.stage.kind for one in (filtered(keeps, 1), flattened(several, 1), batched(2), reduced(1))}
    fans = branched([[mapped(plus, 1)], [mapped(plus, 2)]], True).stage
    assert isinstance(fans, Stage)
    assert kinds | {fans.kind, "map"} == {"map", "filter", "flat", "batch", "reduce", "fan_out"}
