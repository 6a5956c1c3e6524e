"""`celery -A lastcall_worker.app worker` as a process of its own, and waiting for what it does in Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import pytest
import redis

from lastcall.registry import Registry, WorkerInfo
from tests.servers import Server, server_binary

ROOT = Path(__file__).parents[2]
KEY = "a key for the tests alone"
WAIT_S = 30.0  # no wait of a test that passes comes near


@contextmanager
def worker_server(**options: str) -> Iterator[Server]:
    """A fresh server that tells of changes (see `until`). Where there is none: a skip, under CI an error."""
    try:
        server_binary()
    except FileNotFoundError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with Server(options={"notify-keyspace-events": "KA", **options}) as server:
        yield server


def emptied(server: Server) -> Server:
    """The same server, running, with nothing in it."""
    if not server.running:
        server.start()
    server.client().flushall()
    return server


def until(client: redis.Redis, what: str, true: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """Wait until something is true, looking whenever a key changes."""
    deadline = time.monotonic() + timeout_s
    with client.pubsub(ignore_subscribe_messages=True) as changes:
        changes.psubscribe("__keyspace@0__:*")
        while not true():
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"waited {timeout_s:g} s for {what}"
            changes.get_message(timeout=min(left_s, 1.0))


class Worker:
    """A worker process on a server; SIGTERM and wait when its block is left.

    queues: Celery queues. settings: as LASTCALL_<NAME>. folder: for its log, and on its path.
    """

    def __init__(
        self,
        server: Server,
        folder: Path,
        *options: str,
        pool: str = "solo",
        slots: int = 1,
        queues: Sequence[str] = ("cpu",),
        node: str = "one@test",
        **settings: object,
    ) -> None:
        self.node = node
        self._client = server.client()
        self._log = folder / f"{node}.log"
        paths = [str(ROOT / "producer"), str(ROOT / "worker"), str(folder)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LASTCALL_")}
        environment |= {"PYTHONPATH": os.pathsep.join(paths), "LASTCALL_URL": server.url, "LASTCALL_KEY": KEY}
        environment |= {f"LASTCALL_{name.upper()}": str(value) for name, value in settings.items()}
        arguments = [sys.executable, "-m", "celery", "-A", "lastcall_worker.app", "worker", "-P", pool]
        arguments += ["-c", str(slots), "-Q", ",".join(queues), "-n", node, "-l", "INFO"]
        arguments += ["--without-mingle", "--without-gossip", *options]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                arguments,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that its children can be killed with it
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def info(self) -> WorkerInfo | None:
        """What the registry has of it."""
        known = {worker.node: worker for worker in Registry(self._client).live()}
        return known.get(self.node)

    def ready(self) -> Worker:
        """Wait until it is registered."""
        until(self._client, f"{self.node} to register", lambda: self._ended() or self.info is not None)
        return self

    def _ended(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"{self.node} ended with {self.process.returncode}:\n{self.log}")
        return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.wait()

    def wait(self, timeout_s: float = WAIT_S) -> int:
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """End it and its children at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Worker:
        try:
            return self.ready()
        except BaseException:
            self.kill()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.stop()
            else:
                print(self.log)  # pytest shows it beside the failure
        finally:
            self.kill()
