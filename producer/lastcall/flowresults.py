"""FlowResults: what a flow's job gives, read out of its last queue, until it has ended."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lastcall.errors import DeadLetters
from lastcall.map import Failure, of_item
from lastcall.outcome import unpack_error
from lastcall.results import Entry, Reader
from lastcall.steps import Failed
from lastcall.waiting import raise_for

if TYPE_CHECKING:
    from lastcall.flowjob import FlowJob
    from lastcall.payload import Outcome


class FlowResults(Iterator[Any]):
    """The results of a flow's job; made by job.results(). cursor: where another call would go on.

    Of results that travelled together, all come again there until the last one was handed out.
    """

    def __init__(self, job: FlowJob, timeout: float | None, cursor: str) -> None:
        last = job._made[-1]._ledger
        once = job._results == "once"
        self._reader = Reader(job._connection, last, once=once, cursor=cursor, upstream=job._upstream)
        self._values = _values(job, self._reader, timeout)

    def __iter__(self) -> FlowResults:
        return self

    def __next__(self) -> Any:
        return next(self._values)

    @property
    def cursor(self) -> str:
        return self._reader.cursor

    def close(self) -> None:
        """Read no more."""
        self._values.close()


# Not a method: its frame would hold the iterator, which then were not closed as soon as nobody refers to it.
def _values(job: FlowJob, reader: Reader, timeout: float | None) -> Generator[Any, None, None]:
    with contextlib.closing(reader.entries(timeout)) as entries:
        for together in entries:
            values, error = handed(job, together)
            if error is not None:
                yield from values
                job.cancel()
                raise error
            if values:
                last = values.pop()
                yield from values
                # Before the last one: whoever has it may ask for no more.
                reader.passed(together)
                yield last
            else:
                reader.passed(together)
    check_end(job, reader)


def handed(job: FlowJob, entries: Sequence[Entry]) -> tuple[list[Any], BaseException | None]:
    """What is handed out of these entries; and the error behind that with which the job ends, if there is one."""
    values: list[Any] = []
    for entry in entries:
        for value in values_of(entry, job._guarded, job._keyed, job._on_error):
            if job._on_error == "stop" and type(value) is Failure:
                return values, value.error
            values.append(value)
    return values, None


def check_end(job: FlowJob, reader: Reader) -> None:
    """All was read: raises what went wrong."""
    job._ended = True
    statuses = job.status()
    if reader.ended != "DRAINED":
        for status in statuses:
            with contextlib.suppress(DeadLetters):
                raise_for(status)
    job._check_end(statuses)


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
