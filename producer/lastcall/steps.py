"""A flow as a plain chain of steps, and steps fused into one function.

A fan-out is made linear: its branches' stages come one after the other, each works on a carrier (the item, what the
branches before gave, the values in this branch). So they keep workers and limits of their own, and their order.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from lastcall.errors import MergeMismatch
from lastcall.flow import FAN_OUT, FILTER, FLAT, GATHERS, MAP, Flow, Options, Stage, awaits, check_acyclic, options_of
from lastcall.outcome import pack_error

if TYPE_CHECKING:
    from lastcall.outcome import PackedError

TOGETHER = 10_000  # values of one item that travel as one: a generator that raises behind them has given them

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the chain. kind: flow.py's, but FAN_OUT. glue: it goes with its neighbour, whatever that is."""

    kind: str
    function: Function | None
    name: str
    options: Options
    stage: Stage
    glue: bool = False


class Carrier(NamedTuple):
    """What goes through the branches of a fan-out in an item's place."""

    item: Any
    done: tuple[tuple[Any, ...], ...]  # what each branch before gave
    values: tuple[Any, ...]  # in this branch


def lowered(flow: Flow) -> tuple[Step, ...]:
    """The flow's steps, each with a name of its own. Raises ConfigError where it contains itself."""
    check_acyclic(flow)
    names = _Names(flow)
    steps: list[Step] = []
    for step in itertools.chain.from_iterable(_steps(one, names) for one in flow.stages):
        if steps and step.stage.kind in (FILTER, *GATHERS) and step.options.workers is None:
            step = replace(step, options=replace(step.options, workers=steps[-1].options.workers))
        steps.append(step)
    return tuple(steps)


def _steps(one: Stage, names: _Names) -> Iterator[Step]:
    options = options_of(one)
    if one.kind != FAN_OUT:
        yield Step(one.kind, one.function, names.of(one), options, one)
        return
    name = names.of(one)
    yield Step(MAP, enter, name, options, one, glue=True)
    for at, branch in enumerate(one.branches):
        if at:
            yield Step(MAP, turn, name, options, one, glue=True)
        for step in itertools.chain.from_iterable(_steps(inner, names) for inner in branch.stages):
            assert step.function is not None  # no batch() is in a branch
            yield Step(MAP, Inside(step.kind, step.function), step.name, step.options, step.stage, step.glue)
    if one.function is None:
        yield Step(FLAT, leave, name, options, one, glue=True)
    else:
        yield Step(MAP, Merge(one.function, name), name, options, one, glue=True)


class _Names:
    """Gives each step a name of its own: that of its stage, the second of one name a number."""

    def __init__(self, flow: Flow) -> None:
        self._taken = {one.name for one in _deep(flow) if one.named}

    def of(self, one: Stage) -> str:
        if one.named:
            return one.name
        name = next(
            name
            for number in itertools.count(1)
            if (name := one.name if number == 1 else f"{one.name}-{number}") not in self._taken
        )
        self._taken.add(name)
        return name


def _deep(flow: Flow) -> Iterator[Stage]:
    for one in flow.stages:
        yield one
        for branch in one.branches:
            yield from _deep(branch)


# What a fan-out does with an item


def enter(item: Any) -> Carrier:
    """Begin with the first branch."""
    return Carrier(item, (), (item,))


def turn(carrier: Carrier) -> Carrier:
    """Go on with the next branch."""
    item, done, values = carrier
    return Carrier(item, (*done, values), (item,))


def leave(carrier: Carrier) -> Iterable[Any]:
    """What all the branches gave, branch by branch."""
    return itertools.chain(*carrier[1], carrier[2])


@dataclass(frozen=True, slots=True)
class Inside:
    """A step of a branch."""

    kind: str
    function: Function

    def __call__(self, carrier: Carrier) -> Carrier:
        item, done, values = carrier
        return Carrier(item, done, tuple(_after(self.kind, self.function, values)))


