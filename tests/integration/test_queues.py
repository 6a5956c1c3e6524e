"""lastcall's queues beside multiprocessing's and queue's own.

Each test that takes `queues` is run with several of them, so that what it promises is what those do.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import pickle
import queue as standard
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

import lastcall
from lastcall import Client, JoinableQueue, Queue, SimpleQueue, StatusableQueue, errors
from tests import functions
from tests.conftest import Cluster
from tests.functions import (
    get_and_fail,
    get_and_hang,
    get_one,
    put_all,
    put_and_fail,
    put_and_hang,
    until_finished,
)
from tests.workers import environment, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

Make = Callable[..., Any]
LONG_S = 60.0

EVERYWHERE = pytest.mark.parametrize("queues", ["multiprocessing", "queue", "lastcall", "statusable"], indirect=True)
BETWEEN_PROCESSES = pytest.mark.parametrize("queues", ["multiprocessing", "lastcall"], indirect=True)
THAT_SHUT_DOWN = pytest.mark.parametrize(
    "queues",
    [
        pytest.param(
            "queue",
            marks=pytest.mark.skipif(not hasattr(standard, "ShutDown"), reason="queue.ShutDown is Python 3.13's"),
        ),
        "lastcall",
        "statusable",
    ],
    indirect=True,
)
THAT_JOIN = pytest.mark.parametrize("queues", ["multiprocessing", "queue", "lastcall"], indirect=True)


@pytest.fixture
def queues(request: pytest.FixtureRequest) -> Make:
    """Makes queues of one kind: make(maxsize), make(maxsize, joinable=True)."""
    if request.param == "queue":
        return lambda *args, joinable=False: standard.Queue(*args)
    if request.param == "multiprocessing":
        context = multiprocessing.get_context("fork")
        return lambda *args, joinable=False: (context.JoinableQueue if joinable else context.Queue)(*args)
    client = request.getfixturevalue("client")
    if request.param == "statusable":
        return lambda *args, joinable=False: StatusableQueue(*args, client=client)
    return lambda *args, joinable=False: (JoinableQueue if joinable else Queue)(*args, client=client)


@pytest.fixture
def quick(cluster: Cluster) -> Iterator[Client]:
    """A client whose leases are short."""
    with cluster.client(lease_s=1.5) as client:
        yield client


@pytest.fixture(params=["fork", "spawn"])
def context(request: pytest.FixtureRequest) -> Any:
    return multiprocessing.get_context(request.param)


@contextlib.contextmanager
def process(target: Callable[..., Any], *args: Any) -> Iterator[BaseProcess]:
    """One that runs meanwhile, and is dead afterwards."""
    child = multiprocessing.get_context("fork").Process(target=target, args=args)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


def in_thread(function: Callable[..., Any], *args: Any) -> tuple[threading.Thread, list[Any]]:
    """Run it beside; what it returned, or raised."""
    came: list[Any] = []

    def run() -> None:
        try:
            came.append(function(*args))
        except Exception as error:
            came.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, came


def taken(queue: Any, n: int) -> list[Any]:
    return [queue.get(timeout=LONG_S) for _ in range(n)]


def ended(thread: threading.Thread) -> bool:
    thread.join(LONG_S)
    return not thread.is_alive()


# put and get


@EVERYWHERE
@pytest.mark.parametrize("maxsize", [0, 200])
def test_what_one_puts_another_gets_in_order(queues: Make, maxsize: int) -> None:
    queue = queues(maxsize)
    items = [None, 0, "", b"x", (1, [2, {"three": 3.0}]), *range(100)]
    for item in items:
        queue.put(item)
    assert taken(queue, len(items)) == items


@EVERYWHERE
@pytest.mark.parametrize(
    "asking", [{"block": False}, {"block": False, "timeout": 60}, {"timeout": 0.01}, {"timeout": 0}]
)
def test_an_empty_queue_raises_empty(queues: Make, asking: dict[str, Any]) -> None:
    with pytest.raises(standard.Empty):
        queues().get(**asking)
    with pytest.raises(standard.Empty):
        queues().get_nowait()


@EVERYWHERE
@pytest.mark.parametrize(
    "asking", [{"block": False}, {"block": False, "timeout": 60}, {"timeout": 0.01}, {"timeout": 0}]
)
def test_a_full_queue_raises_full_and_does_not_take_the_item(queues: Make, asking: dict[str, Any]) -> None:
    queue = queues(2)
    queue.put("a")
    queue.put_nowait("b")
    assert queue.full()
    with pytest.raises(standard.Full):
        queue.put("c", **asking)
    with pytest.raises(standard.Full):
        queue.put_nowait("c")
    assert taken(queue, 2) == ["a", "b"]
    assert queue.empty()


@pytest.mark.parametrize("queues", ["multiprocessing", "lastcall"], indirect=True)
def test_a_timeout_below_0_is_none_at_all(queues: Make) -> None:
    with pytest.raises(standard.Empty):
        queues().get(timeout=-5)
    queue = queues(1)
    queue.put(1)
    with pytest.raises(standard.Full):
        queue.put(2, timeout=-5)


@EVERYWHERE
def test_who_gets_an_item_makes_room_before_it_is_done(queues: Make) -> None:
    queue = queues(1, joinable=True)
    for n in range(3):
        queue.put(n, timeout=LONG_S)
        assert queue.get(timeout=LONG_S) == n


@EVERYWHERE
@pytest.mark.parametrize("maxsize", [0, -1])
def test_without_a_bound_it_is_never_full(queues: Make, maxsize: int) -> None:
    queue = queues(maxsize)
    for n in range(500):
        queue.put_nowait(n)
    assert not queue.full()
    assert queue.qsize() == 500
    assert taken(queue, 500) == list(range(500))


@EVERYWHERE
def test_its_size_is_what_waits(queues: Make) -> None:
    queue = queues(2)
    assert (queue.qsize(), queue.empty(), queue.full()) == (0, True, False)
    queue.put(1)
    assert (queue.qsize(), queue.full()) == (1, False)
    queue.put(2)
    assert (queue.qsize(), queue.full()) == (2, True)
    queue.get(timeout=LONG_S)
    assert (queue.qsize(), queue.full()) == (1, False)


@EVERYWHERE
def test_a_get_that_waits_gets_what_is_put(queues: Make) -> None:
    queue = queues()
    thread, came = in_thread(queue.get)
    queue.put("bun")
    assert ended(thread)
    assert came == ["bun"]


@EVERYWHERE
def test_a_put_that_waits_puts_when_there_is_room(queues: Make) -> None:
    queue = queues(1)
    queue.put("a")
    thread, came = in_thread(queue.put, "b")
    assert queue.get(timeout=LONG_S) == "a"
    assert ended(thread)
    assert came == [None]
    assert queue.get(timeout=LONG_S) == "b"


@EVERYWHERE
def test_threads_share_one(queues: Make) -> None:
    queue, got = queues(5), queues()
    cooks = [in_thread(put_all, queue, list(range(at, at + 25))) for at in (0, 25, 50, 75)]

    def eat() -> None:
        while (item := queue.get()) is not None:
            got.put(item)

    eaters = [in_thread(eat) for _ in range(3)]
    assert all(ended(thread) for thread, _ in cooks)
    put_all(queue, [None] * 3)
    assert all(ended(thread) for thread, _ in eaters)
    assert sorted(taken(got, 100)) == list(range(100))


@pytest.mark.parametrize("queues", ["multiprocessing", "lastcall"], indirect=True)
def test_bad_arguments_are_type_errors(queues: Make) -> None:
    with pytest.raises(TypeError):
        queues("20")
    with pytest.raises(TypeError):
        queues().get(timeout="soon")


# task_done and join


@THAT_JOIN
def test_task_done_once_too_often_is_a_value_error(queues: Make) -> None:
    queue = queues(joinable=True)
    with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
        queue.task_done()
    queue.put(1)
    queue.get(timeout=LONG_S)
    queue.task_done()
    with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
        queue.task_done()


@THAT_JOIN
@pytest.mark.parametrize("maxsize", [0, 20])
def test_join_waits_until_all_that_was_put_is_done(queues: Make, maxsize: int) -> None:
    queue = queues(maxsize, joinable=True)
    queue.join()  # nothing was put
    put_all(queue, [1, 2, 3])
    thread, came = in_thread(queue.join)
    taken(queue, 3)  # before any of them is done
    queue.task_done()
    queue.task_done()
    thread.join(0.2)
    assert thread.is_alive()
    queue.task_done()
    assert ended(thread)
    assert came == [None]
    queue.put(4)  # it goes on
    queue.get(timeout=LONG_S)
    queue.task_done()
    queue.join()


@THAT_JOIN
def test_another_thread_may_say_that_an_item_is_done(queues: Make) -> None:
    queue = queues(joinable=True)
    queue.put(1)
    queue.get(timeout=LONG_S)
    assert in_thread(queue.task_done)[0].join(LONG_S) is None
    thread, _ = in_thread(queue.join)
    assert ended(thread)


# Shutting down


@THAT_SHUT_DOWN
def test_after_shutdown_nothing_is_put_and_what_is_there_is_got(queues: Make) -> None:
    queue = queues(2)
    put_all(queue, [1, 2])
    blocked, came = in_thread(queue.put, 3)
    queue.shutdown()
    queue.shutdown()
    assert ended(blocked)
    assert isinstance(came[0], errors.ShutDown)
    with pytest.raises(errors.ShutDown):
        queue.put(3)
    with pytest.raises(errors.ShutDown):
        queue.put_nowait(3)
    assert taken(queue, 2) == [1, 2]
    for how in (queue.get, queue.get_nowait):
        with pytest.raises(errors.ShutDown):
            how()


@THAT_SHUT_DOWN
def test_shutdown_ends_a_get_that_waits(queues: Make) -> None:
    queue = queues()
    thread, came = in_thread(queue.get)
    queue.shutdown()
    assert ended(thread)
    assert isinstance(came[0], errors.ShutDown)


@THAT_SHUT_DOWN
def test_shutdown_at_once_drops_what_is_there(queues: Make) -> None:
    queue = queues()
    put_all(queue, [1, 2])
    queue.shutdown(immediate=True)
    for how in (queue.get, queue.get_nowait):
        with pytest.raises(errors.ShutDown):
            how()
    with pytest.raises(errors.ShutDown):
        queue.put(3)


@pytest.mark.parametrize("immediate", [False, True])
def test_an_item_that_is_not_done_holds_up_the_end_of_a_join_alone(client: Client, immediate: bool) -> None:
    queue: JoinableQueue[int] = JoinableQueue(client=client)
    queue.put(1)
    queue.get(timeout=LONG_S)
    thread, came = in_thread(queue.join)
    queue.shutdown(immediate)
    with pytest.raises(errors.ShutDown):  # not: waits for what it has itself
        queue.get()
    queue.task_done()
    assert ended(thread)
    assert came == [None]


def test_shut_down_and_finished_are_told_by_queues_own_errors() -> None:
    assert issubclass(errors.Empty, standard.Empty)
    assert issubclass(errors.Full, standard.Full)
    assert getattr(standard, "ShutDown", errors.ShutDown) is errors.ShutDown
    for kind in (errors.QueueFinished("q", "DRAINED", reading=True), errors.QueueCancelled("q")):
        assert isinstance(kind, errors.ShutDown)
        assert str(pickle.loads(pickle.dumps(kind))) == str(kind)


# close


@BETWEEN_PROCESSES
def test_a_closed_queue_raises_value_error(queues: Make) -> None:
    queue = queues()
    with pytest.raises(AssertionError):
        queue.join_thread()
    queue.put(1)
    queue.get(timeout=LONG_S)
    queue.close()
    queue.close()
    queue.join_thread()
    for how in (lambda: queue.put(1), queue.get, queue.get_nowait, lambda: queue.put_nowait(1)):
        with pytest.raises(ValueError, match="is closed"):
            how()


@BETWEEN_PROCESSES
def test_what_a_process_put_is_there_when_it_has_ended(queues: Make) -> None:
    queue = queues()
    with process(put_all, queue, list(range(1000))) as child:
        assert taken(queue, 1000) == list(range(1000))
        child.join(LONG_S)
        assert child.exitcode == 0


@BETWEEN_PROCESSES
def test_its_maker_may_close_it_while_others_use_it(queues: Make) -> None:
    queue, back = queues(), queues()
    closed = multiprocessing.get_context("fork").Event()
    with process(_pass_on, queue, back, closed):  # before: a fork of multiprocessing's that is closed has no reader
        queue.put(1)
        queue.close()
        closed.set()
        assert back.get(timeout=LONG_S) == 1
        assert back.get(timeout=LONG_S) == "again"


def _pass_on(queue: Any, back: Any, closed: Any) -> None:
    closed.wait()
    back.put(queue.get())
    queue.put("again")
    back.put(queue.get())


@pytest.mark.parametrize("whose", ["multiprocessing", "lastcall"])
def test_what_is_put_into_a_simple_queue_is_in_it_at_once(client: Client, context: Any, whose: str) -> None:
    queue: Any = SimpleQueue(client=client) if whose == "lastcall" else context.SimpleQueue()
    go, did = context.Event(), context.Event()
    child = context.Process(target=_put_when_told, args=(queue, go, did))
    child.start()
    assert queue.empty()
    go.set()
    assert did.wait(LONG_S)
    assert not queue.empty()
    assert [queue.get(), queue.get()] == [1, None]
    assert queue.empty()
    child.join(LONG_S)
    queue.close()


def _put_when_told(queue: Any, go: Any, did: Any) -> None:
    go.wait()
    queue.put(1)
    queue.put(None)
    did.set()


# Between processes, and on workers


def test_it_goes_to_processes(client: Client, context: Any) -> None:
    queue: Queue[int] = Queue(3, client=client)
    got: Queue[int] = Queue(client=client)
    cook = context.Process(target=put_all, args=(queue, [*range(20), None]))
    eater = context.Process(target=_eat, args=(queue, got))
    for each in (cook, eater):
        each.start()
    assert taken(got, 20) == list(range(20))
    for each in (cook, eater):
        each.join(LONG_S)
        assert each.exitcode == 0


def _eat(queue: Any, got: Any) -> None:
    while (item := queue.get()) is not None:
        got.put(item)


def test_functions_on_workers_put_and_get(client: Client) -> None:
    queue: Queue[Any] = Queue(client=client)
    assert client.submit(put_all, queue, [1, 2, 3]).result(LONG_S) == 3
    assert [queue.get_nowait() for _ in range(3)] == [1, 2, 3]  # what a function put is there when it has returned
    queue.put("for a worker")
    assert client.submit(get_one, queue).result(LONG_S) == "for a worker"


def test_a_queue_travels_in_a_queue(client: Client) -> None:
    asked: Queue[Any] = Queue(client=client)
    answers: Queue[int] = Queue(client=client)
    with process(_answer, asked):
        asked.put((21, answers))
        assert answers.get(timeout=LONG_S) == 42


def _answer(asked: Any) -> None:
    number, answers = asked.get()
    answers.put(2 * number)


def test_a_name_is_shared(cluster: Cluster, client: Client, name: str) -> None:
    mine: Queue[int] = Queue(5, name=name, client=client)
    with cluster.client() as other:
        theirs: Queue[int] = Queue(name=name, client=other)
        assert (theirs.maxsize, repr(theirs)) == (5, f"<Queue {name}>")
        theirs.put(1)
        theirs.close()
    assert mine.get(timeout=LONG_S) == 1
    with pytest.raises(standard.Empty):
        mine.get_nowait()  # it does not end with its producers
    with pytest.raises(errors.QueueMismatch, match="maxsize=5, got maxsize=6"):
        Queue(6, name=name, client=client)
    mine.shutdown()
    with pytest.raises(errors.ShutDown):
        Queue(name=name, client=client).get()
    again: Queue[int] = Queue(name=name, client=client, reopen=True)
    again.put(2)
    assert again.get(timeout=LONG_S) == 2
    again.shutdown()


def test_who_gets_leaves_the_rest_to_others(client: Client) -> None:
    queue: Queue[int] = Queue(client=client)
    put_all(queue, list(range(50)))
    assert queue.get(timeout=LONG_S) == 0
    other = pickle.loads(pickle.dumps(queue))
    assert [other.get_nowait() for _ in range(49)] == list(range(1, 50))


@pytest.mark.parametrize("maxsize", [0, 5])
def test_what_cannot_be_sent_is_told_to_who_puts_it(client: Client, maxsize: int) -> None:
    queue: Queue[Any] = Queue(maxsize, client=client)
    with pytest.raises(TypeError, match="cannot send"):
        queue.put(threading.Lock())
    queue.put(lambda: 42)  # which multiprocessing cannot
    assert queue.get(timeout=LONG_S)() == 42


def test_its_bound_holds_between_processes(client: Client) -> None:
    queue: Queue[Any] = Queue(3, client=client)
    with process(put_all, queue, [1, 2, 3]) as child:
        child.join(LONG_S)
        with pytest.raises(errors.Full, match="maxsize 3"):
            queue.put_nowait(4)
    other = pickle.loads(pickle.dumps(queue))
    assert other.get(timeout=LONG_S) == 1
    queue.put_nowait(4)


# Those who die


def test_the_item_that_a_killed_consumer_got_last_comes_back(quick: Client) -> None:
    queue: Queue[str] = Queue(client=quick)
    put_all(queue, ["a", "b", "c"])
    got = multiprocessing.get_context("fork").Event()
    with process(get_and_hang, queue, 2, 0, got):
        assert got.wait(LONG_S)
        assert queue.get(timeout=LONG_S) == "c"  # while it lives it keeps what it has
    assert queue.get(timeout=LONG_S) == "b"  # when the others are done: a was, when b was asked for
    with pytest.raises(standard.Empty):
        queue.get(timeout=0.05)


def test_what_a_killed_consumer_had_not_marked_as_done_comes_back_and_join_waits_for_it(quick: Client) -> None:
    queue: JoinableQueue[str] = JoinableQueue(client=quick)
    put_all(queue, ["a", "b", "c"])
    got = multiprocessing.get_context("fork").Event()
    with process(get_and_hang, queue, 3, 1, got):
        assert got.wait(LONG_S)
    thread, came = in_thread(queue.join)
    assert sorted(taken(queue, 2)) == ["b", "c"]
    assert thread.is_alive()
    queue.task_done()
    queue.task_done()
    assert ended(thread)
    assert came == [None]


def test_an_item_comes_back_however_many_consumers_died_with_it(quick: Client) -> None:
    queue: Queue[str] = Queue(client=quick)
    other: Queue[str] = pickle.loads(pickle.dumps(queue))
    queue.put("kept")
    other.get(timeout=LONG_S)  # somebody is at another item all the time
    queue.put("deadly")
    for _ in range(3):  # as many as would make it a dead letter
        got = multiprocessing.get_context("fork").Event()
        with process(get_and_hang, queue, 1, 0, got):
            assert got.wait(LONG_S)
    assert queue.get(timeout=LONG_S) == "deadly"


def test_a_consumer_that_ends_by_an_exception_gives_back_its_item_at_once(
    client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    queue: Queue[str] = Queue(client=client)
    queue.put("stone")
    with process(get_and_fail, queue) as child:
        child.join(LONG_S)
        assert queue.get_nowait() == "stone"
    assert "cannot eat stone" in capfd.readouterr().err


def test_a_consumer_that_ends_in_order_is_done_with_its_item(client: Client) -> None:
    queue: Queue[str] = Queue(client=client)
    queue.put("bun")
    with process(get_one, queue) as child:
        child.join(LONG_S)
        assert child.exitcode == 0
    assert queue._ledger.status().done == 1
    queue.put("more")
    thread = threading.Thread(target=queue.get)  # and so is a thread
    thread.start()
    thread.join()
    del thread
    until(lambda: queue._ledger.status().done == 2, "the thread's item to be done")


def test_a_queue_whose_maker_and_producers_were_killed_ends(quick: Client) -> None:
    names = multiprocessing.get_context("fork").Queue()
    with process(_make_and_hang, quick.settings, names):
        queue = names.get(timeout=LONG_S)
    assert taken(queue, 2) == [1, 2]
    with pytest.raises(errors.ShutDown):  # multiprocessing's consumers would wait for ever
        queue.get()
    with pytest.raises(errors.ShutDown):
        queue.put(3)


def _make_and_hang(settings: Any, names: Any) -> None:
    queue: Queue[int] = Queue(2, client=Client(settings.url, settings.key, lease_s=settings.lease_s))
    put_all(queue, [1, 2])
    names.put(queue)
    threading.Event().wait()


def test_queues_that_nobody_puts_into_for_a_while_have_no_threads(client: Client) -> None:
    queues: list[Queue[int]] = [Queue(client=client) for _ in range(20)]
    for again in (1, 2):
        for queue in queues:
            queue.put(again)
        assert [queue.get() for queue in queues] == [again] * 20
        until(lambda: not _threads_of(queues), "the threads to end")


def _threads_of(queues: list[Queue[int]]) -> set[str]:
    names = {f"lastcall-producer-{queue._hands._name}" for queue in queues}
    return names & {thread.name for thread in threading.enumerate()}


# StatusableQueue


def test_consumers_leave_when_the_producers_have(client: Client, context: Any) -> None:
    queue: StatusableQueue[int] = StatusableQueue(3, producers=2, client=client)
    got: Queue[int] = Queue(client=client)
    cooks = [context.Process(target=put_all, args=(queue, list(range(at, at + 10)), True)) for at in (0, 10)]
    eaters = [context.Process(target=until_finished, args=(queue, got)) for _ in range(2)]
    for each in eaters + cooks:
        each.start()
    for each in eaters + cooks:
        each.join(LONG_S)
        assert each.exitcode == 0
    assert sorted(got.get_nowait() for _ in range(20)) == list(range(20))
    assert (queue.producers, queue.qsize(), queue.status().state) == (0, 0, "DRAINED")


def test_the_end_is_told_to_get_and_put(client: Client) -> None:
    queue: StatusableQueue[int] = StatusableQueue(client=client)
    assert queue.producers == 0
    queue.put(1)
    assert queue.qsize() == 1
    assert queue.producers == 1
    queue.close()
    with pytest.raises(ValueError, match="is closed"):
        queue.put(2)
    assert not queue.finished()
    assert queue.get() == 1
    assert queue.finished()
    for how in (queue.get, queue.get_nowait):
        with pytest.raises(errors.QueueFinished, match="it is drained"):
            how()
    with pytest.raises(errors.QueueFinished, match="takes no more items"):
        pickle.loads(pickle.dumps(queue)).put(2)


def test_finished_keeps_the_item_for_the_thread_that_asked(client: Client) -> None:
    queue: StatusableQueue[int] = StatusableQueue(client=client)
    put_all(queue, [1], True)
    assert not queue.finished()
    other = pickle.loads(pickle.dumps(queue))
    with pytest.raises(errors.Empty):
        other.finished(timeout=0)  # it might come back
    assert not queue.finished()
    assert queue.get() == 1
    assert queue.finished()
    assert other.finished()


def test_iterating_join_and_task_done(client: Client) -> None:
    queue: StatusableQueue[int] = StatusableQueue(client=client)
    put_all(queue, [1, 2, 3, 4])
    assert queue.get() == 1
    queue.task_done()
    assert queue.status().done == 1
    with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
        queue.task_done()
    queue.close()
    assert list(queue) == [2, 3, 4]
    assert queue.join(LONG_S).done == 4


def test_who_joins_does_not_hold_up_the_end(client: Client) -> None:
    queue: StatusableQueue[int] = StatusableQueue(client=client)
    queue.put(1)
    assert queue.get() == 1
    assert queue.join(LONG_S).state == "DRAINED"


@pytest.mark.parametrize("maxsize", [0, 5])
def test_a_killed_producer_is_lost(quick: Client, maxsize: int) -> None:
    queue: StatusableQueue[int] = StatusableQueue(maxsize, producers=1, client=quick)
    put = multiprocessing.get_context("fork").Event()
    with process(put_and_hang, queue, [1, 2], put):
        assert put.wait(LONG_S)
    assert taken(queue, 2) == [1, 2]
    for how in (queue.get, queue.finished, lambda: list(queue), queue.join):
        with pytest.raises(errors.ProducerLost, match="was silent for"):
            how()


@pytest.mark.parametrize("maxsize", [0, 5])
def test_a_producer_that_ends_by_an_exception_is_lost_at_once(
    client: Client, maxsize: int, context: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    queue: StatusableQueue[int] = StatusableQueue(maxsize, producers=1, client=client)
    child = context.Process(target=put_and_fail, args=(queue, [1, 2]))
    child.start()
    child.join(LONG_S)
    assert taken(queue, 2) == [1, 2]
    with pytest.raises(errors.ProducerLost):
        queue.get()
    assert "the camera fell" in capfd.readouterr().err


PROGRAM = """
import multiprocessing, sys
from lastcall import StatusableQueue, errors
from tests.functions import put_all

