"""Client: where programs hand in work. Holds the connection, and the private cluster where there is no server."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from lastcall import celerytask
from lastcall.calls import Calls
from lastcall.connection import Connection, host, unhost
from lastcall.coroutine import CONCURRENCY, is_async
from lastcall.errors import ClientClosed, ConfigError, LeaseLost, QueueFinished, UnknownJob
from lastcall.feeder import Feeder
from lastcall.flow import Flow, Stage
from lastcall.flowjob import FlowJob
from lastcall.job import Job
from lastcall.map import MapResults
from lastcall.plan import AUTO, SERIAL
from lastcall.policy import RetryOn, told
from lastcall.queue import StatusableQueue, make
from lastcall.serial import SerialJob
from lastcall.settings import Settings
from lastcall.shared.named import Named
from lastcall.sources import check_sources, items_of
from lastcall.state import keys
from lastcall.state.ledger import Ledger
from lastcall.state.records import Status, split
from lastcall.waiting import reaching

if TYPE_CHECKING:
    from lastcall.private import LocalCluster
    from lastcall.registry import WorkerInfo
    from lastcall.starter import Starter

T = TypeVar("T")


class Client(Named):
    """Submits work to a server's workers; without a server, starts a private one with workers.

    url, key: as LASTCALL_URL and LASTCALL_KEY, which they override; where neither says a URL, a server and workers
    are started on this machine, for this client alone, and are gone when it is. slots: processes of that private
    worker (None: one a CPU); options: as in Settings.load(), such as lease_s.
    Raises ServerUnreachable, WrongPassword, ServerTooOld, ConfigError.
    """

    def __init__(
        self, url: str | None = None, key: str | bytes | None = None, *,
        slots: int | None = None, **options: Any,
    ) -> None:  # fmt: skip
        settings = Settings.load(url, key, **options)
        self._cluster: LocalCluster | None = None
        self._calls: dict[str, Calls] = {}
        self._feeders: list[Feeder] = []
        self._coroutines: dict[str, Calls] = {}  # calls of such, of which a slot runs many at the same time
        self._retired: list[Calls] = []  # that take no more calls from here, but may have some out
        self._lock = threading.Lock()
        self._closed = False
        if settings.url is None:
            from lastcall.private import LocalCluster  # needs the extra `local`, a client does not

            self._cluster = LocalCluster(slots, environment=environment_of(settings))
            host(self._cluster)
            settings = replace(settings, url=self._cluster.url, key=self._cluster.key, broker_url=None)
        elif slots is not None:
            raise ConfigError("slots", "given only without a server's URL", repr(slots), "leave it out")
        try:
            self._connection = Connection.of(settings)
            self._connection.ensure_workers("cpu")
        except BaseException:
            self._close_cluster()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close(wait=kind is None)

    def __repr__(self) -> str:
        return f"<Client {self._connection.settings.redacted_url}>"

    @property
    def settings(self) -> Settings:
        """What another process needs for the same server: Client(settings.url, settings.key)."""
        return self._connection.settings

    def map(
        self, function: Callable[..., T], *iterables: Iterable[Any], ordered: bool = True,
        chunksize: int | None = None, workers: str | None = None, max_workers: int | None = None,
        timeout: float | None = None, retries: int | None = None, backoff_s: float | None = None,
        retry_on: RetryOn | None = None, item_timeout: float | None = None, crash_limit: int | None = None,
        concurrency: int | None = None, job: str | None = None, notify: str | None = None,
    ) -> MapResults:  # fmt: skip
        """Apply a function to every item; with several iterables, to their items side by side.

        Lazy at both ends: input may be endless, results come as they are asked for. ordered: in the order of the
        input, else as they come. chunksize: items that travel together; None measures. workers: the Celery queue
        ("cpu"; a Celery task's own).
        max_workers: slots at the same time, in the whole cluster. timeout: seconds to wait for each result.
        retries, backoff_s, retry_on, crash_limit, concurrency: as in queue(). item_timeout: queue()'s timeout.
        job: an id, of a job that is not there yet; its results are then kept on the server until they expire, and
        client.job(id).results() has them for whoever asks, should this process end before it has them all.
        notify: a URL that a worker posts the outcome to, as in queue().
        Raises, when iterated, the first error of the function, with the remote traceback as its cause.
        """
        return MapResults(
            self._open(), function, iterables, ordered=ordered, chunksize=chunksize,
            workers=workers, max_workers=max_workers, timeout=timeout,
            policy=told(
                retries=retries, backoff_s=backoff_s, retry_on=retry_on, timeout=item_timeout, crash_limit=crash_limit,
                concurrency=concurrency, timeout_name="item_timeout",
            ),
            job=job, notify=notify,
        )  # fmt: skip

    @overload
    def submit(self, function: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any) -> Future[T]: ...
    @overload
    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]: ...
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call function(*args, **kwargs) on a worker of the Celery queue "cpu", a Celery task on one of its own queue.

        The future's cancel() takes the call back if no slot has it yet. What becomes of a call that raises or takes too
        long, @task(retries=, timeout=) says.
        """
        return self.submit_to(celerytask.workers_of(function), function, *args, **kwargs)

    @overload
    def submit_to(
        self, workers: str, function: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any
    ) -> Future[T]: ...
    @overload
    def submit_to(self, workers: str, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]: ...
    def submit_to(self, workers: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call function(*args, **kwargs) on a worker of the Celery queue `workers`."""
        self._open()
        coroutine = is_async(function)
        calls = (self._coroutines if coroutine else self._calls).get(workers)
        if calls is None or calls.broken:
            calls = self._calls_to(workers, coroutine)
        try:
            return calls.submit(function, args, kwargs)
        except (LeaseLost, QueueFinished):
            # This process was silent for longer than a lease (suspended, say): the next queue of calls takes it.
            return self._calls_to(workers, coroutine).submit(function, args, kwargs)

    def submit_telling(self, notify: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """submit(), of which a worker tells the URL `notify` when it has ended, though this process may be gone.

        The call has a queue of its own, with one item; docs/waiting.md says what is told. It is on the server when
        this returns. Raises ConfigError and NotificationRefused as queue(notify=) does.
        """
        workers, concurrency = celerytask.workers_of(function), CONCURRENCY if is_async(function) else None
        calls = self._own_calls(workers, None, concurrency=concurrency, notify=notify)
        try:
            future = calls.only(function, args, kwargs)
        except BaseException:
            self._forget(calls)
            raise
        future.add_done_callback(lambda _: self._forget(calls))
        return future

    def _calls_to(self, workers: str, coroutine: bool) -> Calls:
        with self._lock:
            connection = self._open()
            known = self._coroutines if coroutine else self._calls
            calls = known.get(workers)
            if calls is None or calls.broken:
                if calls is not None:
                    self._retired.append(calls)
                concurrency = CONCURRENCY if coroutine else None
                calls = known[workers] = Calls(connection, workers, concurrency=concurrency)
            return calls

    def _own_calls(
        self, workers: str, max_workers: int | None, *, starter: Starter | None = None, concurrency: int | None = None,
        notify: str | None = None,
    ) -> Calls:  # fmt: skip
        """Calls apart from those of submit(), for an executor, say; closed with the client at the latest."""
        with self._lock:
            calls = Calls(
                self._open(), workers,
                max_workers=max_workers, starter=starter, concurrency=concurrency, notify=notify,
            )  # fmt: skip
            self._retired.append(calls)
            return calls

    def _forget(self, calls: Calls) -> None:
        """They are closed."""
        with self._lock:
            if calls in self._retired:
                self._retired.remove(calls)

    @reaching
    def queue(
        self, name: str, function: Callable[..., Any] | None = None, *, job: str | None = None,
        into: StatusableQueue[Any] | None = None, maxsize: int | None = None, maxbytes: int | None = None,
        workers: str | None = None, max_workers: int | None = None, producers: int | None = None,
        on_lost: str | None = None, results: str | None = None, on_error: str | None = None,
        retries: int | None = None, backoff_s: float | None = None, retry_on: RetryOn | None = None,
        timeout: float | None = None, crash_limit: int | None = None, concurrency: int | None = None,
        reopen: bool = False, notify: str | None = None, record: str | None = None,
    ) -> StatusableQueue[Any]:  # fmt: skip
        """A queue of this name: the one that is there, if it agrees with what is said here, or a new one.

        function: what workers run its items through; None: consumers read them.
        job: what it belongs to (None: a job of its own name, or that of `into`). into: the queue its outputs go to.
        maxsize, maxbytes: items and bytes outstanding, here and downstream, before producers of this queue block (0: no
        bound). Outputs of a stage never block: bound the first queue.
        workers: the Celery queue of those who work on it ("cpu"; a Celery task's own). max_workers: slots at the same
        time.
        producers: how many there will be, where that is known; otherwise the last one to leave seals the queue.
        on_lost: "fail" (end INCOMPLETE), "wait" (until it comes back) or "ignore" a producer that fell silent.
        results: "keep" them until the job expires, "once" until they are read (unread ones count as outstanding), or
        "discard". on_error: an item whose function raises becomes "dead", or the exception is its result ("return").
        retries: how often an item whose function raises is tried again (0). backoff_s: seconds before the first time
        (1.0), twice that before each next, half of it random, 600 at most. retry_on: exception classes that are worth
        it (every Exception). timeout: seconds that an item may run (no bound); it then raises ItemTimeout, and where
        that does not end it within a second, its process is killed; a thread goes on, but its result is not taken.
        crash_limit: how often an item may kill its slot (3) before it becomes a dead letter.
        concurrency: how many coroutines of an `async def` function a slot runs at the same time (500).
        What is not said of these six is as @task(...) said of the function.
        reopen: if it has ended, begin anew. record: what its job's history holds, as in run() (nothing).
        notify: a URL that a worker posts the outcome to, signed, when the queue has ended; only to hosts that a worker
        may tell (LASTCALL_NOTIFY_HOSTS). docs/waiting.md says what it sends, verify_notification() checks it.
        Raises FunctionMismatch, QueueMismatch, ConfigError, NotSerializable, FunctionNotAllowed, NotificationRefused.
        """
        if into is not None:
            job = job or into.job
        return make(
            self._open(), job or name, name, function=function, into=into, maxsize=maxsize, maxbytes=maxbytes,
            workers=workers, max_workers=max_workers, producers=producers, on_lost=on_lost,
            results=results, on_error=on_error, reopen=reopen, notify=notify, record=record,
            policy=told(
                retries=retries, backoff_s=backoff_s, retry_on=retry_on, timeout=timeout, crash_limit=crash_limit,
                concurrency=concurrency,
            ),
        )  # fmt: skip

    def run(
        self, flow: Flow | Stage | Callable[..., Any], items: Iterable[Any] | None = None, *,
        sources: Sequence[Callable[..., Iterable[Any]]] | None = None, mode: str = AUTO, ordered: bool = True,
        on_error: str = "stop", window: int | None = None, results: str | None = None, job: str | None = None,
        record: str = "all", notify: str | None = None,
    ) -> FlowJob | SerialJob:  # fmt: skip
        """Run a flow over items, or over what producer functions give that workers run: `sources`.

        items: any iterable, endless ones too; a thread reads it. sources: each gives its items in its own time, without
        an order among them; one whose worker died runs again and goes on behind what it had put, by a parameter named
        `position` if it has one.
        mode: "auto" (neighbours that are cheap to join share a queue), "streaming" (a queue for each stage),
        "horizontal" (the same, one after the other), "vertical" (an item's whole chain in one slot), "serial" (in this
        process, for comparison and debugging). Results are the same in each.
        ordered: results come in the order of the items, else as they come. on_error: an item's error ends the job and
        is raised ("stop"), or is a dead letter ("dead"), or a Failure in the results ("yield").
        window: items under way, unread results included (100,000); more are not read from the input.
        results: "once" (there until they are read), "keep" (until the job expires: what a job with an id does) or
        "discard". job: an id, of a job that is not there yet; client.job(id) has its results then.
        record: what the job's history holds, for job.on(), `lastcall trace`, `replay` and `gantt`: "all" (also chunks'
        arguments and results, up to 4 kB each), "times", or "failures", which are kept in any case.
        notify: a URL that a worker posts the outcome of the last queue to, as in queue().
        Raises ConfigError, NothingToReduce where that is known before anything runs; NotSerializable,
        FunctionNotAllowed; ServerUnreachable.
        """
        connection = self._open()
        made = flow if isinstance(flow, Flow) else Flow(flow)
        if (items is None) == (sources is None):
            raise ConfigError("items", "given, or else sources", "neither" if items is None else "both")
        if items is not None and not isinstance(items, Iterable):
            raise ConfigError("items", "iterable", type(items).__name__)
        if sources is not None:
            check_sources(sources)
        if mode == SERIAL:
            if notify is not None:
                raise ConfigError("notify", "given in a mode that has workers, who tell", repr(mode))
            of_sources = itertools.chain.from_iterable(map(items_of, sources or ()))
            return SerialJob(made, of_sources if items is None else items, on_error=on_error)
        running = FlowJob(
            connection, made, items, mode=mode, ordered=ordered, on_error=on_error, window=window, results=results,
            job=job, sources=sources, record=record, notify=notify,
        )  # fmt: skip
        with self._lock:
            self._feeders = [feeder for feeder in self._feeders if not feeder.fed.is_set()]
            if running.feeder is not None:
                self._feeders.append(running.feeder)
        return running

    def job(self, job: str) -> Job:
        """A job by its id. Its methods raise UnknownJob if there is none."""
        return Job(self._open(), job)

    @reaching
    def status(self) -> list[Status]:
        """One moment of every queue that has not ended."""
        connection = self._open()
        statuses = []
        addresses: Any = connection.redis.hkeys(keys.QUEUES)
        for address in addresses:
            job, name = split(address.decode())
            try:
                status = Ledger(connection.redis, job, [name]).status()
            except UnknownJob:  # it expired meanwhile
                continue
            if not status.ended:
                statuses.append(status)
        return sorted(statuses, key=lambda status: (status.created_ms, status.job, status.name))

    @reaching
    def workers(self) -> list[WorkerInfo]:
        """The worker nodes that live, with the Celery queues and slots of each."""
        return self._open().registry.live()

    def close(self, *, wait: bool = True) -> None:
        """Wait for calls that are out (or, wait=False, cancel them), and let go of everything."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with ExitStack() as stack:  # each is closed whatever the others raise
            # A server outlives its clients: other handles of this process may use the connection.
            if self._cluster is not None:
                stack.callback(self._close_cluster)
                stack.callback(self._connection.close)
            for feeder in self._feeders:
                stack.callback(feeder.stop, 2.0)
            for calls in (*self._retired, *self._calls.values(), *self._coroutines.values()):
                stack.callback(calls.close, wait=wait)

    def _close_cluster(self) -> None:
        if self._cluster is not None:
            unhost(self._cluster)
            self._cluster.close()

    def _open(self) -> Connection:
        if self._closed:
            raise ClientClosed
        return self._connection


def environment_of(settings: Settings) -> dict[str, str]:
    """Settings that the private workers are to share."""
    names = (
        "lease_s", "slice_s", "linger_s", "reap_s", "ttl_s", "max_item_bytes", "worker_wait_s", "aside_bytes",
        "aside_cache_bytes",
    )  # fmt: skip
    environment = {f"LASTCALL_{name.upper()}": str(getattr(settings, name)) for name in names}
    return environment | {"LASTCALL_NOTIFY_HOSTS": " ".join(settings.notify_hosts)}
