"""The plan of a flow: which of its steps share a queue, by mode.

serial      no queue: plain Python in this process (serial.py)
vertical    one queue for all steps between batch() and reduce(): an item's whole chain in one slot
horizontal  a queue for each step, which begins when the one before has ended
streaming   a queue for each step, all at once
auto        neighbours on the same workers share a queue where neither says more than that; the others stream
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from lastcall.checks import one_of
from lastcall.errors import ConfigError
from lastcall.flow import BATCH, FLAT, GATHERS, REDUCE, Flow, Options, runs_alone
from lastcall.policy import Told
from lastcall.steps import Step, fused, lowered

SERIAL: Final = "serial"
VERTICAL: Final = "vertical"
HORIZONTAL: Final = "horizontal"
STREAMING: Final = "streaming"
AUTO: Final = "auto"
MODES: Final = (AUTO, SERIAL, HORIZONTAL, VERTICAL, STREAMING)
ON_ERRORS: Final = ("stop", "dead", "yield")
SOURCES: Final = "sources"  # the queue of producer functions

_MOST_NAME = 60  # characters of a queue's name


@dataclass(frozen=True, slots=True)
class QueuePlan:
    """One queue of a flow's job.

    many: its function gives an iterable for each item. fold: makes one value of a chunk's. gather: flow.py's BATCH or
    REDUCE, "" for none. barrier: it begins when the queue before has ended.
    """

    name: str
    function: Callable[..., Any] | None  # none of a batch
    options: Options
    many: bool = False
    fold: Callable[..., Any] | None = None
    gather: str = ""
    size: int = 0  # of a batch
    timeout_s: float = 0.0  # of a batch
    initial: tuple[Any, ...] = ()  # of a reduce
    barrier: bool = False

    @property
    def reduces_nothing(self) -> bool:
        """Whether it has to be given an item."""
        return self.gather == REDUCE and not self.initial


def planned(flow: Flow, mode: str, on_error: str = "stop") -> tuple[QueuePlan, ...]:
    """The queues of a flow, the first one first. Raises ConfigError."""
    checked_on_error(on_error)
    one_of("mode", mode, MODES)
    if mode == SERIAL:
        raise ConfigError("mode", "one that has queues", repr(mode))
    groups = _grouped(lowered(flow), mode, on_error)
    names: set[str] = {SOURCES}
    plans = []
    for at, steps in enumerate(groups):
        behind = groups[at + 1][0] if at + 1 < len(groups) else None
        folds = behind is not None and behind.kind == REDUCE and steps[0].kind not in GATHERS
        fold = behind.function if behind is not None and folds and not runs_alone(steps[0].function) else None
        plan = _queue(steps, _name(steps, names), fold, last=behind is None)
        plans.append(replace(plan, barrier=mode == HORIZONTAL and at > 0))
    return tuple(plans)


def checked_on_error(on_error: str) -> str:
    """Raises ConfigError."""
    one_of("on_error", on_error, ON_ERRORS)
    return on_error


def _queue(steps: Sequence[Step], name: str, fold: Callable[..., Any] | None, *, last: bool) -> QueuePlan:
    first = steps[0]
    if first.kind == BATCH:
        return QueuePlan(
            name, None, first.options, gather=BATCH, size=first.stage.size, timeout_s=first.stage.timeout_s
        )
    if first.kind == REDUCE:
        return QueuePlan(name, first.function, first.options, gather=REDUCE, initial=first.stage.initial)
    function, many = fused(steps, name, guarded=last, many=fold is not None)
    return QueuePlan(name, function, together([step.options for step in steps if not step.glue]), many, fold)


def _grouped(steps: Sequence[Step], mode: str, on_error: str) -> list[list[Step]]:
    """The steps that share a queue, together."""
    groups: list[list[Step]] = []
    for at, step in enumerate(steps):
        group = groups[-1] if groups else []
        if group and _may_share(group, step, mode) and _fails_alike(group, steps[at:], mode, on_error):
            group.append(step)
        else:
            groups.append([step])
    return groups


def _may_share(group: Sequence[Step], step: Step, mode: str) -> bool:
    """Whether a step may share the queue of those before it."""
    if step.kind in GATHERS or group[0].kind in GATHERS or any(map(runs_alone, (step.function, group[-1].function))):
        return False  # a slot runs many coroutines at a time, if they are all that it runs; a task as Celery does
    mine = [one.options for one in group if not one.glue]
    if step.glue or not mine or mode == VERTICAL:
        return True
    plain = not step.options.own and not any(one.own for one in mine)
    return mode == AUTO and plain and all(one.queue == step.options.queue for one in mine)


def _fails_alike(group: Sequence[Step], rest: Sequence[Step], mode: str, on_error: str) -> bool:
    """Whether an error of the next step comes to the same where it shares the queue of those before it.

    Behind a flat-map what fails is no longer the item. That is of no matter where the first error ends the job; and
    where errors are values, and all that is left is in the same queue, they take their places (steps.Guarded).
    """
    if not any(step.kind == FLAT for step in group):
        return True
    if rest[0].options.own or on_error == "dead":
        return False
    return on_error == "stop" or all(_may_share(group, step, mode) and not step.options.own for step in rest)


def together(options: Sequence[Options]) -> Options:
    """Options of several steps in one queue: the first one's workers; of bounds the tightest; retries for all; a time
    limit where each has one, of as long as all."""
    if not options:
        return Options()
    policies = [one.policy for one in options]
    timeouts = [one.timeout_s for one in policies]
    retried = [one for one in policies if one.retries]
    errors = [one.retry_on for one in retried]
    return Options(
        workers=options[0].workers,
        max_workers=min(_said(one.max_workers for one in options), default=None),
        rate=min(_said(one.rate for one in options), default=None),
        concurrency=min(_said(one.concurrency for one in options), default=None),
        policy=Told(
            retries=max(_said(one.retries for one in policies), default=None),
            backoff_s=max(_said(one.backoff_s for one in policies), default=None),
            retry_on=None if None in errors or not errors else tuple(sorted({*itertools.chain(*_said(errors))})),
            timeout_s=None if None in timeouts else sum(_said(timeouts)),
            crash_limit=max(_said(one.crash_limit for one in policies), default=None),
        ),
    )


def _said(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _name(steps: Sequence[Step], taken: set[str]) -> str:
    """Of the queue of these steps: theirs, joined by "+"."""
    names = [step.name for step in steps if not step.glue] or [steps[0].name]
    name = "+".join(names)
    if len(name) > _MOST_NAME:
        name = f"{names[0][: _MOST_NAME - 10]}+{len(names) - 1}" if len(names) > 1 else name[:_MOST_NAME]
    numbered = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    name = next(one for one in numbered if one not in taken)
    taken.add(name)
    return name
