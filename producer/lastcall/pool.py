"""Pool, ThreadPool: multiprocessing's pools, on a cluster.

from lastcall import Pool

with Pool() as pool:
    print(pool.map(square, range(10)))
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from lastcall.asyncresult import AsyncResult, IMapIterator, as_multiprocessing, settle
from lastcall.calls import Answer
from lastcall.client import Client
from lastcall.poolwork import PoolWork
from lastcall.settings import Settings

T = TypeVar("T")

_RUN, _CLOSE, _TERMINATE = "RUN", "CLOSE", "TERMINATE"

Callback = Callable[[Any], object]
ErrorCallback = Callable[[BaseException], object]


class Pool:
    """multiprocessing.Pool, whose processes are the slots of a cluster's workers.

    processes: slots at the same time, in the whole cluster, for each map and for all calls together (None: all that
    there are). More than there are is no error; a private cluster is started with as many.
    initializer, initargs: each slot's process (with gevent: the worker's one process, for all its greenlets) calls
    initializer(*initargs) before it runs this pool's first item. Where it raises, whatever is run there for this pool
    raises InitializerFailed, and it is not tried again (multiprocessing starts processes for ever). It travels with
    every map: initargs had better be small.
    maxtasksperchild: a slot's process that has run so many tasks of this pool (calls, and chunks of maps) ends, and
    another takes its place; None: it stays. Only prefork workers can: warns where others serve the pool.
    context: of no effect, the workers' pool says how processes are started.
    client: whose server to use; it is not closed. None: one of the pool's own, by LASTCALL_URL, or private (which takes
    some seconds to start: where a program has several pools without a server, give them one client).

    Other than multiprocessing's: what cannot be pickled is tried by cloudpickle (lambdas are sent); a process that
    dies is replaced and its item tried again; results that will not come raise (QueueCancelled after terminate(),
    WorkerLost, NoWorker), where they would be waited for for ever; an exception that raises while it is unpickled
    arrives; imap() is 10,000 results ahead of its reader at most, until the pool is joined, and its input 1,000 items.
    @task's retries and timeout hold here, too.

    Raises ValueError and TypeError as multiprocessing does, what Client() raises, and ConfigError in a fork of the
    process that made it, where multiprocessing's would wait for ever.
    """

    _workers = "cpu"

    def __init__(
        self, processes: int | None = None, initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (), maxtasksperchild: int | None = None, context: object = None, *,
        client: Client | None = None,
    ) -> None:  # fmt: skip
        if processes is not None:
            _at_least_1("processes", processes)
        _check_maxtasksperchild(maxtasksperchild)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, got {initializer!r}")
        self._processes = processes
        own = client is None
        if client is None:
            private = Settings.load().url is None
            client = Client(slots=self._slots_of(processes) if private else None)
        try:
            self._work = PoolWork(
                client, own=own, workers=self._workers, max_workers=processes,
                initializer=initializer, initargs=initargs, most_chunks=maxtasksperchild,
            )  # fmt: skip
        except BaseException:
            if own:
                client.close(wait=False)
            raise
        self._state = _RUN
        self._end = weakref.finalize(self, self._work.abandon)

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.terminate()

    def __del__(self) -> None:
        if getattr(self, "_state", None) == _RUN:
            warnings.warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        size = "all" if self._processes is None else self._processes
        return f"<lastcall.{type(self).__name__} state={self._state} pool_size={size}>"

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError(
            "pool objects cannot be passed between processes or pickled: make one there, on the same server"
        )

    # Calls

    def apply(
        self, func: Callable[..., T], args: Iterable[Any] = (), kwds: Mapping[str, Any] | None = None
    ) -> T:  # fmt: skip
        """Call func(*args, **kwds) and give what it returns; raises what it raises."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self, func: Callable[..., T], args: Iterable[Any] = (), kwds: Mapping[str, Any] | None = None,
        callback: Callback | None = None, error_callback: ErrorCallback | None = None, *, notify: str | None = None,
    ) -> AsyncResult[T]:  # fmt: skip
        """Call func(*args, **kwds); the result comes later.

        callback: called with what it returned; error_callback: with what it raised. All of a pool's are called by one
        thread, one after the other; a result is ready when that is done. What keeps a call from being sent, an
        argument that cannot be pickled, say, is raised by the result, too. notify: a URL that a worker tells of the
        call's end, as of client.submit_telling().
        """
        self._check_running()
        _check_callbacks(callback, error_callback)
        try:
            sent, named = tuple(args), dict(kwds or ())
        except (TypeError, ValueError) as error:
            answer = Answer()
            answer.set_exception(error)
        else:
            answer = self._work.submit(func, sent, named, notify)
        if callback is not None or error_callback is not None:
            answer = self._work.callbacks.after(answer, callback, error_callback)
        return AsyncResult(self, answer, "apply_async", func)

    # Maps

    def map(self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int | None = None) -> list[T]:
        """func of every item, in their order. Raises the first error, by the order of the items, when all are done.

        chunksize: items that travel together; None measures what they take.
        """
        return self._gather(func, iterable, chunksize, star=False)

    def starmap(
        self, func: Callable[..., T], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[T]:  # fmt: skip
        """As map(), of func(*item)."""
        return self._gather(func, iterable, chunksize, star=True)

    def map_async(
        self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int | None = None,
        callback: Callback | None = None, error_callback: ErrorCallback | None = None, *, notify: str | None = None,
    ) -> AsyncResult[list[T]]:  # fmt: skip
        """map() whose result, or error, comes later; callback and error_callback as of apply_async().

        notify: a URL that a worker tells of the end, as of client.map(); not where there is nothing to do.
        """
        return self._gather_async("map_async", func, iterable, chunksize, callback, error_callback, notify)

    def starmap_async(
        self, func: Callable[..., T], iterable: Iterable[Iterable[Any]], chunksize: int | None = None,
        callback: Callback | None = None, error_callback: ErrorCallback | None = None, *, notify: str | None = None,
    ) -> AsyncResult[list[T]]:  # fmt: skip
        """starmap() whose result, or error, comes later; callback, error_callback and notify as of map_async()."""
        return self._gather_async("starmap_async", func, iterable, chunksize, callback, error_callback, notify)

    def imap(
        self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int | None = None
    ) -> IMapIterator[T]:  # fmt: skip
        """map() that reads its input and gives its results little by little, each error in its place.

        The iterator's next(timeout) waits for `timeout` seconds, and raises multiprocessing.TimeoutError.
        chunksize: as of map(); multiprocessing's own default is 1.
        """
        return self._iterate("imap", func, iterable, chunksize, ordered=True)

    def imap_unordered(
        self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int | None = None
    ) -> IMapIterator[T]:  # fmt: skip
        """imap() whose results come as they are done."""
        return self._iterate("imap_unordered", func, iterable, chunksize, ordered=False)

    # The end

    def close(self) -> None:
        """Take no more work; what is under way goes on. join() waits for it."""
        if self._state == _RUN:
            self._state = _CLOSE

    def terminate(self) -> None:
        """Cancel what is not done: its results raise QueueCancelled. Done when nobody refers to the pool, too."""
        self._state = _TERMINATE
        self._end.detach()
        self._work.terminate()

    def join(self) -> None:
        """Wait until all is done, the callbacks too. Raises ValueError unless the pool was closed or terminated."""
        if self._state == _RUN:
            raise ValueError("Pool is still running: close() or terminate() it first")
        self._work.drain()

    def _check_running(self) -> None:
        self._work.check_process()
        if self._state != _RUN:
            raise ValueError(f"Pool not running: its state is {self._state}, make another")

    def _gather(self, func: Callable[..., T], iterable: Iterable[Any], chunksize: int | None, *, star: bool) -> list[T]:
        self._check_running()
        items = _sized(iterable, chunksize)
        if items is None:
            return []
        try:
            return self._work.gather(func, items, star=star, chunksize=chunksize)
        except Exception as error:  # whatever it is, it is raised as multiprocessing would
            raised = as_multiprocessing(error)
            if raised is error:
                raise
        raise raised

    def _gather_async(
        self, what: str, func: Callable[..., T], iterable: Iterable[Any], chunksize: int | None,
        callback: Callback | None, error_callback: ErrorCallback | None, notify: str | None,
    ) -> AsyncResult[list[T]]:  # fmt: skip
        self._check_running()
        _check_callbacks(callback, error_callback)
        items = _sized(iterable, chunksize)
        if items is None:
            answer = Answer()
            settle(answer, [], None)  # without a callback, as in multiprocessing
        else:
            answer = self._work.gather_async(
                func, items, star=what == "starmap_async", chunksize=chunksize,
                callback=callback, error_callback=error_callback, notify=notify,
            )  # fmt: skip
        return AsyncResult(self, answer, what, func)

    def _iterate(
        self, what: str, func: Callable[..., T], iterable: Iterable[Any], chunksize: int | None, *, ordered: bool
    ) -> IMapIterator[T]:
        self._check_running()
        if chunksize is not None:
            _at_least_1("chunksize", chunksize)
        source: Any = iterable
        items = source if isinstance(source, Iterable) else _each(source)
        feed = self._work.feed(func, items, ordered=ordered, star=False, chunksize=chunksize)
        return IMapIterator(self, feed, what, func)

    def _slots_of(self, processes: int | None) -> int | None:
        """Processes of a private cluster."""
        return processes


class ThreadPool(Pool):
    """multiprocessing.pool.ThreadPool, whose threads are those of the cluster's workers for I/O, on the Celery queue
    "io".

    As Pool. The threads are in other processes: what is handed in and returned is pickled, and nothing is shared with
    this one. The initializer is called by each thread. A private cluster has 16 threads.
    """

    _workers = "io"

    def __init__(
        self, processes: int | None = None, initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (), *, client: Client | None = None,
    ) -> None:  # fmt: skip
        super().__init__(processes, initializer, initargs, client=client)

    def _slots_of(self, processes: int | None) -> int | None:
        return 1  # this pool has no use for them


def _sized(iterable: Iterable[Any], chunksize: int | None) -> Iterable[Any] | None:
    """A map's items, read if they do not say how many they are; None if there are none."""
    if not isinstance(iterable, Sized) or not hasattr(iterable, "__iter__"):
        iterable = list(iterable)
    if chunksize is not None:
        _at_least_1("chunksize", chunksize)
    return iterable if len(iterable) else None


def _each(iterable: Any) -> Iterator[Any]:
    """The items of what does not look iterable, or its TypeError where they are read."""
    yield from iterable


def _at_least_1(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a positive int or None, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _check_maxtasksperchild(value: object) -> None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ValueError(f"maxtasksperchild must be a positive int or None, got {value!r}")


def _check_callbacks(*callbacks: object) -> None:
    for callback in callbacks:
        if callback is not None and not callable(callback):
            raise TypeError(f"a callback must be callable, or None, got {callback!r}")
