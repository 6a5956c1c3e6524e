"""Real Celery workers for tests, each a process group of its own; and how tests wait for what they do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from lastcall.connect import connect
from lastcall.registry import Registry, WorkerInfo
from lastcall.settings import Settings

ROOT = Path(__file__).parents[1]
START_S = 60.0  # a worker takes a second or two; eight at once on two cores, more
STOP_S = 20.0

# What the programs that tests start must be able to import: ours, and tests.functions.
IMPORTABLE = os.pathsep.join([*(str(ROOT / folder) for folder in ("producer", "worker", "services/flower")), str(ROOT)])
# Neighbours are of no use to them, and looking for them takes a second.
CELERY = (
    *(sys.executable, "-m", "celery", "-A", "lastcall_worker.app", "worker"),
    *("--without-gossip", "--without-mingle"),
)
LASTCALL = (sys.executable, "-c", "from lastcall.cli import main; main()")  # the command, wherever it is installed

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, timeout_s: float = 30.0, every_s: float = 0.02) -> T:
    """What `condition` gives as soon as that is true; for what has no event to wait for."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(every_s)
    return value


def environment(url: str | None, key: str | None, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """For a program that is to use this server and key, and nothing that this process was told."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LASTCALL_")}
    env |= {"PYTHONPATH": IMPORTABLE, "PYTHONUNBUFFERED": "1", **(more or {})}
    if url is not None:
        env["LASTCALL_URL"] = url
    if key is not None:
        env["LASTCALL_KEY"] = key
    return env


class Worker:
    """A worker process. It is told by its node name and queues; `ready()` waits until it is registered.

    command: CELERY, or (*LASTCALL, "worker").
    """

    def __init__(
        self, url: str, key: str | None, node: str, *, queues: str = "cpu", pool: str = "prefork", slots: int = 2,
        command: Sequence[str] = CELERY, options: Sequence[str] = (), more: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.node = f"{node}@test"
        self._settings = Settings.load(url, key)
        with tempfile.NamedTemporaryFile(prefix="lastcall-worker-", suffix=".log", delete=False) as log:
            self._log = Path(log.name)
            self.process = subprocess.Popen(
                [*command, "-P", pool, "-c", str(slots), "-Q", queues, "-n", self.node, "-l", "INFO", *options],
                env=environment(url, key, more), cwd=self._log.parent, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def info(self) -> WorkerInfo | None:
        """How the worker is registered; None if it is not."""
        with connect(self._settings) as redis:
            return next((info for info in Registry(redis).live() if info.node == self.node), None)

    def ready(self) -> WorkerInfo:
        """Wait until it is registered."""

        def registered() -> WorkerInfo | None:
            assert self.process.poll() is None, f"worker {self.node} ended:\n{self.log}"
            return self.info()

        return until(registered, f"worker {self.node} to register", START_S, 0.05)

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to the worker alone."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Wait for it to end; its exit code."""
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """End the worker and all its processes, at once, whatever they do."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.unlink(missing_ok=True)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            error.add_note(f"the log of worker {self.node} ends with:\n{self.log[-2000:]}")
        self.kill()


def stop(workers: Iterable[Worker]) -> None:
    """Warm shutdown of several at once; kills those that do not leave."""
    workers = list(workers)
    for worker in workers:
        if worker.process.poll() is None:
            worker.tell(signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    for worker in workers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(max(0.1, deadline - time.monotonic()))
        worker.kill()
