"""What a pool's calls that do not block give: AsyncResult, IMapIterator; and who calls their callbacks."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lastcall.calls import Answer
from lastcall.current import HELP_S, help_with, running
from lastcall.errors import ConfigError, NotSerializable, WaitTimeout
from lastcall.feed import NotYet
from lastcall.map import Failure
from lastcall.waiting import Deadline

if TYPE_CHECKING:
    from lastcall.state.ledger import Ledger

T = TypeVar("T")

_AHEAD = 10_000  # results that an imap has ready for its reader, before it waits for it
_INPUT = 1_000  # items that are read before they can be sent
_NOT_YET_S = 0.01  # that a map waits for an item before it looks for results
_LONG_S = 3600.0


class PoolTimeout(WaitTimeout, multiprocessing.TimeoutError):
    """A pool's result did not come in time. Both a TimeoutError and multiprocessing's, which is another."""


class ResultNotSerializable(NotSerializable, MaybeEncodingError):  # type: ignore[misc]
    """What a function returned cannot be sent back. exc, value: as those of multiprocessing's MaybeEncodingError."""

    def __init__(self, what: str, index: int | None, type_name: str, reason: str) -> None:
        NotSerializable.__init__(self, what, index, type_name, reason)
        self.exc, self.value = reason, f"a {type_name}"

    def __str__(self) -> str:
        return str(self.args[0])

    def __repr__(self) -> str:
        return f"<ResultNotSerializable: {self}>"


class AsyncResult(Generic[T]):
    """The result of a call or a map, as multiprocessing.pool.AsyncResult is; made by a pool's *_async()."""

    def __init__(self, pool: object, future: Answer, what: str, function: object) -> None:
        # A pool that nobody refers to is terminated, and so is not while somebody may wait for this.
        self._pool: object = pool
        self._future = future
        self._what = what
        self._function = function

    def __repr__(self) -> str:
        state = "ready" if self.ready() else "not ready"
        return f"<AsyncResult of {self._what}({_name(self._function)}), {state}>"

    def ready(self) -> bool:
        """Whether it is there."""
        return self._future.done()

    def successful(self) -> bool:
        """Whether it is a value, no exception. Raises ValueError if it is not there yet."""
        if not self.ready():
            raise ValueError(f"{self!r}: expected one that is ready, wait() for it first")
        return self._future.exception() is None

    def wait(self, timeout: float | None = None) -> None:
        """Block until it is there, or `timeout` seconds have passed."""
        with contextlib.suppress(TimeoutError):  # of this wait: an exception of the call's is not raised here
            self._future.exception(timeout)

    def get(self, timeout: float | None = None) -> T:
        """The value; blocks until it is there.

        timeout: seconds. Raises multiprocessing.TimeoutError if it does not come in time; what the function raised,
        with the remote traceback as its cause; what kept the call from being sent, or from being run.
        """
        self.wait(timeout)
        if not self.ready():
            raise PoolTimeout(f"the result of {self._what}({_name(self._function)})", timeout or 0.0)
        self._pool = None
        error = self._future.exception()
        if error is not None:
            raise as_multiprocessing(error)
        value: T = self._future.result()
        return value


