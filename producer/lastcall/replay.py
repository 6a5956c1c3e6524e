"""Replay: run one recorded step of an item again, in this process, with the very arguments, and compare.

Nothing is put and nothing is completed: the job does not change, but the function's own effects happen again.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lastcall import functions
from lastcall.current import running
from lastcall.errors import BadEnvelope, ConfigError, NotDeserializable
from lastcall.flowoptions import MANY
from lastcall.history import Event
from lastcall.outcome import in_short, pack_error
from lastcall.payload import CALL, STAR
from lastcall.state.ledger import Ledger
from lastcall.trace import NOT_KEPT, Opener, bare, find, natural, plain, queues_in_order, read

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.settings import Settings

_FAILED = ("failed", "retried", "dead")


class _Run(Protocol):
    def __call__(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Replay:
    """What a step gave now, and what was recorded of it.

    event: of the step; value: its arguments. outputs: what it gave now, () if it raised `error`, said: "Type: message".
    recorded: what it gave then, None where that is not known; recorded_error: "Type: message", "" if it did not raise.
    In the branches of a fan-out outputs are a lastcall.steps.Carrier.
    """

    event: Event
    value: Any
    outputs: tuple[Any, ...]
    error: BaseException | None
    said: str
    recorded: tuple[Any, ...] | None
    recorded_error: str

    @property
    def same(self) -> bool | None:
        """Whether both came to the same; None where that is not known."""
        if self.event.kind in _FAILED and not self.recorded_error:
            return False  # its slot died then, and here it has come to an end
        if self.said or self.recorded_error:
            return self.recorded_error == self.said
        if self.recorded is None:
            return None
        try:
            return bool(self.outputs == self.recorded)
        except Exception:  # values of the user's, whose comparison may raise or give an array
            return None


def replay(
    connection: Connection, job: str, item: str | int, *, queue: str = "", run: _Run | None = None
) -> Replay:  # fmt: skip
    """Run a recorded step of an item again, here: the one that failed last, or, where none did, the last one recorded.

    item: as in trace(). queue: the stage's, for another step than that. run: calls the function, such as a debugger's
    runcall. Raises UnknownJob, UnknownItem; ConfigError where that step's arguments were not kept; and what loading the
    function raises. An exception of the function itself is the replay's `error`.
    """
    history = read(connection, job)
    way = find(history, job, item)
    names = queues_in_order(connection, job)
    if queue and queue not in names:
        raise ConfigError("queue", f"one of the job's: {', '.join(names)}", repr(queue))
    stages = {name: _Stage(connection, job, name) for name in names}
    if queue and (unfit := stages[queue].error) is not None:
        raise unfit
    of_it = [
        (event, at)
        for event, at in way.events
        if event.kind in (*_FAILED, "done") and at not in event.failed
        and (event.queue == queue or (not queue and event.queue in stages and stages[event.queue].error is None))
    ]  # fmt: skip
    opened = Opener(connection)
    failed = [one for one in of_it if one[0].kind in _FAILED]
    for event, index in reversed(failed or of_it):
        value = opened.raw(event, index)
        if value is not NOT_KEPT:
            break
    else:
        raise ConfigError(
            "the step", "one whose arguments were kept", f"item {item} of job {job}, whose were not",
            'failures keep theirs; run the job with record="all" for the others, up to 4 kB a chunk',
        )  # fmt: skip
    if isinstance(value, BadEnvelope | NotDeserializable):
        raise value
    stage = stages[event.queue]
    outputs, error = stage.run(event, index, value, run)
    recorded = None if event.kind in _FAILED else _recorded(opened, history, names, stage, event, index)
    shown = tuple(bare(output) for output in outputs)
    said = "" if error is None else in_short(pack_error(error, connection.sealer.keyed))
    return Replay(event, plain(value), shown, error, said, recorded, event.error)


class _Stage:
    """A queue's function, here. error: why an item of it cannot be run alone."""

    def __init__(self, connection: Connection, job: str, name: str) -> None:
        self._connection, self._place = connection, (job, name)
        meta = Ledger(connection.redis, job, [name]).meta()
        self._wire, self.style = meta.get("function"), meta.get("style", b"").decode()
        self._identity = meta.get("identity", b"").decode()
        self.error: ConfigError | None = None
        if meta.get("gather"):
            self.error = ConfigError(
                "the step", "of a function of one item", f"queue {name}, which takes many together"
            )
        elif not self._wire:
            self.error = ConfigError("the step", "of a queue with a function", f"queue {name}, which has none")

    @property
    def folds(self) -> bool:
        """Whether a chunk's outputs become one."""
        return len(self._opened) > 3 and self._opened[3] is not None

    @functools.cached_property
    def _opened(self) -> Sequence[Any]:
        assert self._wire is not None
        opened: Sequence[Any] = self._connection.sealer.open(self._wire, *self._place, "function")
        return opened

    def run(
        self, event: Event, index: int, value: Any, run: _Run | None
    ) -> tuple[tuple[Any, ...], BaseException | None]:
        """Outputs, or what it raised."""
        sealer = self._connection.sealer
        calling = functions.load(self._opened[:3], "here", sealer.keyed)
        args: Iterable[Any] = value if self.style == STAR else (value,)
        kwargs: Mapping[str, Any] = {}
        if self.style == CALL:
            calling = functions.load(value[0], "here", sealer.keyed)
            args, kwargs = value[1], value[2]
        here = _Here(event, index, self._identity, self._connection.settings)
        before = running.set(here)
        try:
            gave = run(calling, *args, **kwargs) if run is not None else calling(*args, **kwargs)
            if inspect.iscoroutine(gave):
                gave = asyncio.run(gave)
            return tuple(gave) if self.style == MANY else (gave,), None
        except Exception as error:  # the function's own, which is what was asked for
            return (), error
        finally:
            running.reset(before)


