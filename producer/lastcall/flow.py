"""Flow: a big step made of small ones.

    flow = Flow(fetch, workers="io") | parse | score
    for result in client.run(flow, urls).results(): ...

A flow is a value: it holds no data and no connection, `|` makes a new one, and it may be run as often as one likes, in
this process (`flow.run()`) or by a client's workers. What it is made into: steps.py, plan.py.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from lastcall.celerytask import task_of, workers_of
from lastcall.checks import plain_name, positive, seconds
from lastcall.coroutine import check_function
from lastcall.errors import ConfigError
from lastcall.policy import RetryOn, Told, told, told_of

if TYPE_CHECKING:
    from lastcall.serial import SerialJob

MAP: Final = "map"  # kinds of stages
FLAT: Final = "flat"
FILTER: Final = "filter"
BATCH: Final = "batch"
REDUCE: Final = "reduce"
FAN_OUT: Final = "fan_out"
GATHERS: Final = (BATCH, REDUCE)

_NOTHING: Final[Any] = object()  # of reduce(initial=): that none was given

_MOST_RATE = 1e9
_UNPLAIN = re.compile(r"[/{}\s\0<>]+")

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Options:
    """What a stage's queue is to be like. None: not said."""

    workers: str | None = None
    max_workers: int | None = None
    rate: float | None = None  # items a second, in the whole cluster
    concurrency: int | None = None  # coroutines of a slot
    policy: Told = Told()  # noqa: RUF009  # frozen

    @property
    def queue(self) -> str:
        """The Celery queue of its workers."""
        return self.workers or "cpu"

    @property
    def own(self) -> bool:
        """Whether more is said than which workers."""
        return replace(self, workers=None) != Options()


@dataclass(frozen=True, slots=True, repr=False)
class Stage:
    """One step of a flow, made by stage(), filter(), batch(), reduce(), fan_out(), or of a plain function.

    As with flows, `|` makes a flow of it and what follows.
    """

    kind: str
    function: Function | None = None
    name: str = ""
    named: bool = False  # the name was given
    options: Options = Options()
    size: int = 0  # of batch
    timeout_s: float = 0.0  # of batch, 0 for none
    initial: tuple[Any, ...] = ()  # of reduce, the one or none
    branches: tuple[Flow, ...] = ()  # of fan_out; its function is what merges

    def __or__(self, other: object) -> Flow:
        return Flow._of((self, *_stages(other)))

    def __ror__(self, other: object) -> Flow:
        return Flow._of((*_stages(other), self))

    def __repr__(self) -> str:
        if self.kind == FAN_OUT:
            merge = [f"merge={_called(self.function)}"] if self.function is not None else []
            return f"fan_out({', '.join([*(' | '.join(map(repr, flow.stages)) for flow in self.branches), *merge])})"
        said = [_called(self.function)] if self.function is not None else []
        if self.kind == BATCH:
            said += [str(self.size), *([f"timeout_s={self.timeout_s:g}"] if self.timeout_s else [])]
        said += [f"initial={value!r}" for value in self.initial]
        said += [f"name={self.name!r}"] if self.named else []
        for field in fields(Options):
            value = getattr(self.options, field.name)
            if field.name != "policy" and value is not None:
                said.append(f"{field.name}={value!r}")
        policy = self.options.policy
        said += [f"{_SAID.get(name, name)}={getattr(policy, name)!r}" for name in policy.said]
        if self.kind in (MAP, FLAT):
            return said[0] if len(said) == 1 else f"stage({', '.join(said)})"
        return f"{self.kind}({', '.join(said)})"


_SAID = {"timeout_s": "timeout"}


class Flow:
    """Stages one after the other: each takes what the one before gives. Immutable, reusable, picklable.

    step: a function, a stage() or another flow; options: as in stage(), where it is a function.
    `flow | step` adds one. A generator function streams on each value that it yields.
    Raises ConfigError where a step is not callable, an option has no meaning or two stages have one name.
    """

    __slots__ = ("stages",)
    stages: tuple[Stage, ...]

    def __init__(self, step: Function | Stage | Flow, /, **options: Any) -> None:
        if options and isinstance(step, Stage | Flow):
            raise ConfigError("options", "given with a function", f"{', '.join(options)} with {step!r}",
                              "give them to stage(function, ...)")  # fmt: skip
        self._set((stage(step, **options),) if options and not isinstance(step, Stage | Flow) else _stages(step))

    @classmethod
    def _of(cls, stages: tuple[Stage, ...]) -> Flow:
        flow = cls.__new__(cls)
        flow._set(stages)
        return flow

    def _set(self, stages: tuple[Stage, ...]) -> None:
        object.__setattr__(self, "stages", _with_names(stages))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a flow cannot be changed: flow | step makes a new one")

    def __or__(self, other: object) -> Flow:
        return Flow._of((*self.stages, *_stages(other)))

    def __ror__(self, other: object) -> Flow:
        return Flow._of((*_stages(other), *self.stages))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Flow) and self.stages == other.stages

    def __hash__(self) -> int:
        return hash(tuple((one.kind, one.name) for one in self.stages))

    def __reduce__(self) -> tuple[Any, ...]:
        return Flow._of, (self.stages,)

    def __len__(self) -> int:
        return len(self.stages)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    def __repr__(self) -> str:
        first, *others = self.stages
        shown = repr(first)
        shown = f"Flow({shown.removeprefix('stage(').removesuffix(')') if shown.startswith('stage(') else shown})"
        return " | ".join([shown, *map(repr, others)])

    def run(self, items: Iterable[Any], *, on_error: str = "stop") -> SerialJob:
        """Run it here and now, without workers or a server: mode="serial" of client.run(), which says the rest."""
        from lastcall.serial import SerialJob

        return SerialJob(self, items, on_error=on_error)


