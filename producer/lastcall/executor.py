"""Executor: concurrent.futures.Executor, on workers of any machine.

Each call is one of a queue of calls of the executor's own (calls.py), so that max_workers caps its slots in the whole
cluster, and shutdown() waits for its calls alone. What the standard library's executors do is done here, too.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

from lastcall import functions
from lastcall.calls import Answer, Calls, run_calls
from lastcall.celerytask import task_of
from lastcall.client import Client
from lastcall.errors import (
    ClientClosed,
    ConfigError,
    FunctionNotAllowed,
    InitializerFailed,
    ItemTooLarge,
    LeaseLost,
    NotSerializable,
    QueueFinished,
)
from lastcall.policy import Policy, told_of
from lastcall.settings import Settings
from lastcall.starter import Starter, starter

T = TypeVar("T")


class Executor(concurrent.futures.Executor):
    """Runs calls on workers; concurrent.futures.wait() and as_completed() take its futures.

    max_workers: slots at the same time (None: all that there are). client: to work through, left open by shutdown();
    None: one of its own, by LASTCALL_URL or with a private server and max_workers processes. workers: the Celery queue.
    mp_context: of no effect, the workers' pool says how processes are started.
    initializer, initargs: each slot's process (thread) calls initializer(*initargs) before its first call. Where it
    raises, the calls that are run there raise InitializerFailed, a BrokenProcessPool; once one has, so does submit().
    max_tasks_per_child: a slot's process that has run so many calls ends, and another takes its place; None: it stays.
    Only prefork workers can: warns where others serve the executor.
    A call that cannot be sent, since something in it cannot be pickled, say, gives a future with that error. A program
    ends when the calls that are out are done, whether or not shutdown() was called.
    Raises TypeError, ValueError; what Client() raises; NotSerializable, ItemTooLarge, FunctionNotAllowed for an
    initializer that cannot be sent.
    """

    def __init__(
        self, max_workers: int | None = None, mp_context: object = None,
        initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = (), *,
        max_tasks_per_child: int | None = None, client: Client | None = None, workers: str = "cpu",
    ) -> None:  # fmt: skip
        if max_workers is not None:
            _int("max_workers", max_workers)
            if max_workers < 1:
                raise ValueError(f"max_workers must be greater than 0, got {max_workers}: leave it out for no cap")
        if max_tasks_per_child is not None:
            _int("max_tasks_per_child", max_tasks_per_child)
            if max_tasks_per_child < 1:
                raise ValueError(f"max_tasks_per_child must be >= 1, got {max_tasks_per_child}")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, got {initializer!r}")
        self._work = _Work(client, workers, max_workers, initializer, initargs, max_tasks_per_child)

    def __repr__(self) -> str:
        return f"<Executor {self._work.client.settings.redacted_url} {self._work.workers}>"

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call fn(*args, **kwargs) on a worker.

        The future's cancel() takes the call back if no slot has it (a round trip). Its running() is True only where a
        cancel() was refused for that: nobody is told when a slot begins a call. Raises RuntimeError after shutdown,
        and InitializerFailed once a call has.
        """
        return self._work.submit(fn, args, kwargs)

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:  # fmt: skip
        """The results of fn for the iterables' items side by side, in their order.

        timeout: seconds from now, after which a result that is not there raises TimeoutError. chunksize: items that are
        one call, with one outcome: the first error in it; what @task(retries=) says goes for the whole of it, and what
        timeout= says for each item. Each item of a Celery task is a call, whatever it says. buffersize: calls whose
        results are not read yet, so that the iterables are read lazily; None: all are read and sent at once. Left
        early, or ended by an error, it cancels what has not begun.
        """
        _int("chunksize", chunksize)
        if chunksize < 1:
            raise ValueError(f"chunksize must be >= 1, got {chunksize}")
        if buffersize is not None:
            _int("buffersize", buffersize)
            if buffersize < 1:
                raise ValueError(f"buffersize must be None or > 0, got {buffersize}")
        end = None if timeout is None else time.monotonic() + timeout
        work, items = self._work, zip(*iterables, strict=False)
        if chunksize == 1 or task_of(fn) is not None:  # a Celery task is one for each call
            return _results((work.submit(fn, args, {}) for args in items), buffersize, end)
        chunks = iter(lambda: tuple(itertools.islice(items, chunksize)), ())
        results = _results((work.submit_chunk(fn, chunk) for chunk in chunks), buffersize, end)
        return _flat(results)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. May be called again.

        wait: until those that are out are done, and what the executor holds is let go of; False: that happens later,
        and the program does not end before. cancel_futures: cancel those that no slot has.
        """
        work = self._work
        work.stop("cannot schedule new futures after shutdown")
        if cancel_futures:
            work.cancel()
        if wait and not work.reads_here:
            work.close()
            return
        try:
            threading.Thread(target=work.close, name="lastcall-executor-shutdown").start()
        except RuntimeError:  # the interpreter ends, which waits for it, or cannot have one more thread
            if not work.reads_here:
                work.close()

    def terminate_workers(self) -> None:
        """Python 3.14's: take no more calls, cancel those that no slot has, and wait for none of the others.

        These raise QueueCancelled. What runs does so to its end, in processes that serve other programs, too, and what
        it returns is dropped.
        """
        work = self._work
        work.stop("cannot schedule new futures after shutdown")
        work.cancel()
        work.drop()
        self.shutdown(wait=False)

    kill_workers = terminate_workers

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        # At Ctrl-C a ProcessPoolExecutor's processes end, too, so that its block is left at once.
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.terminate_workers()
        else:
            self.shutdown(wait=True)


class _Work:
    """What an executor has: its client, and its calls until they are done, whether or not it is referred to."""

    def __init__(
        self, client: Client | None, workers: str, max_workers: int | None,
        initializer: Callable[..., object] | None, initargs: Iterable[Any], max_tasks_per_child: int | None,
    ) -> None:  # fmt: skip
        self._own = client is None
        self.client = client or _client(max_workers)
        self.workers = workers
        self._max_workers = max_workers
        self._starter: Starter | None = None
        if initializer is not None or max_tasks_per_child is not None:
            try:
                self._starter = starter(
                    self.client._open(), workers, initializer, initargs, max_tasks_per_child, "max_tasks_per_child"
                )
            except BaseException:
                if self._own:
                    self.client.close(wait=False)
                raise
        wire = None if self._starter is None else self._starter.initializer
        self._initializer = wire and wire[1]  # its name, as its error tells it: a function may have a pool of its own
        self._broken: InitializerFailed | None = None
        self._calls: list[Calls] = []  # the last one takes calls; others were broken, and have told their futures so
        self._pid = os.getpid()
        self._over = ""  # why it takes no more
        self._closed = False
        self._lock = threading.Lock()
        self._closing = threading.Lock()
        _open.add(self)
        # Behind what ends the private cluster, which came with the client: the last that is registered runs first.
        atexit.unregister(_wait_for_all)
        atexit.register(_wait_for_all)

    def submit(self, function: Any, args: Any, kwargs: dict[str, Any], policy: Policy | None = None) -> Future[Any]:
        if os.getpid() != self._pid:  # a fork has copies of the locks, and none of the threads
            raise ConfigError("an executor", "used in the process that made it", "a fork of it", "make another here")
        with self._lock:
            if self._over:
                raise RuntimeError(self._over)
            if self._broken is not None:
                raise self._broken
            try:
                self.client._open()
                if not callable(function):
                    return _failed(TypeError(f"fn must be callable, got a value of type {type(function).__name__}"))
                calls = self._calls[-1] if self._calls and not self._calls[-1].broken else self._more()
                try:
                    future = calls.submit(function, args, kwargs, policy)
                except (LeaseLost, QueueFinished):
                    # This process was silent for longer than a lease: the next queue of calls takes it.
                    future = self._more().submit(function, args, kwargs, policy)
                if self._initializer:
                    future.add_done_callback(self._look)
                return future
            except (NotSerializable, ItemTooLarge, FunctionNotAllowed) as error:
                return _failed(error)
            except ClientClosed as error:
                raise RuntimeError("cannot schedule new futures after its client was closed") from error

    def submit_chunk(self, function: Any, chunk: tuple[Any, ...]) -> Future[Any]:
        """Several calls in one."""
        if not callable(function):
            return self.submit(function, chunk, {})
        named: Any = function
        if not self.client._connection.sealer.keyed:
            try:
                named = functions.dump(function, False).body
            except FunctionNotAllowed as error:
                return _failed(error)
        policy = told_of(function).policy
        return self.submit(run_calls, (named, chunk), {}, replace(policy, timeout_s=policy.timeout_s * len(chunk)))

    def _look(self, future: Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, InitializerFailed) and error.initializer == self._initializer:
            self._broken = error

    def _more(self) -> Calls:
        calls = self.client._own_calls(self.workers, self._max_workers, starter=self._starter)
        self._calls.append(calls)
        return calls

    @property
    def reads_here(self) -> bool:
        """Whether this is a thread that runs the futures' callbacks, which must not wait for futures."""
        return any(calls.reads_here for calls in self._calls)

    def stop(self, why: str) -> None:
        with self._lock:
            self._over = self._over or why

    def cancel(self) -> None:
        for calls in self._calls:
            calls.cancel()

    def drop(self) -> None:
        for calls in self._calls:
            calls.drop()

    def close(self) -> None:
        """Wait for what is out, and let go of everything."""
        if os.getpid() != self._pid:
            return  # a fork leaves its copy
        with self._closing:
            if self._closed:
                return
            with ExitStack() as stack:  # each whatever the others raise
                stack.callback(_open.discard, self)
                if self._own:
                    stack.callback(self.client.close)
                for calls in self._calls:
                    stack.callback(self.client._forget, calls)
                    stack.callback(calls.close)
            self._closed = True


