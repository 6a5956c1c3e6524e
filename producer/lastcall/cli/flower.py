"""lastcall flower: Flower, with a page for queues."""

from __future__ import annotations

import importlib.util
import os
import sys

import click

from lastcall.errors import ConfigError


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("-p", "--port", type=click.IntRange(0, 65535), help="Where to listen.  [default: 5555]")
@click.option("-a", "--address", help="On which address; other machines reach it on 0.0.0.0.  [default: 127.0.0.1]")
@click.option("--basic-auth", multiple=True, metavar="USER:PASSWORD",
              help="Who may look; may be given several times. LASTCALL_FLOWER_PASSWORD_FILE, for the user lastcall, "
                   "keeps the password out of the list of processes.")  # fmt: skip
@click.argument("flower_options", nargs=-1, type=click.UNPROCESSED)
def command(
    port: int | None, address: str | None, basic_auth: tuple[str, ...], flower_options: tuple[str, ...]
) -> None:
    """Show workers, every call and queues in a browser: Flower, at /queues the queues.

    Further options are Flower's own, such as --max-tasks=10000; so are FLOWER_* variables. Without a password it
    listens to this machine alone, or not at all.
    """
    if importlib.util.find_spec("flower") is None:
        raise ConfigError("lastcall flower", "run where Flower is installed", "no Flower",
                          "pip install 'lastcall[flower]'")  # fmt: skip
    argv = [sys.executable, "-m", "lastcall_flower"]
    if port is not None:
        argv.append(f"--port={port}")
    if address is not None:
        argv.append(f"--address={address}")
    if basic_auth:
        argv.append(f"--basic-auth={','.join(basic_auth)}")
    # In place of this process, so that signals and exit codes are Flower's own.
    os.execv(sys.executable, [*argv, *flower_options])
