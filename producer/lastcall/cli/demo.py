"""lastcall demo: a census of the standard library, by producers, threads that read and processes that parse."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from lastcall.client import Client
from lastcall.demo import table
from lastcall.demo.census import Census, parse, plain, read, stdlib, walk
from lastcall.errors import DeadLetters, ProducerLost, QueueCancelled
from lastcall.progress import Progress

if TYPE_CHECKING:
    from lastcall.queue import StatusableQueue


@click.group(invoke_without_command=True)
@click.option("--producers", default=2, show_default=True, type=click.IntRange(min=1),
              help="Processes that walk the library, each its share.")  # fmt: skip
@click.option("--check/--no-check", default=True, show_default=True,
              help="Count the same by a plain loop and compare.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def command(ctx: click.Context, producers: int, check: bool, as_json: bool) -> None:
    """Count the standard library: its lines, functions, classes, imports.

    Several producers put the paths of its files, threads read them, processes parse them, and everything ends by
    itself when the last producer has left and nothing is left to do. Runs on LASTCALL_URL's server or, without
    one, on a private server with workers on this machine. Exit code: 0 done and true, 1 the check found a
    difference, 3 incomplete or cancelled, 4 with dead letters.
    """
    if ctx.invoked_subcommand is not None:
        return
    with Client() as client:
        parsing, reading = _queues(client, f"census-{uuid.uuid4().hex[:12]}", producers, reopen=False)
        fresh = multiprocessing.get_context("spawn")
        walkers = [fresh.Process(target=_walk, args=(reading, share, producers)) for share in range(producers)]
        _say(as_json, f"{producers} producers walk {stdlib()}")
        for walker in walkers:
            walker.start()
        code = _gather(parsing, reading, check=check, as_json=as_json)
        for walker in walkers:
            walker.join()
    sys.exit(code)


@command.command("producer")
@click.option("--producers", default=2, show_default=True, type=click.IntRange(min=1),
              help="How many there are; this is one of them.")  # fmt: skip
@click.option("--check/--no-check", default=True, show_default=True,
              help="Count the same by a plain loop and compare.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def producer(producers: int, check: bool, as_json: bool) -> None:
    """Be one of the census's producers, anywhere; then gather the whole result.

    Each takes the next free share. Workers and producers must have the same standard library.
    """
    with Client() as client:
        parsing, reading = _queues(client, "census", producers, reopen=True)
        with reading.producer() as out:
            _say(as_json, f"producer {out.place} of {producers} walks its share of {stdlib()}")
            out.put_many(walk(out.place - 1, producers))
            out.flush()
            _say(as_json, f"producer {out.place} of {producers} has put {out.position} files")
        code = _gather(parsing, reading, check=check, as_json=as_json)
    sys.exit(code)


def _queues(
    client: Client, job: str, producers: int, *, reopen: bool
) -> tuple[StatusableQueue[Any], StatusableQueue[str]]:
    """The census's two stages: threads read, processes parse."""
    parsing = client.queue("parse", parse, job=job, workers="cpu", reopen=reopen)
    reading = client.queue(
        "read", read, job=job, workers="io", into=parsing, producers=producers, maxsize=400, reopen=reopen
    )
    return parsing, reading


def _walk(queue: StatusableQueue[str], share: int, shares: int) -> None:
    with queue.producer(f"walker-{share + 1}") as out:
        out.put_many(walk(share, shares))


def _gather(
    parsing: StatusableQueue[Any], reading: StatusableQueue[str], *,
    check: bool, as_json: bool,
) -> int:  # fmt: skip
    console = Console(stderr=as_json)
    began = time.monotonic()
    census = Census()
    code = 0
    try:
        with Progress(lambda: [reading.status(), parsing.status()]):
            for file in parsing.results():
                census.add(file)
        for queue in (reading, parsing):
            queue.join()
    except (ProducerLost, QueueCancelled) as error:
        code = 3
        click.echo(f"{type(error).__name__}: {error}", err=True)
    except DeadLetters as error:
        code = 4
        click.echo(f"{type(error).__name__}: {error}", err=True)
    took_s = time.monotonic() - began
    status = parsing.status()
    report: dict[str, Any] = {"state": status.state, "seconds": round(took_s, 3)}
    if as_json:
        report["census"] = table.to_json(census, stdlib())
    elif console.is_terminal:
        console.print(table.render(census, stdlib()))
    else:
        click.echo(table.plain_text(census, stdlib()))
    _say(as_json, f"{status.state}: {census.files} files in {took_s:.1f} s; everything has ended by itself")
    if check and code == 0:
        code = _check(census, report, as_json)
    if as_json:
        click.echo(json.dumps(report))
    return code


def _check(census: Census, report: dict[str, Any], as_json: bool) -> int:
    _say(as_json, "counting the same by a plain loop ...")
    began = time.monotonic()
    differences = census.differences(plain())
    report["plain_seconds"] = round(time.monotonic() - began, 3)
    report["true"] = not differences
    for difference in differences:
        click.echo(difference, err=True)
    if not differences:
        _say(as_json, f"the same, in {report['plain_seconds']:.1f} s: the result is true")
    return 1 if differences else 0


def _say(as_json: bool, text: str) -> None:
    click.echo(text, err=as_json)
