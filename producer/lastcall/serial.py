"""A flow in mode "serial": plain Python, in this process, one item after the other. What the other modes agree with.

It is lazy: nothing runs before its result is asked for, and input may be endless. Time limits and rates do not hold
here, and what is tried again is so at once.
"""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from lastcall.current import running
from lastcall.errors import ConfigError, DeadLetters, NothingToReduce, NotRecorded, QueueCancelled, WaitTimeout
from lastcall.flow import BATCH, REDUCE, Flow
from lastcall.letters import DeadLetter
from lastcall.map import Failure
from lastcall.plan import checked_on_error
from lastcall.settings import Settings
from lastcall.state.records import Status
from lastcall.steps import Step, lowered, outputs
from lastcall.waiting import Deadline

if TYPE_CHECKING:
    from lastcall.state.ledger import Ledger


class _Error(NamedTuple):
    """In the place of a value: why there is none."""

    error: Exception


class _Tally:
    """One step's counters, and what is told to a function that asks where it runs."""

    def __init__(self, job: str, step: Step) -> None:
        self.step = step
        self.put = self.done = self.failed = self.dead = 0
        self.job, self.queue, self.made, self.worker = job, step.name, job, "serial"
        self.attempt = 1
        self.policy = step.options.policy.policy

    @property
    def item(self) -> str:
        return f"serial#{self.put - 1}"

    @property
    def settings(self) -> Settings:
        """Of this process, whose functions may have a server all the same."""
        return Settings.load()

    def check_wait(self, what: str, twin: str) -> None:
        """It may block."""

    def help(self, ledger: Ledger) -> bool:
        """There is nobody here to run another queue's chunks."""
        del ledger
        return False


