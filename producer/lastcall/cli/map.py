"""lastcall map: run a function over lines of files, to be taken up again where it was left."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from lastcall.client import Client
from lastcall.errors import FunctionNotAllowed, FunctionNotImportable, LastcallError
from lastcall.map import Failure, MapResults
from lastcall.mapfiles import lines
from lastcall.mapfiles.inputs import BadItem, Items, open_input
from lastcall.mapfiles.journal import Journal
from lastcall.mapfiles.target import find
from lastcall.policy import told
from lastcall.progress import Progress

if TYPE_CHECKING:
    from lastcall.state.records import Status

_SECONDS = click.FloatRange(min=0, min_open=True)


class Exit(IntEnum):
    """The exit code. Interrupted: 128 and the signal's number, as shells have it."""

    DONE = 0  # every item, now or before
    FAILED = 1  # it could not begin, or not go on
    STOPPED = 3  # at an item that failed, by --on-error stop
    SOME_FAILED = 4  # every item was tried, some have an error in place of a value


class Stopped(Exception):
    """An item failed, and --on-error is stop."""

    def __init__(self, index: int, error: BaseException) -> None:
        self.index, self.error = index, error
        super().__init__(index, error)


class Told(BaseException):
    """A signal told this process to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


@click.command()
@click.argument("function", metavar="FUNCTION")
@click.argument("more", nargs=-1, metavar="[INPUT]...")
@click.option("-i", "--input", "inputs", multiple=True, metavar="INPUT",
              help="A file of lines (of JSON if it is *.jsonl or *.ndjson), - for stdin, or a quoted glob, whose items "
                   "are the paths of its files ('images/**'). May be given several times.  [default: -]")  # fmt: skip
@click.option("-o", "--output", default="-", show_default=True, metavar="FILE",
              help="Where results go; - for stdout. Only a file can be taken up again.")  # fmt: skip
@click.option("--json/--raw", "as_json", default=None, help="Lines are JSON, or strings, whatever the file's name.")
@click.option("--values", type=click.Choice(lines.HOW), default="json", show_default=True,
              help="How values are written: as JSON, as repr(), or pickled, in base64.")  # fmt: skip
@click.option("--with-input", is_flag=True, help="Write the item beside its value, too, not only beside its error.")
@click.option("--on-error", type=click.Choice(["stop", "dead", "yield"]), default="stop", show_default=True,
              help="An item that fails: stop there; put its error aside, into the file of --errors; or write it among "
                   "the results.")  # fmt: skip
@click.option("--errors", metavar="FILE", help="Where --on-error dead puts errors.  [default: FILE.errors; stderr]")
@click.option("--retry-errors", is_flag=True, help="Try items again that failed in a run before.")
@click.option("--restart", is_flag=True, help="Begin anew: what is in the output is lost.")
@click.option("--ordered/--unordered", default=True, show_default=True,
              help="Write in the order of the input, or as results come.")  # fmt: skip
@click.option("-Q", "--workers", default="cpu", show_default=True, metavar="QUEUE",
              help="The Celery queue of the workers: cpu (processes), io (threads), or one of your own.")  # fmt: skip
@click.option("--max-workers", type=click.IntRange(min=1), help="Slots at the same time, in the whole cluster.")
@click.option("--slots", type=click.IntRange(min=1),
              help="Processes of the worker, where there is no LASTCALL_URL.  [default: one a CPU]")  # fmt: skip
@click.option("--chunksize", type=click.IntRange(min=1), help="Items that travel together.  [default: measured]")
@click.option("--retries", type=click.IntRange(min=0), help="How often an item that raises is tried again.")
@click.option("--backoff", type=_SECONDS, help="Seconds before the first time.")
@click.option("--timeout", type=_SECONDS, help="Seconds that an item may take.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary.")
def command(
    function: str, more: tuple[str, ...], inputs: tuple[str, ...], output: str, as_json: bool | None, values: str,
    with_input: bool, on_error: str, errors: str | None, retry_errors: bool, restart: bool, ordered: bool, workers: str,
    max_workers: int | None, slots: int | None, chunksize: int | None, retries: int | None, backoff: float | None,
    timeout: float | None, quiet: bool,
) -> None:  # fmt: skip
    """Call FUNCTION with every item of the inputs, on workers, and write what it gives, a JSON object a line.

    FUNCTION is package.module:function, found as `python -m` would find it, or script.py:function. Runs on
    LASTCALL_URL's workers or, without one, on private ones on this machine.

    However it ends, the same command goes on where it was: what is in the output is not done again. Exit code: 0
    everything is done, 1 it could not begin or go on, 3 an item failed (--on-error stop), 4 everything was tried and
    some failed, 130 or 143 interrupted.
    """
    if errors is None and output != "-":
        errors = f"{output}.errors"
    call = find(function)
    journal = Journal(output, errors)
    if (restart or retry_errors) and not journal.resumable:
        raise click.UsageError("--restart and --retry-errors are for an --output that is a file")
    own = [output, journal.head, *([errors] if errors else [])]
    sources = [open_input(name, as_json, own) for name in (*inputs, *more) or ("-",)]
    journal.begin(function, sources, restart=restart, retry_errors=retry_errors)
    run = Run(journal, values=values, with_input=with_input, on_error=on_error)
    before = journal.done
    if before and not quiet:
        click.echo(f"{before:,} items were done before", err=True)
    counts = [source.count for source in sources]
    total = None if None in counts else sum(count or 0 for count in counts)
    if total is not None and before >= total:
        sys.exit(_summary(journal, function, quiet))

    def work() -> None:
        with Client(slots=slots) as client:
            items = Items(sources, journal.is_done, run.refused, in_order=ordered and on_error != "stop")
            results = MapResults(
                client._open(), call, [items], ordered=ordered, chunksize=chunksize, workers=workers,
                max_workers=max_workers, timeout=None, goes_on=True, numbered=True,
                policy=told(retries=retries, backoff_s=backoff, retry_on=None, timeout=timeout, crash_limit=None),
            )  # fmt: skip
            with contextlib.closing(results), _progress(results, function, total and total - before, journal, quiet):
                run.write(results, items)

    code: int = Exit.FAILED
    try:
        with _signals():
            work()
        code = _summary(journal, function, quiet)
    except Stopped as stopped:
        code = Exit.STOPPED
        _say_stopped(stopped, journal)
    except Told as told_to:
        code = 128 + told_to.number
        again = ": the same command goes on from there" if journal.resumable else ""
        click.echo(f"interrupted: {_told(journal.done)}{again}", err=True)
    finally:
        journal.close()
    sys.exit(code)


class Run:
    """Writes results as they come."""

    def __init__(self, journal: Journal, *, values: str, with_input: bool, on_error: str) -> None:
        self._journal = journal
        self._values, self._with_input, self._on_error = values, with_input, on_error

    def write(self, results: MapResults, items: Items) -> None:
        """All of them. Raises Stopped; what a map raises; FunctionNotImportable, FunctionNotAllowed."""
        for place, value in results:
            index, item = items.take(place)
            if type(value) is Failure:
                if isinstance(value.error, FunctionNotImportable | FunctionNotAllowed):
                    raise value.error  # it is no item's fault
                self._failed(index, value.error, item)
                continue
            try:
                line = lines.of_value(index, value, self._values, *([item] if self._with_input else ()))
            except lines.NotJson as error:
                self._failed(index, error, item)
            else:
                self._journal.write(index, line)
        items.tell_refused()

    def refused(self, index: int, error: BadItem) -> None:
        """An item that cannot be read has failed."""
        self._failed(index, error)

    def _failed(self, index: int, error: BaseException, *given: Any) -> None:
        if self._on_error == "stop":
            raise Stopped(index, error)
        line = lines.of_error(index, error, *given)
        aside = self._on_error == "dead"
        if aside and self._journal.errors is None:
            click.echo(line.decode(), err=True, nl=False)
            self._journal.passed(index)
        else:
            self._journal.write(index, line, failed=True, aside=aside)


@contextlib.contextmanager
def _progress(results: MapResults, function: str, total: int | None, journal: Journal, quiet: bool) -> Iterator[None]:
    def statuses() -> list[Status]:
        # By the function's name: the job's says nothing.
        return [dataclasses.replace(results.ledger.status(), job=function, name=function)]

    console = Console(stderr=True)
    # Bars would be drawn into results that go to the same terminal.
    if quiet or (journal.at_terminal and console.is_terminal):
        yield
        return
    with Progress(statuses, total=total, console=console):
        yield


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Have SIGINT and SIGTERM raise Told, the first time; the second ends this process as usual."""

    def tell(number: int, _: object) -> None:
        for one in before:
            signal.signal(one, signal.SIG_DFL)
        raise Told(number)

    # What a shell has it ignore, as nohup or `&` in a script do, stays ignored.
    heeded = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]
    before = {number: signal.signal(number, tell) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _told(done: int) -> str:
    return "1 item is done" if done == 1 else f"{done:,} items are done"


def _summary(journal: Journal, function: str, quiet: bool) -> Exit:
    if not quiet:
        text = f"{function}: {_told(journal.done)}"
        if journal.failed:
            text += f", {journal.failed:,} of them failed"
            text += ": --retry-errors tries them again" if journal.resumable else ""
        click.echo(text, err=True)
    return Exit.SOME_FAILED if journal.failed else Exit.DONE


def _say_stopped(stopped: Stopped, journal: Journal) -> None:
    error = stopped.error
    trace = str(error.__cause__ or "") if not isinstance(error, LastcallError) else ""
    text = f"item {stopped.index} failed: {type(error).__name__}: {error}"
    again = "the same command tries it again" if journal.resumable else "nothing is kept of a run to a pipe"
    if trace:
        click.echo(trace.strip(), err=True)
    click.echo(f"{text}\nstopped, {_told(journal.done)}: {again}; --on-error dead or yield goes on", err=True)