class Callbacks:
    """One thread that calls a pool's callbacks, one after the other as results come; the first starts it.

    An exception that one of them raises is reported as that of a thread, by threading.excepthook, and the others are
    called nonetheless.
    """

    def __init__(self) -> None:
        self._told: SimpleQueue[tuple[Answer, Any, BaseException | None, Callable[[Any], object]] | None] = (
            SimpleQueue()
        )
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def after(
        self, answer: Answer,
        callback: Callable[[Any], object] | None, error_callback: Callable[[BaseException], object] | None,
    ) -> Answer:  # fmt: skip
        """What is settled as `answer` is, once the callback that it wants was called."""
        later = Answer(answer.ledger)

        def settle(answer: Any) -> None:
            error = answer.exception()
            if error is not None:
                self.settle(later, None, as_multiprocessing(error), callback, error_callback)
            else:
                self.settle(later, answer.result(), None, callback, error_callback)

        answer.add_done_callback(settle)
        return later

    def settle(
        self, answer: Answer, value: Any, error: BaseException | None,
        callback: Callable[[Any], object] | None, error_callback: Callable[[BaseException], object] | None,
    ) -> None:  # fmt: skip
        """Settle it, once the callback that it wants was called."""
        wanted: Callable[[Any], object] | None = callback if error is None else error_callback
        if wanted is None:
            settle(answer, value, error)
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_call_back, args=(self._told,), name="lastcall-callbacks", daemon=True
                )
                self._thread.start()
        self._told.put((answer, value, error, wanted))

    def stop(self) -> None:
        """Wait until all were called; not from one of them."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._told.put(None)
            if thread is not threading.current_thread():
                thread.join()


def settle(answer: Answer, value: Any, error: BaseException | None) -> None:
    """Give an answer its value, or its exception."""
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(value)


def _call_back(told: SimpleQueue[Any]) -> None:
    while (one := told.get()) is not None:
        answer, value, error, callback = one
        try:
            callback(value if error is None else error)
        except BaseException:  # whatever it is, nobody may wait for this result for ever
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
        settle(answer, value, error)
        del one, answer, value, error, callback  # not held until the next comes


class Feed:
    """What one thread has ready for others: results and Failures for an iterator, or items for a map.

    most: of them, unless the bound is taken away, since they are not to be read: the pool is joined, or nobody has the
    iterator any more.
    """

    def __init__(self, most: int = _AHEAD) -> None:
        self._most = most
        self.ledger: Ledger | None = None  # None: not known yet
        self._items: deque[Any] = deque()
        self._moved = threading.Condition()
        self._readers = 0  # that wait
        self._full = False  # and its writer waits
        self._ended = self._free = self._unread = False
        self._pid = os.getpid()

    def put(self, item: Any) -> bool:
        """Add one; blocks while there are enough. False if nobody will read it."""
        if self._unread:
            return False
        self._items.append(item)
        if self._readers:  # looked at after the item is there, as a reader looks for it after it is counted
            with self._moved:
                self._moved.notify_all()
        if len(self._items) >= self._most and not self._free:
            with self._moved:
                self._full = True
                while len(self._items) > self._most // 2 and not self._free:
                    self._moved.wait()
                self._full = False
        return True

    def end(self) -> None:
        """Nothing more comes."""
        with self._moved:
            self._ended = True
            self._moved.notify_all()

    def free(self, *, unread: bool = False) -> None:
        """Have no bound. unread: keep nothing."""
        with self._moved:
            self._free = True
            if unread:
                self._unread = True
                self._items.clear()
            self._moved.notify_all()

    def get(self, timeout_s: float | None = None) -> Any:
        """The next. Raises StopIteration behind the last one, LookupError where it does not come in time."""
        deadline: Deadline | None = None
        while True:
            try:
                item = self._items.popleft()
            except IndexError:
                if deadline is None:
                    deadline = Deadline(timeout_s)
                self._wait(deadline)
                continue
            if self._full and len(self._items) <= self._most // 2:
                with self._moved:
                    self._moved.notify_all()
            return item

    def _wait(self, deadline: Deadline) -> None:
        if os.getpid() != self._pid:
            raise ConfigError(
                "an imap", "read in the process that called it", "a fork of it", "nobody reads what comes here"
            )
        with self._moved:
            self._readers += 1
            try:
                if self._items:
                    return
                if self._ended:
                    raise StopIteration
                if deadline.passed:
                    raise LookupError
                self._moved.wait(deadline.left(HELP_S if running.get() else _LONG_S))
            finally:
                self._readers -= 1
        if running.get() and not self._items and self.ledger is not None:
            help_with(self.ledger)


class Ahead(Iterator[Any]):
    """An iterable that is read by a thread of its own, so that a map which waits for its next item reads results
    meanwhile: the item may depend on them. Raises NotYet where it has none.
    """

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._feed = Feed(_INPUT)
        threading.Thread(target=_read, args=(iterable, self._feed), name="lastcall-pool-input", daemon=True).start()

    def __next__(self) -> Any:
        try:
            item = self._feed.get(_NOT_YET_S)
        except LookupError:
            raise NotYet from None
        if type(item) is Failure:
            raise item.error
        return item

    def close(self) -> None:
        """Read no more."""
        self._feed.free(unread=True)


def _read(iterable: Iterable[Any], feed: Feed) -> None:
    try:
        for item in iterable:
            if not feed.put(item):
                return
    except BaseException as error:  # whatever it raises is told behind what came before it
        feed.put(Failure(error))
    finally:
        feed.end()


class IMapIterator(Iterator[T]):
    """The results of imap() and imap_unordered(), as they come. An item's exception is raised in its place, and the
    next call goes on behind it.
    """

    def __init__(self, pool: object, feed: Feed, what: str, function: object) -> None:
        self._pool: object = pool
        self._feed = feed
        self._what = what
        self._function = function

    def __iter__(self) -> IMapIterator[T]:
        return self

    def next(self, timeout: float | None = None) -> T:
        """The next result. timeout: seconds; raises multiprocessing.TimeoutError if it does not come in time, and may
        then be called again. Raises StopIteration behind the last one."""
        try:
            item = self._feed.get(timeout)
        except StopIteration:
            self._pool = None
            raise
        except LookupError:
            what = f"the next result of {self._what}({_name(self._function)})"
            raise PoolTimeout(what, timeout or 0.0) from None
        if type(item) is Failure:
            raise item.error
        value: T = item
        return value

    __next__ = next

    def __del__(self) -> None:
        feed = getattr(self, "_feed", None)
        if feed is not None:
            feed.free(unread=True)  # what was handed in is run nonetheless, as multiprocessing does


def as_multiprocessing(error: BaseException) -> BaseException:
    """The error as a pool raises it: of a class that programs written for multiprocessing know, too."""
    if type(error) is NotSerializable and error.what.startswith("the result"):
        said = ResultNotSerializable(error.what, error.index, error.type_name, error.reason)
        said.__cause__ = error.__cause__
        return said
    return error


def not_callable(function: object) -> TypeError:
    """What a call of something else comes to."""
    return TypeError(f"{type(function).__name__!r} object is not callable, a pool calls functions")


def _name(function: object) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)