def _recorded(
    opened: Opener, history: list[Event], names: list[str], stage: _Stage, event: Event, index: int
) -> tuple[Any, ...] | None:
    """What an item came to in a step: the results that were kept, or what the next queue was given of it.

    None where that is not known: unless all that the chunk gave is there, this may not be all that the item gave.
    """
    if stage.folds and event.items > 1:
        return None
    number = event.first + index
    if event.queue == names[-1]:
        parts = [event]
        if event.items == 1:
            parts += [one for one in history if one.kind == "emitted" and one.root == event.root and one.first == number
                      and one.queue == event.queue]  # fmt: skip
        if sum(opened.count(part) for part in parts) != event.made:
            return None
        parts.sort(key=lambda part: natural(part.entry))
        found = [
            value for part in parts for value in opened.results(part, 0 if part is not event else index, names[-1])
        ]
        alone = event.items == 1 or (event.source and len(event.siblings(index)) == 1)
        return tuple(found) if found or alone else None
    if not event.source or len(event.siblings(index)) > 1:
        return None  # which of them came of it is not known
    following, source = names[names.index(event.queue) + 1], event.source[index]
    sources = {one for at, one in enumerate(event.source) if at not in event.failed}
    # The outputs of a chunk are named after it. What was tried again there has been there before.
    its_own = re.compile(rf"\d+-{re.escape(event.root)}(-\d+-\d+)?(\.\d+)?")
    given = {
        (natural(other.root), other.first + at): (other, at)
        for other in sorted(history, key=lambda one: one.payload is not None)  # the last wins
        if other.kind in (*_FAILED, "done") and other.queue == following and its_own.fullmatch(other.root)
        for at, one in enumerate(other.source)
        if one in sources and (at not in other.failed or other.payload is not None)
    }
    if len(given) != event.made:
        return None
    values = [bare(opened.raw(*given[key])) for key in sorted(given) if given[key][0].source[given[key][1]] == source]
    return tuple(values) if NOT_KEPT not in values else None


class _Here:
    """What `lastcall.current` tells."""

    worker = "here"

    def __init__(self, event: Event, index: int, made: str, settings: Settings) -> None:
        self.settings = settings
        self.job, self.queue, self.made = event.job, event.queue, made
        self.item = f"{event.root}#{event.first + index}"
        self.attempt = max(event.attempt, 1)

    def check_wait(self, what: str, twin: str) -> None:
        """It may block."""

    def help(self, ledger: Ledger) -> bool:
        """There are workers for that."""
        return False
