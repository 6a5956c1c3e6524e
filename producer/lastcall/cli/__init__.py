"""The command line: one file a command, loaded when it is called for. Start at `main`."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any

import click

from lastcall.errors import LastcallError
from lastcall.version import __version__

COMMANDS = (
    "map", "demo", "worker", "flower", "status", "cancel", "dead", "trace", "replay", "gantt", "secrets",
)  # fmt: skip


class _Commands(click.Group):
    """Subcommands by their file's name, so that `lastcall status` does not load a worker."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"lastcall.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LastcallError as error:
            # What went wrong is the user's to mend: the message says how, a traceback would hide it.
            raise click.ClickException(f"{type(error).__name__}: {error}") from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(128 + signal.SIGINT)  # as shells have it; click says 1, which is an error here


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lastcall")
def cli() -> None:
    """A work queue that knows when it is finished.

    Servers and keys are told by LASTCALL_URL and LASTCALL_KEY (or LASTCALL_PASSWORD_FILE, LASTCALL_KEY_FILE).
    """


def main() -> None:
    """The `lastcall` command."""
    try:
        cli.main(prog_name="lastcall")
    except BrokenPipeError:  # `lastcall status | head`
        sys.stderr.close()
        sys.exit(1)
