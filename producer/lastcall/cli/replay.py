"""lastcall replay: run one recorded step of an item again, in this process, and compare."""

from __future__ import annotations

import os
import pdb
import sys
import traceback

import click

from lastcall.cli import server
from lastcall.client import Client
from lastcall.replay import Replay, replay

SAME, DIFFERENT, NOT_KNOWN = 0, 3, 4  # exit codes


@click.command()
@click.argument("job")
@click.argument("item")
@click.option("--queue", "-q", default="", help="The stage; else the step that failed last, or the last one.")
@click.option("--pdb", "debug", is_flag=True, help="Debug it: where it raises, or from its begin if it does not.")
def command(job: str, item: str, queue: str, debug: bool) -> None:
    """Run a recorded step of an item here, with the very arguments, and compare with what was recorded.

    ITEM is its number in the input, from 0, or its id in a queue, such as 1-17#3. The job does not change; the
    function's own effects happen again. Exits with 0 if it came to the same, 3 if not, 4 if that is not known.
    """
    server.settings("set to the server of the job")
    sys.path.insert(0, os.getcwd())  # functions of modules that are here, as `python -m` finds them
    with Client() as client:
        again = replay(client._connection, job, item, queue=queue)
        if debug and again.error is None:
            again = replay(client._connection, job, item, queue=queue, run=pdb.Pdb().runcall)
    event = again.event
    click.echo(f"{event.queue}, attempt {event.attempt}, on {event.worker or 'a worker'}: {again.value!r}")
    if again.error is not None:
        click.echo("".join(traceback.format_exception(again.error)).rstrip())
    click.echo(f"now:      {_said(again.outputs, again.said)}")
    click.echo(f"recorded: {event.said or _said(again.recorded, again.recorded_error)}")
    click.echo({True: "the same", False: "not the same", None: "whether that is the same is not known"}[again.same])
    if debug and again.error is not None:
        pdb.post_mortem(again.error.__traceback__)
    raise SystemExit(code_of(again))


def code_of(again: Replay) -> int:
    """The exit code."""
    return {True: SAME, False: DIFFERENT, None: NOT_KNOWN}[again.same]


def _said(outputs: tuple[object, ...] | None, error: str) -> str:
    if error:
        return f"raised {error}"
    return "not known" if outputs is None else f"gave {', '.join(map(repr, outputs)) or 'nothing'}"
