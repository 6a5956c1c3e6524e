"""FlowResults: what a flow's job gives, read out of its last queue, until it has ended."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from lastcall.errors import DeadLetters
from lastcall.map import Failure, of_item
from lastcall.outcome import unpack_error
from lastcall.results import Entry, Reader
from lastcall.steps import Failed
from lastcall.waiting import raise_for

if TYPE_CHECKING:
    from lastcall.flowjob import FlowJob
    from lastcall.payload import Outcome

_OWED: Final = 8  # a part of the window, which results may take that were handed out and are not acknowledged


class FlowResults(itertools.chain[Any]):
    """The results of a flow's job; made by job.results(). cursor: where another call would go on.

    Of results that travelled together, all come again there until the last one was handed out.
    """

    # What hands them out one by one is itertools', which takes no time.
    _reader: Reader
    _runs: Generator[Iterator[Any], None, None]
    _run: list[Iterator[Any]]  # the one that is handed out

    def __new__(cls, job: FlowJob, timeout: float | None, cursor: str) -> FlowResults:
        last = job._made[-1]._ledger
        once = job._results == "once"
        reader = Reader(
            job._connection, last, once=once, cursor=cursor, upstream=job._upstream, may_owe=job._window // _OWED
        )
        run: list[Iterator[Any]] = []
        runs = _runs(job, reader, timeout, run)
        self: FlowResults = cls.from_iterable(runs)  # type: ignore[assignment]  # it is one of this class
        self._reader, self._runs, self._run = reader, runs, run
        return self

    @property
    def cursor(self) -> str:
        return self._reader.cursor

    def close(self) -> None:
        """Read no more."""
        self._runs.close()
        for values in self._run:
            deque(values, 0)  # itertools has it, and would go on handing it out


# Not a method: its frame would hold the iterator, which then were not closed as soon as nobody refers to it.
def _runs(
    job: FlowJob, reader: Reader, timeout: float | None, run: list[Iterator[Any]]
) -> Generator[Iterator[Any], None, None]:
    """The results, some at a time; those that were given last are in `run`, too."""

    def handing(values: Iterable[Any]) -> Iterator[Any]:
        run[:] = [iter(values)]
        return run[0]

    with contextlib.closing(reader.entries(timeout)) as entries:
        for together in entries:
            if job.feeder is not None:
                job.feeder.look()
            values, error = handed(job, together)
            if error is not None:
                yield handing(values)
                job.cancel()
                raise error
            if values:
                last = values.pop()
                yield handing(values)
                # Before the last one: whoever has it may ask for no more.
                reader.passed(together)
                yield handing([last])
            else:
                reader.passed(together)
    check_end(job, reader)


def handed(job: FlowJob, entries: Sequence[Entry]) -> tuple[list[Any], BaseException | None]:
    """What is handed out of these entries; and the error behind that with which the job ends, if there is one."""
    values: list[Any] = []
    for entry in entries:
        found = values_of(entry, job._guarded, job._keyed, job._on_error)
        if job._on_error == "stop" and found is not entry.outcome.values:
            for value in found:
                if type(value) is Failure:
                    return values, value.error
                values.append(value)
        else:
            values.extend(found)
    return values, None


def check_end(job: FlowJob, reader: Reader) -> None:
    """All was read: raises what went wrong."""
    job._ended = True
    job.check_fed()
    statuses = job.status() if reader.ended != "DRAINED" else None
    for status in statuses or ():
        with contextlib.suppress(DeadLetters):
            raise_for(status)
    job.check_reduced(statuses)


def _error(outcome: Outcome, at: int, keyed: bool) -> BaseException:
    """Why there is no value; of which item of the input, where that is known."""
    error = unpack_error(outcome.errors[at], keyed)
    origin = outcome.origins[at] if outcome.origins is not None else None
    return of_item(error, origin) if isinstance(origin, int) else error


def values_of(entry: Entry, guarded: bool, keyed: bool, on_error: str) -> Sequence[Any]:
    """An entry's values, a Failure where there is none."""
    if entry.error is not None:
        raise entry.error
    outcome = entry.outcome
    if not outcome.errors and not outcome.later and not guarded:
        return outcome.values
    values: list[Any] = []
    for at in entry.positions:
        value = outcome.values[at]
        if at in outcome.errors:
            if on_error != "dead":
                values.append(Failure(_error(outcome, at, keyed)))
        elif type(value) is Failed:
            values.append(Failure(unpack_error(value.error, keyed)))
        else:
            values.append(value)
    return values