class SerialJob:
    """One run of a flow in this process; made by flow.run() and by client.run(mode="serial"). Used as other jobs are.

    `letters`: what was given up on, with on_error="dead".
    """

    def __init__(self, flow: Flow, items: Iterable[Any], *, on_error: str = "stop") -> None:
        self.id = f"serial-{uuid.uuid4().hex}"
        self.letters: list[DeadLetter] = []
        self._on_error = checked_on_error(on_error)
        self._tallies = [_Tally(self.id, step) for step in lowered(flow)]
        self._endless = is_endless(items)
        if is_empty(items):
            check_reducible(tally.step for tally in self._tallies)
        self._created_ms, self._ended_ms = int(time.time() * 1000), 0
        self._state = "NEW"
        self._values = self._run(items)

    def __repr__(self) -> str:
        return f"<SerialJob {self.id}>"

    def __enter__(self) -> SerialJob:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.cancel()

    def results(self, *, ordered: bool = True, timeout: float | None = None) -> Iterator[Any]:
        """What the last stage gives, in order. Goes on where it was left; the rest is as FlowJob.results() says."""
        del ordered, timeout  # they come in order, and each when it is asked for
        return self._values

    def wait(self, timeout: float | None = None) -> list[Status]:
        """Run to the end, passing over results. timeout: seconds.

        Raises what results() and FlowJob.wait() raise; ConfigError where the input is known to have no end.
        """
        if self._endless:
            raise endless(self._endless)
        deadline = Deadline(timeout)
        for _ in self._values:
            if deadline.passed:
                raise WaitTimeout(f"job {self.id}", deadline.waited_s)
        if self._state == "CANCELLED":
            raise QueueCancelled(self.id)
        for tally in self._tallies:
            if tally.dead:
                raise DeadLetters(tally.step.name, tally.dead, tally.put)
        return self.status()

    def progress(self, timeout: float | None = None, *, total: int | None = None) -> list[Status]:
        """As wait(): this process is busy with the job, and draws no bars."""
        del total
        return self.wait(timeout)

    def status(self) -> list[Status]:
        """Each step's counters."""
        return [self._status(tally) for tally in self._tallies]

    def cancel(self) -> list[Status]:
        """Run no more of it."""
        self._values.close()
        self._end("CANCELLED")
        return self.status()

    def detach(self, timeout: float | None = None) -> str:
        """Raises ConfigError: nobody else runs it."""
        del timeout
        raise ConfigError("detach()", "called on a job that workers run", 'one in mode "serial"', "choose another mode")

    @property
    def history(self) -> NoReturn:
        """Raises NotRecorded, as what is told of it does."""
        raise NotRecorded(self.id)

    @property
    def watch(self) -> NoReturn:
        """Raises NotRecorded."""
        raise NotRecorded(self.id)

    def on(self, kind: str, callback: Callable[..., object]) -> NoReturn:
        """Raises NotRecorded."""
        raise NotRecorded(self.id)

    def trace(self, item: int | str) -> NoReturn:
        """Raises NotRecorded."""
        raise NotRecorded(self.id)

    def gantt(self, path: str | os.PathLike[str], *, title: str | None = None) -> NoReturn:
        """Raises NotRecorded."""
        raise NotRecorded(self.id)

    def dead_letters(self) -> Iterator[DeadLetter]:
        """The items that were given up on, with on_error="dead"."""
        return iter(self.letters)

    def _run(self, items: Iterable[Any]) -> Generator[Any, None, None]:
        self._state = "OPEN"
        try:
            yield from self._run_all(items)
        finally:
            self._end("CANCELLED")  # if it has not ended

    def _run_all(self, items: Iterable[Any]) -> Iterator[Any]:
        broken: list[Exception] = []
        values: Iterator[Any] = _guarded(items, broken)
        for tally in self._tallies:
            values = self._through(tally, values)
        for value in values:
            if type(value) is not _Error:
                yield value
            elif self._on_error == "yield":
                yield Failure(value.error)
            else:
                raise value.error
        self._end("INCOMPLETE" if broken else "DRAINED")
        if broken:
            raise broken[0]

    def _through(self, tally: _Tally, values: Iterator[Any]) -> Iterator[Any]:
        step = tally.step
        if step.kind == BATCH:
            return _batched(tally, values)
        if step.kind == REDUCE:
            return self._reduced(tally, values)
        return self._each(tally, values)

    def _each(self, tally: _Tally, values: Iterator[Any]) -> Iterator[Any]:
        kind, function = tally.step.kind, tally.step.function
        assert function is not None
        for value in values:
            if type(value) is _Error:
                yield value
                continue
            tally.put += 1
            try:
                yield from self._tried(tally, lambda value=value: outputs(kind, function, value))  # type: ignore[misc]
            except Exception as error:  # whatever a function raises is its item's outcome
                yield from self._given_up(tally, value, error)
            else:
                tally.done += 1

    def _tried(self, tally: _Tally, made: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """What a function gives, tried as often as its stage says; what it gave before is left out."""
        given = 0
        for raises in itertools.count():
            tally.attempt = raises + 1
            ran = itertools.islice(made(), given, None)
            try:
                while True:
                    before = running.set(tally)
                    try:
                        value = next(ran)
                    except StopIteration:
                        return
                    finally:
                        running.reset(before)
                    given += 1
                    yield value
            except Exception as error:
                if not tally.policy.retries_after(error, raises):
                    raise

    def _reduced(self, tally: _Tally, values: Iterator[Any]) -> Iterator[Any]:
        function, total = tally.step.function, list(tally.step.stage.initial)
        assert function is not None
        for value in values:
            if type(value) is _Error:
                yield value
                continue
            tally.put += 1
            try:
                total = [function(total[0], value)] if total else [value]
            except Exception as error:  # whatever a function raises is its item's outcome
                yield from self._given_up(tally, value, error)
            else:
                tally.done += 1
        if not total:
            raise NothingToReduce(tally.step.name)
        yield total[0]

    def _given_up(self, tally: _Tally, value: Any, error: Exception) -> Iterator[Any]:
        if self._on_error == "dead":
            tally.dead += 1
            self.letters.append(DeadLetter(tally.item, value, error, tally.attempt, tally.worker))
        else:
            tally.done += 1
            tally.failed += 1
            yield _Error(error)

    def _end(self, state: str) -> None:
        if not self._ended_ms:
            self._state, self._ended_ms = state, int(time.time() * 1000)

    def _status(self, tally: _Tally) -> Status:
        inside = tally.put - tally.done - tally.dead
        return Status(
            job=self.id, name=tally.step.name, state=self._state, epoch=1, put=tally.put, ready=0,
            leased=0 if self._ended_ms else inside, delayed=0, done=tally.done, dead=tally.dead,
            cancelled=inside if self._ended_ms else 0, unread=0, live=0, expected=0, function=tally.step.name,
            workers="", maxsize=0, tickets=0, started=0, chunks_ready=0, created_ms=self._created_ms,
            ended_ms=self._ended_ms or None, failed=tally.failed,
        )  # fmt: skip


def is_endless(items: object) -> str:
    """How an input is named that is known to have no end; "" if it is not."""
    if isinstance(items, itertools.count | itertools.cycle):
        return f"itertools.{type(items).__name__}"
    if isinstance(items, itertools.repeat):
        try:
            items.__length_hint__()
        except TypeError:  # not told how often
            return "itertools.repeat"
    return ""


def endless(name: str) -> ConfigError:
    """Why the end of such an input cannot be waited for."""
    return ConfigError("wait()", "called on a job whose input ends", name, "iterate over its results() instead, or "
                       "take a part: itertools.islice(items, n)")  # fmt: skip


def is_empty(items: object) -> bool:
    """Whether it is known before anything runs that there is no item."""
    return isinstance(items, Sized) and len(items) == 0


def check_reducible(steps: Iterable[Step]) -> None:
    """Raises NothingToReduce where one of these is to reduce what comes of no item."""
    for step in steps:
        if step.kind == REDUCE and step.stage.initial:
            return
        if step.kind == REDUCE:
            raise NothingToReduce(step.name)


def _guarded(items: Iterable[Any], broken: list[Exception]) -> Iterator[Any]:
    """The items; what the input raises is raised when the results of what came before were read."""
    try:
        yield from items
    except Exception as error:
        broken.append(error)


def _batched(tally: _Tally, values: Iterator[Any]) -> Iterator[Any]:
    together: list[Any] = []
    for value in values:
        if type(value) is _Error:
            yield value
            continue
        tally.put += 1
        tally.done += 1
        together.append(value)
        if len(together) == tally.step.stage.size:
            yield together
            together = []
    if together:
        yield together
