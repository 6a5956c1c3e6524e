"""What the jobs run on: a server with an append-only file, two prefork nodes and one of threads, kept running."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil

from lastcall.settings import Settings
from tests.chaos.items import RUNS
from tests.servers import Server
from tests.workers import START_S, Worker, until

LEASE_S = 2.0  # of workers
CLIENT_LEASE_S = 4.0  # of producers, consumers and maps: processes that a busy machine keeps waiting longer
REAP_S = 0.3
SLICE_S = 0.25
_GONE_S = 10.0


class Node:
    """A place for a worker. up: the worker has said that it is ready; hit: something is being done to it."""

    def __init__(self, pool: str, slots: int) -> None:
        self.pool = pool
        self.slots = slots
        self.worker: Worker | None = None
        self.up = False
        self.hit = False
        self.lives = 0

    @property
    def well(self) -> bool:
        return self.up and not self.hit

    def children(self) -> list[int]:
        """The processes that run slots, of a prefork worker that is well."""
        if self.pool != "prefork" or not self.well or self.worker is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self.worker.process.pid).children()]
        return []

    def members(self) -> list[int]:
        """All processes of its worker."""
        if self.worker is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            main = psutil.Process(self.worker.process.pid)
            return [main.pid, *(child.pid for child in main.children(recursive=True))]
        return []


class Stand:
    """Server, nodes and a folder for journals; a context manager that leaves nothing behind.

    start_worker: makes a worker of (stand, node, its name); None for lastcall's.
    """

    def __init__(self, start_worker: Callable[[Stand, Node, str], Worker] | None = None, pools: str = "ppt") -> None:
        self._start_worker = start_worker or _lastcall_worker
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        self.runs = self.folder / "runs"
        self.server = Server(tcp=False, persistent=True)
        self.key = secrets.token_hex(16)
        self.nodes = [Node("prefork", 2) if pool == "p" else Node("threads", 4) for pool in pools]
        self.complaints: list[str] = []
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._watch = threading.Thread(target=self._keep, name="chaos-nodes", daemon=True)

    @property
    def settings(self) -> Settings:
        """Of clients."""
        return Settings.load(self.server.unix_url, self.key, lease_s=CLIENT_LEASE_S, reap_s=REAP_S)

    def __enter__(self) -> Stand:
        try:
            self.server.start()
            self.runs.touch()
            for node in self.nodes:
                self.start(node)
            for node in self.nodes:
                assert node.worker is not None
                self.await_ready(node)
            self._watch.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def start(self, node: Node) -> None:
        """Start a worker in this place."""
        with self._lock:
            if self._closing.is_set():
                return
            node.lives += 1
            node.up = False
            name = f"{node.pool}{self.nodes.index(node)}-{node.lives}"
            node.worker = self._start_worker(self, node, name)
            self._groups.add(node.worker.process.pid)

    def replace(self, node: Node) -> None:
        """Its worker has ended, or is to end at once: another comes in its place."""
        if node.worker is not None:
            worker, pid = node.worker, node.worker.process.pid
            worker.kill()
            self.await_gone(pid)
        self.start(node)

    def await_ready(self, node: Node) -> None:
        """Wait until the worker of this place says that it is ready."""
        until(lambda: self._look(node), f"a worker to be ready:\n{self.tails()}", START_S)

    def _look(self, node: Node) -> bool:
        worker = node.worker
        with contextlib.suppress(FileNotFoundError):  # it was replaced meanwhile, its log is gone
            if worker is not None and not node.up and " ready." in worker.log and worker is node.worker:
                node.up = True
        return node.up

    def close(self) -> None:
        """End everything."""
        self._closing.set()
        with self._lock:
            workers = [node.worker for node in self.nodes if node.worker is not None]
        for worker in workers:
            worker.kill()
        for group in tuple(self._groups):
            self.await_gone(group)
        self.server.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _tell_of_end(self, worker: Worker) -> None:
        """A worker has ended that nobody told to."""
        self.complaints.append(
            f"worker {worker.node} ended by itself ({worker.process.returncode}):\n{worker.log[-9000:]}"
        )

    def tails(self) -> str:
        """The ends of the workers' logs."""
        return "\n".join(
            f"--- {node.worker.node}\n{node.worker.log[-3000:]}" for node in self.nodes if node.worker is not None
        )

    def await_gone(self, group: int) -> None:
        """No process of a worker that has ended may go on."""
        deadline = time.monotonic() + _GONE_S
        while _exists(group):
            if time.monotonic() > deadline:
                self.complaints.append(f"processes of the worker {group} outlived it")
                return
            time.sleep(0.01)  # a group that is not ours to wait for tells nobody of its end
        self._groups.discard(group)

    def _keep(self) -> None:
        """See workers come up, and any that ends without having been told to."""
        while not self._closing.wait(0.2):
            for node in self.nodes:
                worker = node.worker
                # Asked first: whatever hits a node says so before, and puts another worker there before it is over.
                ended = worker is not None and worker.process.poll() is not None
                if worker is None or not ended or node.hit or self._closing.is_set():
                    self._look(node)
                elif worker is node.worker:
                    self._tell_of_end(worker)
                    self.replace(node)


def _lastcall_worker(stand: Stand, node: Node, name: str) -> Worker:
    more = {
        "LASTCALL_LEASE_S": str(LEASE_S), "LASTCALL_REAP_S": str(REAP_S), "LASTCALL_SLICE_S": str(SLICE_S),
        RUNS: str(stand.runs),
    }  # fmt: skip
    return Worker(stand.server.unix_url, stand.key, name, pool=node.pool, slots=node.slots, more=more)


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