def eat(queue):
    try:
        while not queue.finished():
            print(queue.get(), flush=True)
    except errors.ProducerLost:
        print("lost", flush=True)

if __name__ == "__main__":
    queue = StatusableQueue(producers=1)
    multiprocessing.Process(target=eat, args=(queue,)).start()
    put_all(queue, [1, 2])
    if "fail" in sys.argv:
        raise RuntimeError("the camera fell")
"""


@pytest.mark.parametrize(("how", "said"), [("leave", ["1", "2"]), ("fail", ["1", "2", "lost"])])
def test_a_main_program_that_ends_leaves_before_it_waits_for_its_processes(
    cluster: Cluster, tmp_path: Path, how: str, said: list[str]
) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, str(script), how], env=environment(cluster.url, cluster.key), cwd=tmp_path,
        capture_output=True, text=True, timeout=LONG_S, check=False,
    )  # fmt: skip
    assert (ran.stdout.split(), "the camera fell" in ran.stderr) == (said, how == "fail")
    assert ran.returncode == (how == "fail")


def test_the_lease_of_a_handle_that_is_gone_is_given_back(client: Client) -> None:
    queue: StatusableQueue[int] = StatusableQueue(client=client)
    other = pickle.loads(pickle.dumps(queue))
    other.put(1)
    del other
    assert list(queue) == [1]


def test_what_is_put_is_run_through_a_function(client: Client, name: str) -> None:
    queue = client.queue(name, functions.square, maxsize=2)
    for n in range(20):
        queue.put(n)
    assert queue.join(LONG_S).done == 20
    assert sorted(queue.results()) == [n * n for n in range(20)]
    with pytest.raises(errors.QueueHasFunction):
        queue.get()


def test_many_threads_finish_without_a_race(client: Client) -> None:
    queue: StatusableQueue[int] = StatusableQueue(producers=1, client=client)
    got: collections.deque[int] = collections.deque()

    def eat() -> None:
        while not queue.finished():
            got.append(queue.get(block=False))

    eaters = [in_thread(eat) for _ in range(6)]
    put_all(queue, list(range(60)), True)
    assert all(ended(thread) for thread, _ in eaters)
    assert [came for _, came in eaters] == [[None]] * 6
    assert sorted(got) == list(range(60))


# The server is away


@pytest.mark.parametrize("maxsize", [0, 5])
def test_an_outage_loses_nothing(lonely: Cluster, maxsize: int) -> None:
    with lonely.client() as client:
        queue: Queue[int] = Queue(maxsize, client=client)
        queue.put(0)
        getter, came = in_thread(lambda: [queue.get() for _ in range(4)])
        with lonely.server.paused():
            putter, _ = in_thread(put_all, queue, [1, 2, 3])
            time.sleep(0.2)  # in it
        assert ended(putter)
        assert ended(getter)
        assert came == [[0, 1, 2, 3]]


def test_all_are_exported() -> None:
    assert {"Queue", "JoinableQueue", "SimpleQueue", "StatusableQueue"} <= set(lastcall.__all__)
