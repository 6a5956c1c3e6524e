"""What a pool's results and iterators do by themselves."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lastcall.asyncresult import (
    Ahead,
    AsyncResult,
    Callbacks,
    Feed,
    IMapIterator,
    PoolTimeout,
    ResultNotSerializable,
    as_multiprocessing,
    settle,
)
from lastcall.calls import Answer
from lastcall.errors import NotSerializable
from lastcall.feed import NotYet
from lastcall.map import Failure
from tests.workers import until


def fill(feed: Feed, items: range) -> threading.Thread:
    def run() -> None:
        for item in items:
            feed.put(item)
        feed.end()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_feed_is_bounded_until_it_is_freed() -> None:
    feed = Feed(10)
    thread = fill(feed, range(100))
    until(lambda: len(feed._items) == 10, "it to be full")
    got = [feed.get(5) for _ in range(50)]
    assert thread.is_alive()
    feed.free()
    thread.join(5)
    assert not thread.is_alive()
    while True:
        try:
            got.append(feed.get(5))
        except StopIteration:
            break
    assert got == list(range(100))


def test_a_feed_that_nobody_reads_keeps_nothing() -> None:
    feed = Feed(10)
    iterator: IMapIterator[int] = IMapIterator(None, feed, "imap", len)
    thread = fill(feed, range(100))
    assert next(iterator) == 0
    del iterator
    thread.join(5)
    assert not thread.is_alive()
    assert not feed._items


def test_several_threads_may_read_a_feed() -> None:
    feed = Feed(8)
    iterator: IMapIterator[int] = IMapIterator(None, feed, "imap", len)
    got: list[int] = []
    readers = [threading.Thread(target=lambda: got.extend(iterator), daemon=True) for _ in range(4)]
    for reader in readers:
        reader.start()
    fill(feed, range(2_000))
    for reader in readers:
        reader.join(10)
    assert sorted(got) == list(range(2_000))


def test_an_iterator_raises_failures_in_their_place() -> None:
    feed = Feed()
    iterator: IMapIterator[int] = IMapIterator(None, feed, "imap", len)
    for item in (1, Failure(KeyError("k")), 2):
        feed.put(item)
    assert next(iterator) == 1
    with pytest.raises(KeyError):
        next(iterator)
    assert next(iterator) == 2
    with pytest.raises(PoolTimeout):
        iterator.next(0)
    feed.end()
    assert list(iterator) == []


def test_a_result_is_settled_after_its_callback_only_where_there_is_one() -> None:
    callbacks = Callbacks()
    first, held, called = Answer(), threading.Event(), threading.Event()
    seen: list[Any] = []

    def callback(value: Any) -> None:
        seen.append(value)
        called.set()
        held.wait(5)

    later = callbacks.after(first, callback, None)
    settle(first, 7, None)
    assert called.wait(5)
    result: AsyncResult[int] = AsyncResult(None, later, "apply_async", len)
    assert not result.ready()
    other = callbacks.after(Answer(), callback, None)
    assert not other.done()
    quick = Answer()
    callbacks.settle(quick, None, KeyError("k"), callback, None)  # which is for values
    assert quick.done()
    held.set()
    assert result.get(5) == 7
    callbacks.stop()
    callbacks.stop()
    assert seen == [7]


def test_errors_of_pools_are_multiprocessings_too_and_pickle() -> None:
    known = as_multiprocessing(NotSerializable("the result of item", 3, "_thread.lock", "pickle: TypeError: no"))
    assert type(known) is ResultNotSerializable
    assert str(known) == "cannot send the result of item 3 (a _thread.lock): pickle: TypeError: no"
    assert (known.exc, known.value) == ("pickle: TypeError: no", "a _thread.lock")
    assert repr(known) == f"<ResultNotSerializable: {known}>"
    late = PoolTimeout("the result of apply_async(len)", 1.5)
    for error in (known, late):
        for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(twin) is type(error)
            assert (str(twin), vars(twin)) == (str(error), vars(error))
    other = NotSerializable("item", 3, "_thread.lock", "no")
    assert as_multiprocessing(other) is other


def first(ahead: Ahead) -> Any:
    """The next item, when it has come."""
    while True:
        try:
            return next(ahead)
        except NotYet:
            continue


def test_an_iterable_that_is_read_ahead_says_when_it_has_nothing_yet_and_stops_when_it_is_closed() -> None:
    more, read = threading.Event(), []

    def items() -> Iterator[int]:
        yield 1
        more.wait(5)
        for n in range(1_000_000):
            read.append(n)
            yield n

    before = set(threading.enumerate())
    ahead = Ahead(items())
    (thread,) = set(threading.enumerate()) - before
    assert first(ahead) == 1
    with pytest.raises(NotYet):
        next(ahead)
    more.set()
    until(lambda: len(read) > 900, "some to be read")
    ahead.close()
    thread.join(5)
    assert not thread.is_alive()
    assert len(read) <= 1_002


def test_an_iterable_that_is_read_ahead_raises_what_it_raises() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    ahead = Ahead(items())
    assert first(ahead) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        first(ahead)
    with pytest.raises(StopIteration):
        first(ahead)
