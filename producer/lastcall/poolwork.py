"""What a pool has under way: calls, maps, and the threads that read them; how it ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from lastcall.asyncresult import Ahead, Callbacks, Feed, as_multiprocessing, not_callable
from lastcall.calls import Answer, Calls
from lastcall.celerytask import task_of, workers_of
from lastcall.errors import (
    ConfigError,
    FunctionNotAllowed,
    ItemTooLarge,
    LastcallError,
    LeaseLost,
    NotSerializable,
    QueueCancelled,
    QueueFinished,
)
from lastcall.map import Failure, MapResults
from lastcall.policy import told
from lastcall.starter import starter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lastcall.client import Client
    from lastcall.state.ledger import Ledger

_END_S = 5.0  # that a pool which is terminated waits for a thread: it may be in the user's iterable


class PoolWork:
    """The work of a pool, which this does not know: so that ends what nobody refers to.

    own: the client is this pool's alone. workers: the Celery queue; Celery tasks have their own. max_workers: slots at
    the same time, of each of these. initializer, initargs, most_chunks: of its processes, as starter() has them.
    Raises NotSerializable, ItemTooLarge, FunctionNotAllowed for an initializer that cannot be sent.
    """

    def __init__(
        self, client: Client, *, own: bool, workers: str, max_workers: int | None,
        initializer: Callable[..., object] | None, initargs: Iterable[Any], most_chunks: int | None,
    ) -> None:  # fmt: skip
        self._client = client
        self._own = own
        self._workers = workers
        self._max_workers = max_workers
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._maps = 0  # that run, in whatever thread
        self._calls: dict[str, Calls] = {}  # by Celery queue
        self._retired: list[Calls] = []  # that take no more calls, but may have some out
        self._ledgers: set[Ledger] = set()  # of maps
        self._feeds: set[Feed] = set()
        self._threads: set[threading.Thread] = set()
        self._terminated = False
        self.callbacks = Callbacks()
        connection = client._open()
        connection.ensure_workers(workers)
        self._starter = starter(connection, workers, initializer, initargs, most_chunks, "maxtasksperchild")

    def check_process(self) -> None:
        """Raise ConfigError in a fork, which has copies of the locks, and none of the threads."""
        if os.getpid() != self._pid:
            raise ConfigError("a pool", "used in the process that made it", "a fork of it", "make another here")

    def submit(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], notify: str | None = None
    ) -> Answer:
        """A call's future; where it cannot be sent, that is its outcome. notify: a URL that is told of its end."""
        if not callable(function):
            return _failed(not_callable(function))
        if notify is not None:
            return self._submit_telling(notify, function, args, kwargs)
        workers = self._workers_of(function)
        calls = self._calls.get(workers)
        if calls is None or calls.broken:
            calls = self._open_calls(workers)
        try:
            try:
                return calls.submit(function, args, kwargs)
            except (LeaseLost, QueueFinished):
                # This process was silent for longer than a lease (suspended, say): the next queue of calls takes it.
                return self._open_calls(workers).submit(function, args, kwargs)
        except (NotSerializable, ItemTooLarge, FunctionNotAllowed) as error:
            return _failed(error)

    def gather(
        self, function: Callable[..., Any], items: Iterable[Any], *,
        star: bool, chunksize: int | None, answer: Answer | None = None, notify: str | None = None,
    ) -> list[Any]:  # fmt: skip
        """A map's values; the first error, in the order of the items, once all are done. answer: learns its ledger."""
        with self._map(function, items, ordered=True, star=star, chunksize=chunksize, notify=notify) as results:
            if answer is not None:
                answer.ledger = results.ledger
            values = list(results)
        if results.failures:
            raise next(value for value in values if type(value) is Failure).error
        return values

    def gather_async(
        self, function: Callable[..., Any], items: Iterable[Any], *, star: bool, chunksize: int | None,
        callback: Callable[[Any], object] | None, error_callback: Callable[[BaseException], object] | None,
        notify: str | None = None,
    ) -> Answer:  # fmt: skip
        """The same in a thread of its own."""
        answer = Answer()

        def run() -> None:
            values, error = None, None
            try:
                values = self.gather(function, items, star=star, chunksize=chunksize, answer=answer, notify=notify)
            except BaseException as raised:  # whatever it is, nobody may wait for this for ever
                error = as_multiprocessing(raised)
            self.callbacks.settle(answer, values, error, callback, error_callback)

        self._start(run)
        return answer

    def feed(
        self, function: Callable[..., Any], items: Iterable[Any], *,
        ordered: bool, star: bool, chunksize: int | None,
    ) -> Feed:  # fmt: skip
        """A map's values and Failures as they come, read by a thread of its own."""
        feed = Feed()
        with self._lock:
            self._feeds.add(feed)

        def run() -> None:
            source = items if isinstance(items, Sized) else Ahead(items)
            try:
                with self._map(function, source, ordered=ordered, star=star, chunksize=chunksize) as results:
                    feed.ledger = results.ledger
                    for value in results:
                        feed.put(Failure(as_multiprocessing(value.error)) if type(value) is Failure else value)
            except BaseException as error:  # as above
                feed.put(Failure(as_multiprocessing(error)))
            finally:
                if isinstance(source, Ahead):
                    source.close()
                feed.end()
                with self._lock:
                    self._feeds.discard(feed)

        self._start(run)
        return feed

    def drain(self) -> None:
        """Wait until all is done, and let go of the client."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            feeds, threads = list(self._feeds), list(self._threads)
        for feed in feeds:
            feed.free()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()
        with self._idle:  # other threads may be in map()
            self._idle.wait_for(lambda: self._maps == 0)
        self._end(wait=True)

    def terminate(self) -> None:
        """Cancel all that is not done, and let go of the client."""
        if os.getpid() != self._pid:
            return  # a fork has a copy of it, not the work
        with self._lock:
            if self._terminated:
                return
            self._terminated = True
            feeds, threads, ledgers = list(self._feeds), list(self._threads), list(self._ledgers)
        for feed in feeds:
            feed.free()
        for ledger in ledgers:
            _cancel(ledger)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_END_S)
        self._end(wait=False)

    def abandon(self) -> None:
        """The same where nobody is there to be told: the pool is not referred to any more, or the program ends.

        In a thread of its own: garbage is collected in any thread, one that holds a lock which this needs, say.
        """
        thread = threading.Thread(target=self._abandon, name="lastcall-pool-end", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down
            self._abandon()
        else:
            thread.join(_END_S)

    def _abandon(self) -> None:
        with suppress(Exception):
            self.terminate()

    def _end(self, *, wait: bool) -> None:
        with self._lock:
            calls = [*self._retired, *self._calls.values()]
            self._retired, self._calls = [], {}
        with ExitStack() as stack:  # each is closed whatever the others raise
            if self._own:
                stack.callback(self._client.close, wait=wait)
            stack.callback(self.callbacks.stop)
            for one in calls:
                stack.callback(one.close, wait=wait)

    def _submit_telling(
        self, notify: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Answer:
        """A call with a queue of its own."""
        with self._lock:
            calls = Calls(
                self._client._open(), self._workers_of(function),
                max_workers=self._max_workers, starter=self._starter, notify=notify,
            )  # fmt: skip
            self._retired.append(calls)

        def forget(_: object) -> None:
            with self._lock:
                if calls in self._retired:
                    self._retired.remove(calls)

        try:
            answer = calls.only(function, args, kwargs)
        except (NotSerializable, ItemTooLarge, FunctionNotAllowed) as error:
            answer = _failed(error)
        answer.add_done_callback(forget)
        return answer

    def _workers_of(self, function: Callable[..., Any]) -> str:
        """The pool's; a Celery task goes to its own."""
        return self._workers if task_of(function) is None else workers_of(function)

    def _open_calls(self, workers: str) -> Calls:
        with self._lock:
            calls = self._calls.get(workers)
            if calls is None or calls.broken:
                if self._terminated:
                    raise ValueError("Pool not running: it was terminated, make another")
                if calls is not None:
                    self._retired.append(calls)
                calls = self._calls[workers] = Calls(
                    self._client._open(), workers, max_workers=self._max_workers, starter=self._starter
                )
            return calls

    @contextmanager
    def _map(
        self, function: Callable[..., Any], items: Iterable[Any], *,
        ordered: bool, star: bool, chunksize: int | None, notify: str | None = None,
    ) -> Iterator[MapResults]:  # fmt: skip
        if not callable(function):
            raise not_callable(function)
        with self._lock:
            self._maps += 1
        try:
            results = MapResults(
                self._client._open(), function, (items,), ordered=ordered, chunksize=chunksize,
                workers=self._workers_of(function), max_workers=self._max_workers, timeout=None, policy=told(),
                star=star, goes_on=True, starter=self._starter, notify=notify,
            )  # fmt: skip
            with self._while_it_may(results):
                yield results
        finally:
            with self._idle:
                self._maps -= 1
                self._idle.notify_all()

    @contextmanager
    def _while_it_may(self, results: MapResults) -> Iterator[None]:
        """Cancelled when the pool is terminated."""
        ledger = results.ledger
        with self._lock:
            self._ledgers.add(ledger)
            terminated = self._terminated
        try:
            if terminated:
                raise QueueCancelled(ledger.shown)
            yield
        except BaseException as error:  # raised again, when what it was about is let go of
            results.close()
            if self._terminated and isinstance(error, Exception) and not isinstance(error, QueueCancelled):
                raise QueueCancelled(ledger.shown) from error  # its client may have been closed first
            raise
        finally:
            with self._lock:
                self._ledgers.discard(ledger)

    def _start(self, run: Callable[[], None]) -> None:
        def run_here() -> None:
            try:
                run()
            finally:
                with self._lock:
                    self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run_here, name="lastcall-pool", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()


def _failed(error: BaseException) -> Answer:
    answer = Answer()
    answer.set_exception(error)
    return answer


def _cancel(ledger: Ledger) -> None:
    with suppress(RedisError, LastcallError):  # it ends by itself when its lease has run out
        ledger.cancel()
