"""lastcall worker: a Celery worker with lastcall's app, by the options that people need."""

from __future__ import annotations

import importlib.util
import os
import sys

import click

from lastcall.cli import server
from lastcall.connect import connect
from lastcall.errors import ConfigError


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("-Q", "--queues", default="cpu", show_default=True,
              help="Celery queues to serve, separated by commas.")  # fmt: skip
@click.option("-P", "--pool", default="prefork", show_default=True,
              type=click.Choice(["prefork", "threads", "solo", "gevent"]),
              help="Processes, threads, none, or greenlets.")  # fmt: skip
@click.option("-c", "--concurrency", type=click.IntRange(min=1),
              help="Slots.  [default: one a CPU]")  # fmt: skip
@click.option("--until-drained", "until_drained", multiple=True, metavar="QUEUE",
              help="Leave when this queue has ended; may be given several times. Exit code: 0 drained, "
                   "3 incomplete or cancelled, 4 drained with dead letters, 1 told to leave before that.")  # fmt: skip
@click.option("-l", "--loglevel", default="INFO", show_default=True)
@click.option("-n", "--hostname", help="Name of the node.  [default: first queue@host]")
@click.argument("celery_options", nargs=-1, type=click.UNPROCESSED)
def command(
    queues: str, pool: str, concurrency: int | None, until_drained: tuple[str, ...], loglevel: str,
    hostname: str | None, celery_options: tuple[str, ...],
) -> None:  # fmt: skip
    """Serve Celery queues: run the slots that work on queues.

    Further options are handed to `celery worker`, such as --autoscale or --max-tasks-per-child. Equal to
    `celery -A lastcall_worker.app worker`.
    """
    if importlib.util.find_spec("celery") is None:
        raise ConfigError("lastcall worker", "run where Celery is installed", "no Celery",
                          "pip install 'lastcall[worker]'")  # fmt: skip
    # Here, since Celery would ask for a server that is not there again and again.
    connect(server.settings("set, so that the worker knows its server")).close()
    slots = concurrency or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (
        concurrency or os.cpu_count() or 1
    )  # fmt: skip
    argv = [
        sys.executable, "-m", "celery", "-A", "lastcall_worker.app", "worker", "-Q", queues, "-P", pool,
        "-c", str(slots), "-l", loglevel, "-n", hostname or f"{queues.split(',')[0]}@%h",
        "--without-gossip", "--without-mingle",
    ]  # fmt: skip
    for queue in until_drained:
        argv += ["--until-drained", queue]
    # In place of this process, so that signals and exit codes are the worker's own.
    os.execv(sys.executable, [*argv, *celery_options])
