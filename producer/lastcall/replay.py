"""Replay: run one recorded step of an item again, in this process, with the very arguments, and compare.

Nothing is put and nothing is completed: the job does not change, but the function's own effects happen again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lastcall import functions
from lastcall.current import running
from lastcall.errors import ConfigError
from lastcall.flowoptions import MANY
from lastcall.history import Event, History
from lastcall.payload import CALL, STAR
from lastcall.state import keys
from lastcall.trace import NOT_KEPT, find, queues_in_order, results_of, value_of

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.settings import Settings
    from lastcall.state.ledger import Ledger

_FAILED = ("failed", "retried", "dead")


class _Run(Protocol):
    def __call__(self, function: Callable[..., Any], /, *args: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Replay:
    """What a step gave now, and what was recorded of it.

    event: of the step; value: its arguments. outputs: what it gave now, () if it raised `error`. recorded: what it gave
    then, None where that was not kept; recorded_error: "Type: message", "" if it did not raise.
    """

    event: Event
    value: Any
    outputs: tuple[Any, ...]
    error: BaseException | None
    recorded: tuple[Any, ...] | None
    recorded_error: str

    @property
    def same(self) -> bool | None:
        """Whether both came to the same; None where that is not known."""
        if self.error is not None or self.recorded_error:
            return self.recorded_error == ("" if self.error is None else said_of(self.error))
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
    history = list(History(connection, job))
    way = find(history, job, item)
    names = queues_in_order(connection, job)
    if queue and queue not in names:
        raise ConfigError("queue", f"one of the job's: {', '.join(names)}", repr(queue))
    of_it = [(event, at) for event, at in way.events if queue in ("", event.queue) and event.kind in (*_FAILED, "done")]
    of_it = [(event, at) for event, at in of_it if at not in event.failed]
    failed = [one for one in of_it if one[0].kind in _FAILED]
    for event, index in reversed(failed or of_it):
        value = value_of(connection, event, index)
        if value is not NOT_KEPT:
            break
    else:
        raise ConfigError(
            "the step", "one whose arguments were kept", f"item {item} of job {job}, whose were not",
            'failures keep theirs; run the job with record="all" for the others, up to some kB a chunk',
        )  # fmt: skip
    if isinstance(value, BaseException):
        raise value
    outputs, error = _run(connection, event, index, value, run)
    return Replay(
        event, value, outputs, error,
        None if event.kind in _FAILED else _recorded(connection, history, names, event, index), event.error,
    )  # fmt: skip


def said_of(error: BaseException) -> str:
    """How an event tells of an exception."""
    return f"{type(error).__module__}.{type(error).__qualname__}: {error}".removeprefix("builtins.")


def _run(
    connection: Connection, event: Event, index: int, value: Any, run: _Run | None
) -> tuple[tuple[Any, ...], BaseException | None]:
    meta: Any = connection.redis.hmget(
        keys.of_queue(event.job, event.queue, "meta"), "function", "style", "created", "identity"
    )
    wire, style = meta[0], (meta[1] or b"").decode()
    if not wire:
        raise ConfigError("the step", "of a queue with a function", f"queue {event.queue}, which has none")
    sealer = connection.sealer
    calling = functions.load(sealer.open(wire, event.job, event.queue, "function")[:3], "here", sealer.keyed)
    args: Iterable[Any] = value if style == STAR else (value,)
    if style == CALL:
        calling = functions.load(value[0], "here", sealer.keyed)
        args = value[1]
    here = _Here(event, index, meta[2].decode(), connection.settings)
    before = running.set(here)
    try:
        gave = run(calling, *args) if run is not None else calling(*args)
        return tuple(gave) if style == MANY else (gave,), None
    except Exception as error:  # the function's own, which is what was asked for
        return (), error
    finally:
        running.reset(before)


def _recorded(
    connection: Connection, history: list[Event], names: list[str], event: Event, index: int
) -> tuple[Any, ...] | None:
    """What an item came to in a step: the results that were kept, or what the next queue was given of it."""
    siblings = [at for at, one in enumerate(event.source) if one == event.source[index]] if event.source else [index]
    if event.queue == names[-1]:
        found = results_of(connection, event, index)
        return tuple(found) if event.gave and (found or len(siblings) == 1) else None
    if len(siblings) > 1 or not event.source:
        return None  # which of them came of it is not known
    following, source = names[names.index(event.queue) + 1], event.source[index]
    # The outputs of a chunk are named after it.
    its_own = re.compile(rf"\d+-{re.escape(event.root)}(-\d+-\d+)?(\.\d+)?")
    there = [other for other in history if other.kind == "done" and other.queue == following]
    outputs = [other for other in there if its_own.fullmatch(other.root)]
    given = [
        value_of(connection, one, at) for one in outputs for at in range(len(one.source)) if one.source[at] == source
    ]
    return tuple(given) if given and NOT_KEPT not in given else None


class _Here:
    """What `lastcall.current` tells."""

    worker = "here"

    def __init__(self, event: Event, index: int, made: str, settings: Settings) -> None:
        self.settings = settings
        self.job, self.queue, self.made = event.job, event.queue, made
        self.item = f"{event.root}#{event.first + index}"
        self.attempt = max(event.attempt, 1)

    def help(self, ledger: Ledger) -> bool:
        """There are workers for that."""
        return False
