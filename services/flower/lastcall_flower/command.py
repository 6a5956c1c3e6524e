"""What `lastcall flower` runs: stock Flower with its own options, closed to others unless it has a password."""

from __future__ import annotations

import ipaddress
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from celery import Celery
from flower import command as stock
from flower.app import Flower
from flower.urls import settings as flower_settings
from tornado.options import Error as OptionError
from tornado.options import options

from lastcall.connect import connect
from lastcall.errors import ConfigError, LastcallError
from lastcall.settings import Settings
from lastcall_flower import pages
from lastcall_flower.watch import Watch

USER: Final = "lastcall"  # whose password LASTCALL_FLOWER_PASSWORD_FILE holds
_PASSWORD_FILE: Final = "LASTCALL_FLOWER_PASSWORD_FILE"


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGINT or SIGTERM. arguments: Flower's options, such as --port=5555."""
    try:
        read_options(arguments)
        settings = Settings.load()
        if settings.broker is None:
            raise ConfigError(
                "url (LASTCALL_URL)", "set, so that Flower knows its server", "nothing",
                "such as LASTCALL_URL=redis://host:6379/0",
            )  # fmt: skip
        watch = Watch(connect(settings))
    except (LastcallError, OptionError) as error:
        print(f"Error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    stock.setup_logging()
    serve(_app(settings), watch)
    return 0


def read_options(arguments: Sequence[str]) -> None:
    """Flower's options from FLOWER_* and the command line. Raises ConfigError, OptionError."""
    options.address = "127.0.0.1"  # Flower's own default is every address
    for argument in arguments:
        if not argument.startswith("-") or not stock.is_flower_option(argument):
            raise ConfigError("an argument", "an option of Flower's, such as --port=5555", repr(argument))
    stock.apply_env_options()
    stock.apply_options("lastcall flower", list(arguments))
    path = os.environ.get(_PASSWORD_FILE, "").strip()
    if path and not options.basic_auth:
        options.basic_auth = [f"{USER}:{_password(path)}"]
    if not (options.basic_auth or options.auth or options.unix_socket or _is_loopback(options.address)):
        raise ConfigError(
            "--address", "127.0.0.1 where Flower has no password", repr(options.address),
            f"it would show everybody what the workers do, and let them stop it: set {_PASSWORD_FILE} or --basic-auth",
        )  # fmt: skip
    stock.extract_settings()


def serve(app: Celery, watch: Watch) -> None:
    """Run Flower's loop."""
    flower = Flower(capp=app, options=options, template_loader=pages.templates(), **flower_settings)
    flower.add_handlers(r".*", pages.handlers(watch, options.url_prefix))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    port = flower.start_http_server()
    stock.print_banner(app, "ssl_options" in flower_settings, port)
    watch.start(flower.io_loop)
    if options.enable_events:
        # Flower itself asks for events five seconds from now, and some calls would be over.
        flower.io_loop.add_callback(flower.events.on_enable_events)
    try:
        flower.start()
    except (KeyboardInterrupt, SystemExit):
        pass
    finally:
        flower.stop()


def _app(settings: Settings) -> Celery:
    """A Celery app that knows the broker and nothing of the workers', who tell by events and answers what they do."""
    app = Celery("lastcall", broker=settings.broker)
    app.conf.task_default_queue = "cpu"
    return app


def _password(path: str) -> str:
    expected = "the path of a file with a password in it"
    try:
        password = Path(path).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(_PASSWORD_FILE, expected, path, str(error)) from error
    if not password:
        raise ConfigError(_PASSWORD_FILE, expected, f"{path}, empty")
    return password


def _is_loopback(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:  # a name, or nothing, which is every address
        return False
