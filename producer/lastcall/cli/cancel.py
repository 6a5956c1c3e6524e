"""lastcall cancel: end jobs before their work is done."""

from __future__ import annotations

import json

import click

from lastcall.cli import server
from lastcall.client import Client
from lastcall.state.records import shown


@click.command()
@click.argument("jobs", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(jobs: tuple[str, ...], as_json: bool) -> None:
    """Cancel jobs: what waits is dropped, what runs is refused when it completes."""
    server.settings("set to the server of the job")
    with Client() as client:
        statuses = [status for job in jobs for status in client.job(job).cancel()]
    if as_json:
        cancelled = {shown(s.job, s.name): {"state": s.state, "cancelled": s.cancelled} for s in statuses}
        click.echo(json.dumps(cancelled))
        return
    for status in statuses:
        click.echo(f"{shown(status.job, status.name)} {status.state}, {status.cancelled} items dropped")