_open: set[_Work] = set()


def _wait_for_all() -> None:
    """The interpreter ends: as with the standard library's executors, what was submitted is done first."""
    with ExitStack() as stack:
        for work in list(_open):
            work.stop("cannot schedule new futures after interpreter shutdown")
            stack.callback(work.close)


def _client(max_workers: int | None) -> Client:
    private = max_workers is not None and Settings.load().url is None
    return Client(slots=max_workers) if private else Client()


def _int(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")


def _failed(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def _results(submitted: Iterator[Future[Any]], buffersize: int | None, end: float | None) -> Iterator[Any]:
    """Results in order; `buffersize` futures are made before anybody asks for one."""
    return _handed_out(deque(itertools.islice(submitted, buffersize)), submitted, end)


def _handed_out(
    futures: deque[Future[Any]], submitted: Iterator[Future[Any]], end: float | None
) -> Generator[Any, None, None]:
    try:
        while futures:
            yield _next(futures, submitted, end)  # a value is the reader's alone, who may have no room for two
    finally:
        _cancel(futures)


def _next(futures: deque[Future[Any]], submitted: Iterator[Future[Any]], end: float | None) -> Any:
    value = futures[0].result(None if end is None else end - time.monotonic())
    futures.popleft()
    futures.extend(itertools.islice(submitted, 1))
    return value


def _cancel(futures: Iterable[Future[Any]]) -> None:
    """Cancel what has not begun, in few round trips; the last ones first."""
    by_calls: dict[Calls, list[Answer]] = {}
    for future in reversed(list(futures)):
        if isinstance(future, Answer) and future.calls is not None and not future.done():
            by_calls.setdefault(future.calls, []).append(future)
    for calls, those in by_calls.items():
        calls.cancel(those)


def _flat(chunks: Iterator[list[Any]]) -> Iterator[Any]:
    for chunk in chunks:
        chunk.reverse()
        while chunk:
            yield chunk.pop()