def stage(
    function: Function, /, *, name: str | None = None, workers: str | None = None, max_workers: int | None = None,
    rate: float | None = None, retries: int | None = None, backoff_s: float | None = None,
    retry_on: RetryOn | None = None, timeout: float | None = None, crash_limit: int | None = None,
    concurrency: int | None = None, flat: bool | None = None,
) -> Stage:  # fmt: skip
    """A function as a stage of a flow, with options of its own.

    name: in status and bars (the function's). workers: the Celery queue of those who run it ("cpu"). max_workers: slots
    at the same time, rate: items a second, each in the whole cluster. retries, backoff_s, retry_on, timeout,
    crash_limit: as in client.queue(), or as @task said. concurrency: coroutines that a slot runs at a time.
    flat: what it gives for an item is an iterable, whose values go on one by one (None: if it is a generator function).
    Raises ConfigError.
    """
    _callable("a stage", function)
    if inspect.isasyncgenfunction(function) or (flat and awaits(function)):
        raise ConfigError(
            "a stage", "a function, a generator function or a coroutine function",
            f"{_called(function)}, which is more than one of them", "put a generator behind coroutines",
        )  # fmt: skip
    if flat is not None and not isinstance(flat, bool):
        raise ConfigError("flat", "True, False or None", repr(flat))
    options = _options(
        workers, max_workers, rate, concurrency,
        told(retries=retries, backoff_s=backoff_s, retry_on=retry_on, timeout=timeout, crash_limit=crash_limit),
    )  # fmt: skip
    kind = FLAT if (_generates(function) if flat is None else flat) else MAP
    return _named(Stage(kind, function, options=options), name, _name_of(function))


def filter(predicate: Function, /, *, name: str | None = None, workers: str | None = None) -> Stage:
    """A stage that lets those items pass for which `predicate` is true. workers: those of the stage before.

    Raises ConfigError.
    """
    _plain("filter()", predicate)
    made = Stage(FILTER, predicate, options=_options(workers))
    return _named(made, name, _name_of(predicate))


def batch(n: int, timeout_s: float | None = None, *, name: str | None = None, workers: str | None = None) -> Stage:
    """A stage that makes lists of `n` items, in the order of the source; the last one may be shorter.

    timeout_s: after which a list goes on that is not full (not in mode "serial"). Raises ConfigError.
    """
    positive("n", n)
    if timeout_s is not None:
        seconds("timeout_s", timeout_s)
    made = Stage(BATCH, size=n, timeout_s=timeout_s or 0.0, options=_options(workers))
    return _named(made, name, f"batch-{n}")


def reduce(
    function: Function, /, initial: Any = _NOTHING, *, name: str | None = None, workers: str | None = None
) -> Stage:
    """A stage that makes one value of all: function(function(a, b), c), where the function is associative.

    Chunks are reduced where they are made, in parallel, their values in the order of the source; `initial` comes before
    all. Of no item at all, without `initial`, the job raises NothingToReduce, a TypeError. Raises ConfigError.
    """
    _plain("reduce()", function)
    first = () if initial is _NOTHING else (initial,)
    made = Stage(REDUCE, function, options=_options(workers), initial=first)
    return _named(made, name, _name_of(function))


def fan_out(*branches: Function | Stage | Flow, merge: Function | None = None, name: str | None = None) -> Stage:
    """A stage that gives each item to every branch, a function, a stage or a flow.

    What the branches give for an item goes on, branch by branch. merge: what goes on is merge(of the first branch, of
    the second, ...), each of which then gives exactly one value; one that does not is an error of the item.
    Branches hold no batch() and no reduce(). Raises ConfigError.
    """
    if len(branches) < 2:
        raise ConfigError("branches", "two or more", str(len(branches)), "fan_out(resize, tag)")
    if merge is not None:
        _plain("merge", merge)
    flows = tuple(branch if isinstance(branch, Flow) else Flow(branch) for branch in branches)
    for flow in flows:
        check_acyclic(flow)
        for one in all_stages(flow):
            if one.kind in GATHERS:
                raise ConfigError(
                    "a branch", "without batch() and reduce()", repr(one), "put them behind the fan_out()"
                )
            if runs_alone(one.function):
                raise ConfigError(
                    "a branch",
                    "without coroutine functions and Celery tasks",
                    repr(one),
                    "put them before the fan_out()",
                )
    return _named(Stage(FAN_OUT, merge, branches=flows), name, "fan_out")


