"""joblib on a cluster: joblib.Parallel, and with it scikit-learn, runs its tasks on lastcall's workers.

import joblib
import lastcall.joblib

lastcall.joblib.register()  # joblib finds no backend by itself: it has to be told
with joblib.parallel_config(backend="lastcall", n_jobs=-1):
    search.fit(X, y)
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Final

from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    register_parallel_backend,
)

from lastcall import functions
from lastcall.calls import Answer, Calls
from lastcall.client import Client
from lastcall.connection import Connection
from lastcall.current import current
from lastcall.errors import NoWorker
from lastcall.policy import told_of

NAME: Final = "lastcall"
_LOOK_S = 0.05


def register(*, make_default: bool = False) -> None:
    """Have joblib know the backend "lastcall". make_default: and use it where none is named."""
    register_parallel_backend(NAME, LastcallBackend, make_default=make_default)


def run_batch(batch: Callable[[], list[Any]]) -> list[Any]:
    """Run what joblib sends together."""
    return batch()


class LastcallBackend(AutoBatchingMixin, ParallelBackendBase):
    """Runs joblib's batches on workers.

    n_jobs: slots at the same time, in the whole cluster; -1: all that there are, -2: all but one. 1 runs here, as ever.
    client: to work through; None: one for all backends of this process, by LASTCALL_URL or with a private server.
    workers: the Celery queue. Both may be given to parallel_config(backend="lastcall", ...).

    Large arrays are sent once for each Parallel call and worker process, and are read-only there, as joblib's memmaps;
    mmap_mode="c" or None has each batch get copies of its own. max_nbytes and temp_folder are of no effect
    (LASTCALL_ASIDE_BYTES). What a task calls in parallel in its turn runs in its slot, one after the other.
    """

    supports_retrieve_callback = True

    def __init__(
        self, *, client: Client | None = None, workers: str = "cpu", nesting_level: int | None = None, **options: Any
    ) -> None:
        super().__init__(nesting_level=nesting_level, **options)
        self._given = client
        self._workers = workers
        self._max_workers: int | None = None
        self._copied = False
        self._calls: Calls | None = None

    @property
    def _connection(self) -> Connection:
        connection = (self._given or _shared_client())._open()
        if connection.pid != os.getpid():
            return Connection.of(
                connection.settings
            )  # it came here by a fork: the leases that it renews are the parent's
        return connection

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many tasks may run at the same time. Raises ValueError for 0, NoWorker."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning: give 1 or more, or -1 for all slots")
        if n_jobs is None or current:
            return 1
        if n_jobs < 0:
            return max(self._slots() + 1 + n_jobs, 1)
        return n_jobs

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None,
        mmap_mode: str | None = "r", **options: Any,
    ) -> int:  # fmt: skip
        """Get ready for a Parallel call."""
        slots = self.effective_n_jobs(n_jobs)
        if slots == 1:
            # On a worker, too: all slots could wait for what only a slot can do, and joblib's waits do not help.
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._max_workers = None if n_jobs == -1 else slots
        self._copied = mmap_mode in (None, "c")
        self._open()
        return slots

    def start_call(self) -> None:
        """A Parallel call begins. One before it that failed, or was left, may have read tasks that it did not send yet:
        joblib keeps these and would send them now, with results among this call's."""
        ahead = getattr(self.parallel, "_ready_batches", None)
        if ahead is not None and not getattr(self.parallel, "_calling", False):
            while not ahead.empty():
                ahead.get_nowait()

    def submit(self, func: Any, callback: Callable[[Future[Any]], object] | None = None) -> Future[Any]:
        """Send a batch."""
        future: Future[Any]
        try:
            # What joblib sends together comes from one Parallel call: mostly it is one function's.
            first = func.items[0][0]
            policy = told_of(first).policy
            future = self._open().submit(
                run_batch, (func,), {}, replace(policy, timeout_s=policy.timeout_s * len(func)),
                copied=self._copied, name=functions.display_name(first),
            )  # fmt: skip
        except Exception as error:  # joblib asks for it in the thread that reads results, and would wait for ever
            future = Answer()
            future.set_exception(error)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """A batch's results, of a future that is done."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Drop what has not begun; what runs is not waited for."""
        calls, self._calls = self._calls, None
        if calls is not None:
            calls.close(wait=False)

    def terminate(self) -> None:
        """The Parallel call is over."""
        calls, self._calls = self._calls, None
        if calls is not None:
            calls.close()
        self.reset_batch_stats()

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int | None]:
        """What tasks' own Parallel calls run on: the slot that they are in, since the others have work, too."""
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None

    def _open(self) -> Calls:
        if self._calls is None:
            self._calls = Calls(self._connection, self._workers, max_workers=self._max_workers)
        return self._calls

    def _slots(self) -> int:
        """The cluster's slots; waits for a first worker."""
        connection = self._connection
        began = time.monotonic()
        while not (slots := connection.slots(self._workers)):
            waited_s = time.monotonic() - began
            if waited_s >= connection.settings.worker_wait_s:
                raise NoWorker(NAME, self._workers, waited_s)
            if connection.cluster is not None:
                connection.cluster.check(self._workers)
            time.sleep(_LOOK_S)
        return slots


_clients: dict[int, Client] = {}  # by process: a fork has its own
_lock = threading.Lock()


def _shared_client() -> Client:
    with _lock:
        client = _clients.get(os.getpid())
        if client is None or client._closed:
            client = _clients[os.getpid()] = Client()
            atexit.register(_close, client, os.getpid())
        return client


def _close(client: Client, pid: int) -> None:
    if os.getpid() == pid:
        client.close(wait=False)
