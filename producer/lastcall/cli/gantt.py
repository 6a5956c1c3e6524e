"""lastcall gantt: a job as a picture of what really ran."""

from __future__ import annotations

from pathlib import Path

import click

from lastcall import gantt
from lastcall.cli import server
from lastcall.client import Client
from lastcall.history import History
from lastcall.trace import queues_in_order


@click.command()
@click.argument("job")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="A file that ends in .svg, .png or .html.")  # fmt: skip
@click.option("--title", default=None, help="Over the picture; the job's id if it is not given.")
def command(job: str, output: Path, title: str | None) -> None:
    """Draw a job: rows are slots, bars are chunks, colours are stages."""
    server.settings("set to the server of the job")
    with Client() as client:
        stages = queues_in_order(client._connection, job)
        events = History(client._connection, job).events("done")
        written = gantt.save(events, output, title=job if title is None else title, stages=stages)
    click.echo(written)
