"""lastcall secrets: make a service's secrets, once, and tell them to a client that is elsewhere."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import tempfile
from pathlib import Path
from urllib.parse import quote

import click

from lastcall.errors import ConfigError

PASSWORD = "redis.password"  # as LASTCALL_PASSWORD_FILE reads it
REDIS = "redis.conf"  # the same, for redis.conf to include
KEY = "key"  # as LASTCALL_KEY_FILE reads it
FLOWER = "flower.password"  # as LASTCALL_FLOWER_PASSWORD_FILE reads it

_BYTES = 32  # random ones in each secret
_directory = click.option(
    "-d", "--directory", envvar="LASTCALL_SECRETS", required=True, show_envvar=True,
    type=click.Path(file_okay=False, path_type=Path), help="Where the secrets are.",
)  # fmt: skip


@click.group()
def command() -> None:
    """Make and show the secrets of a service: the server's password, the envelope key, Flower's password."""


@command.command()
@_directory
@click.option("--redis-group", type=int, metavar="GID", help="Who may read the server's password.")
@click.option("--key-group", type=int, metavar="GID", help="Who may read the key.")
@click.option("--flower-group", type=int, metavar="GID", help="Who may read Flower's password.")
def make(directory: Path, redis_group: int | None, key_group: int | None, flower_group: int | None) -> None:
    """Make the secrets that are not there yet; those that are stay as they are.

    Files: redis.password, redis.conf (requirepass, to be included), key, flower.password; for their owner alone, or
    for a group too where one is named, of which you must be a member.
    """
    directory.mkdir(mode=0o700 if (redis_group, key_group, flower_group) == (None,) * 3 else 0o711,
                    parents=True, exist_ok=True)  # fmt: skip
    made = [
        name
        for name, group in ((PASSWORD, redis_group), (KEY, key_group), (FLOWER, flower_group))
        if write_once(directory / name, new(), group)
    ]
    # After the password, and from its file: of two that make secrets at once, one has made that.
    if write_once(directory / REDIS, f"requirepass {read(directory, PASSWORD)}", redis_group):
        made.append(REDIS)
    click.echo(f"{directory}: made {', '.join(made)}" if made else f"{directory}: all secrets are there")


@command.command()
@_directory
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the service's ports are.")
@click.option("--port", default=6379, show_default=True, envvar="LASTCALL_REDIS_PORT", help="The server's.")
@click.option("--flower-port", default=5555, show_default=True, envvar="LASTCALL_FLOWER_PORT", help="Flower's.")
def show(directory: Path, host: str, port: int, flower_port: int) -> None:
    """Print what a client must export, for: eval "$(lastcall secrets show)"

    LASTCALL_URL and LASTCALL_KEY; and LASTCALL_FLOWER_URL, to open in a browser.
    """
    password, flower = (quote(read(directory, name), safe="") for name in (PASSWORD, FLOWER))
    at = f"[{host}]" if ":" in host else host
    for name, value in (
        ("LASTCALL_URL", f"redis://:{password}@{at}:{port}/0"),
        ("LASTCALL_KEY", read(directory, KEY)),
        ("LASTCALL_FLOWER_URL", f"http://lastcall:{flower}@{at}:{flower_port}/queues"),
    ):
        click.echo(f"export {name}={shlex.quote(value)}")


@command.command()
def key() -> None:
    """Print a new random key, for LASTCALL_KEY."""
    click.echo(new())


def new() -> str:
    """A new secret: 43 characters that need no quoting in a URL, a shell or redis.conf."""
    return secrets.token_urlsafe(_BYTES)


def read(directory: Path, name: str) -> str:
    """A secret from its file. Raises ConfigError."""
    hint = f"make them with: lastcall secrets make --directory {shlex.quote(str(directory))}"
    try:
        text = (directory / name).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError("--directory", f"a folder with a {name} that can be read", str(error), hint) from error
    if not text:
        raise ConfigError(
            "--directory", f"a folder with a {name}", f"an empty {directory / name}", f"remove it, and {hint}"
        )
    return text


def write_once(path: Path, text: str, group: int | None = None) -> bool:
    """Write a file that only its owner may read, or `group` too; False if there is one already.

    It appears as a whole or not at all, also after a crash, and of two that write it at once the first wins.
    """
    if path.exists():
        return False
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ConfigError("--directory", "a folder that can be written to", str(error)) from error
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{text}\n")
            file.flush()
            if group is not None:
                _give(descriptor, group, path)
            os.fsync(descriptor)
        try:
            os.link(name, path)
        except FileExistsError:
            return False
    finally:
        os.unlink(name)
    _sync(path.parent)
    return True


def _give(descriptor: int, group: int, path: Path) -> None:
    try:
        os.fchown(descriptor, -1, group)
    except OSError as error:
        raise ConfigError(
            f"the group of {path.name}", "one that you are a member of", f"{group} ({error})", "see: id"
        ) from error
    os.fchmod(descriptor, 0o640)  # after the group is the right one


def _sync(folder: Path) -> None:
    """So that the file's name survives a loss of power, as its content does."""
    with contextlib.suppress(OSError):  # not every file system can
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
