"""The processes of jobs: forked from a clean one, with a journal each, killed at will, and seen to end."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# A fork of this process would inherit locks that its threads hold; an interpreter for each takes half a second.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.chaos.parts", "tests.chaos.rival"])
_lock = threading.Lock()  # how a process ended can be read only once


class Journal:
    """What a process has to tell: a file with a line of JSON for each event, which outlives the process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def say(self, event: str, **facts: Any) -> None:
        os.write(self._file, json.dumps({"event": event, "at": time.time(), **facts}).encode() + b"\n")


class Part:
    """A process that plays a part in a job: a producer, a consumer, a client. It runs function(journal, *args)."""

    def __init__(self, role: str, name: str, folder: Path, function: Callable[..., None], *args: Any) -> None:
        self.role = role
        self.name = name
        self.killed_at: float | None = None
        self.error = ""
        self._path = folder / f"{name}.journal"
        self._log = folder / f"{name}.log"
        self._process = _context.Process(
            target=_play, args=(self._path, self._log, function, *args), name=name, daemon=True
        )
        with _lock:
            self._process.start()
        self.pid: int = self._process.pid or 0

    @property
    def running(self) -> bool:
        with _lock:
            return self._process.is_alive()

    @property
    def exit_code(self) -> int | None:
        with _lock:
            return self._process.exitcode

    def kill(self, *, fault: bool = True) -> bool:
        """SIGKILL, if it runs. fault: it is one that the job must bear, not the end of a job that failed."""
        with _lock:
            if not self._process.is_alive():
                return False
            if fault:
                self.killed_at = time.time()
            self._process.kill()
            self._process.join()
            return True

    def events(self, name: str | None = None) -> Iterator[dict[str, Any]]:
        """What it has told so far, all or the events of one name."""
        with contextlib.suppress(FileNotFoundError), self._path.open() as journal:
            for line in journal:
                if line.endswith("\n"):  # else it was killed while it wrote
                    event = json.loads(line)
                    if name in (None, event["event"]):
                        yield event

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def _end_with_the_run() -> None:
    """A run that is killed leaves no part behind; the forking process would live on with them."""
    run = multiprocessing.parent_process()
    assert run is not None
    run.join()
    os._exit(1)


def _play(path: Path, log: Path, function: Callable[..., None], *args: Any) -> None:
    threading.Thread(target=_end_with_the_run, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run ends its parts
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    function(Journal(path), *args)