def all_stages(flow: Flow) -> Iterator[Stage]:
    """Its stages, those of branches included."""
    for one in flow.stages:
        yield one
        for branch in one.branches:
            yield from all_stages(branch)


def check_acyclic(flow: Flow, inside: tuple[int, ...] = ()) -> None:
    """No flow is a part of itself: `|` makes none, pickles and other ways around it can. Raises ConfigError."""
    if id(flow) in inside:
        raise ConfigError(
            "flow", "a chain without a cycle", "a flow that contains itself", "make it with | and fan_out()"
        )
    for one in flow.stages:
        for branch in one.branches:
            check_acyclic(branch, (*inside, id(flow)))


def _stages(step: object) -> tuple[Stage, ...]:
    if isinstance(step, Flow):
        return step.stages
    if isinstance(step, Stage):
        return (step,)
    function: Any = step
    return (stage(function),)


def _with_names(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The stages, each with a name of its own. Raises ConfigError where two were given one."""
    given: set[str] = set()
    for one in stages:
        for inner in (one, *(deep for branch in one.branches for deep in all_stages(branch))):
            if inner.named and inner.name in given:
                raise ConfigError(
                    "name", "another for each stage of a flow", f"{inner.name!r} twice", "stage(f, name=)"
                )
            if inner.named:
                given.add(inner.name)
    return stages


def _named(made: Stage, name: str | None, otherwise: str) -> Stage:
    if name is None:
        return replace(made, name=_UNPLAIN.sub("-", otherwise).strip("-") or made.kind)
    plain_name("name", name)
    return replace(made, name=name, named=True)


def _options(
    workers: str | None, max_workers: int | None = None, rate: float | None = None, concurrency: int | None = None,
    policy: Told | None = None,
) -> Options:  # fmt: skip
    if workers is not None:
        plain_name("workers", workers)
    for option, value in (("max_workers", max_workers), ("concurrency", concurrency)):
        if value is not None:
            positive(option, value)
    given: object = rate
    if given is not None and (
        isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= _MOST_RATE
    ):
        raise ConfigError("rate", "a number of items a second, more than 0", repr(rate))
    return Options(workers, max_workers, rate, concurrency, policy or Told())


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _MOST_RATE


def options_of(one: Stage) -> Options:
    """A stage's options, and what @task says of its function; a Celery task has its workers, too."""
    options = replace(one.options, policy=one.options.policy.over(told_of(one.function)))
    if options.workers is None and one.function is not None and is_celery_task(one.function):
        return replace(options, workers=workers_of(one.function))
    return options


def _callable(what: str, function: object) -> None:
    if not callable(function):
        raise ConfigError(what, "callable: a function, a partial, a stage() or a Flow", repr(function))
    check_function(function)


def _plain(what: str, function: object) -> None:
    _callable(what, function)
    if runs_alone(function):
        kind = "coroutine function" if awaits(function) else "Celery task"
        instead = "its run() is one: task.run" if is_celery_task(function) else ""
        raise ConfigError(what, "given a plain function", f"the {kind} {function!r}", instead)


def awaits(function: object) -> bool:
    """Whether what a call of it gives is to be awaited."""
    of_its_class: Any = getattr(type(function), "__call__", None)  # noqa: B004  # what a callable object does
    return inspect.iscoroutinefunction(function) or (
        not inspect.isclass(function) and inspect.iscoroutinefunction(of_its_class)
    )


def is_celery_task(function: object) -> bool:
    """Whether Celery's own tracer has to run it."""
    return task_of(function) is not None


def runs_alone(function: object) -> bool:
    """Whether a slot has to know it for what it is, so that it cannot be a part of another function."""
    return awaits(function) or is_celery_task(function)


def _generates(function: Function) -> bool:
    if inspect.isgeneratorfunction(function):
        return True
    of_its_class: Any = getattr(type(function), "__call__", None)  # noqa: B004  # what a callable object does
    return not inspect.isclass(function) and bool(inspect.isgeneratorfunction(of_its_class))


def _name_of(function: Function) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def _called(function: Function | None) -> str:
    if isinstance(function, functools.partial):
        args = [*map(repr, function.args), *(f"{name}={value!r}" for name, value in function.keywords.items())]
        return f"partial({', '.join([_called(function.func), *args])})"
    named = hasattr(function, "__qualname__")
    return str(getattr(function, "__qualname__", "")).rpartition("<locals>.")[2] if named else repr(function)