@dataclass(frozen=True, slots=True)
class Merge:
    """What is made of one value of each branch."""

    function: Function
    name: str

    def __call__(self, carrier: Carrier) -> Any:
        gave = (*carrier[1], carrier[2])
        for at, values in enumerate(gave):
            if len(values) != 1:
                raise MergeMismatch(self.name, at + 1, len(values))
        return self.function(*(values[0] for values in gave))


def _after(kind: str, function: Function, values: Iterable[Any]) -> Iterable[Any]:
    """The values behind a step, lazily."""
    if kind == MAP:
        return map(function, values)
    if kind == FILTER:
        return filter(function, values)
    return itertools.chain.from_iterable(map(function, values))


# Steps as one function


class Failed(NamedTuple):
    """In the place of a value behind a flat-map, in the same function: why there is none."""

    error: PackedError


class Fused:
    """Several steps as one function, which pickles; made by fused(). It calls itself after the first of them.

    Each item gives one value, or, where `many`, an iterable of them.
    """

    many = False

    def __init__(self, steps: Sequence[tuple[str, Function]], name: str, module: str) -> None:
        self._steps = tuple(steps)
        self.__qualname__ = name
        self.__module__ = module

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._steps, self.__qualname__, self.__module__)

    def __repr__(self) -> str:
        return f"<{self.__qualname__}>"


class OneToOne(Fused):
    """Steps that each give one value for one."""

    def __init__(self, steps: Sequence[tuple[str, Function]], name: str, module: str) -> None:
        super().__init__(steps, name, module)
        self._functions = tuple(function for _, function in steps)

    def __call__(self, item: Any) -> Any:
        for function in self._functions:
            item = function(item)
        return item


class Many(Fused):
    """Steps some of which filter or flat-map."""

    many = True

    def __call__(self, item: Any) -> Iterable[Any]:
        values: Iterable[Any] = (item,)
        for kind, function in self._steps:
            values = _after(kind, function, values)
        return values


class Guarded(Many):
    """The same, where a value behind a flat-map that fails is a Failed and spoils no other."""

    def __call__(self, item: Any) -> Iterable[Any]:
        values: Iterable[Any] = (item,)
        step = _after
        for kind, function in self._steps:
            values = step(kind, function, values)
            if kind == FLAT:
                step = _each_guarded
        return values


def _each_guarded(kind: str, function: Function, values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if type(value) is Failed:
            yield value
            continue
        try:
            yield from outputs(kind, function, value)
        except Exception as error:  # whatever a function raises is its value's outcome
            yield Failed(pack_error(error, True))  # without a key no fused function travels


def outputs(kind: str, function: Function, value: Any) -> Iterator[Any]:
    """What a step gives for one value: where it raises, nothing, unless it had given more than travels together."""
    if kind == MAP:
        made = function(value)
        yield _awaited(made) if awaits(function) else made
        return
    values = iter(_after(kind, function, (value,)))
    yield from list(itertools.islice(values, TOGETHER))
    yield from values


def _awaited(coroutine: Any) -> Any:
    try:
        return asyncio.run(coroutine)
    finally:
        coroutine.close()  # where a loop runs here already, it has not begun


def fused(steps: Sequence[Step], name: str, *, guarded: bool = False, many: bool = False) -> tuple[Function, bool]:
    """One function for several steps, and whether that gives an iterable of values; a single function as it is.

    guarded: among what is made behind a flat-map may be a Failed. many: it shall give an iterable.
    """
    pairs = [(step.kind, step.function) for step in steps if step.function is not None]
    if len(pairs) == 1 and pairs[0][0] in ((FLAT,) if many else (MAP, FLAT)) and not isinstance(pairs[0][1], Inside):
        return pairs[0][1], pairs[0][0] == FLAT
    module = next((m for _, f in pairs if isinstance(m := getattr(f, "__module__", None), str)), __name__)
    kinds = [kind for kind, _ in pairs]
    if not many and all(kind == MAP for kind in kinds):
        return OneToOne(pairs, name, module), False
    return (Guarded if guarded and FLAT in kinds[:-1] else Many)(pairs, name, module), True
