"""client.queue(): producers, consumers, functions, and how a queue ends."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import pickle
import queue as standard_queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lastcall import Client, Producer, Status, StatusableQueue, errors
from lastcall.errors import (
    ConfigError,
    DeadLetters,
    Empty,
    Full,
    FunctionMismatch,
    LeaseLost,
    ProducerLeft,
    ProducerLost,
    QueueCancelled,
    QueueFinished,
    QueueHasFunction,
    QueueMismatch,
)
from lastcall.state import keys
from tests import functions
from tests.conftest import Cluster
from tests.functions import consume, produce, square
from tests.workers import until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

fork, spawn = multiprocessing.get_context("fork"), multiprocessing.get_context("spawn")
Name = Callable[[], str]


def in_thread(function: Callable[..., Any], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def put_at_once(out: Producer[Any], items: list[Any]) -> None:
    """Put items that the producer's thread sees all together."""
    dumped = [out.dump(item) for item in items]
    with out._lock:
        out._items.extend(dumped)
        out._bytes += sum(map(len, dumped))
        out._start() if out._thread is None else out._work.notify()
    out.flush(30)


def put_as_one(out: Producer[Any], items: list[Any]) -> None:
    """Put items as one chunk."""
    out._chunk_items = len(items)
    put_at_once(out, items)


@contextlib.contextmanager
def processes(*started: Any) -> Iterator[None]:
    """Start these; none is left behind."""
    for process in started:
        process.start()
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.join()


# With a function: workers run it


def test_what_producers_put_is_worked_off_and_the_queue_ends(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    assert queue.status().state == "NEW"
    with queue.producer("counter") as out:
        assert queue.status().state == "OPEN"
        for n in range(100):
            out.put(n)
    status = queue.join(30)
    assert isinstance(status, Status)
    assert (status.state, status.put, status.done, status.dead, status.live) == ("DRAINED", 100, 100, 0, 0)
    assert sorted(queue.results()) == [n * n for n in range(100)]
    ((producer),) = status.producers
    assert (producer.name, producer.state, producer.position) == ("counter", "left", 100)


def test_results_can_be_read_while_items_are_put(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    with queue.producer() as out:
        results = queue.results(timeout=30)
        for n in range(5):
            out.put(n)
            assert next(results) == n * n
    assert list(results) == []


def test_a_queue_without_producers_is_not_finished(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    with pytest.raises(errors.WaitTimeout, match=r"NEW.*no producer has come yet"):
        queue.join(0.2)


def test_threads_and_processes_produce_into_one_queue(client: Client, name: str) -> None:
    queue = client.queue(name, square, producers=5)
    forked = [fork.Process(target=produce, args=(queue, f"fork-{n}", list(range(n, 400, 8)))) for n in (0, 1)]
    spawned = [spawn.Process(target=produce, args=(queue, "spawn", list(range(2, 400, 8))))]
    with processes(*forked, *spawned):
        threads = [in_thread(produce, queue, f"thread-{n}", list(range(n, 400, 8))) for n in (3, 4)]
        status = queue.join(60)
        for thread in threads:
            thread.join(30)
    assert {p.name: p.position for p in status.producers} == {
        "fork-0": 50, "fork-1": 50, "spawn": 50, "thread-3": 50, "thread-4": 50,
    }  # fmt: skip
    assert sorted(queue.results()) == sorted(n * n for n in range(400) if n % 8 < 5)


def test_threads_may_share_a_producer(client: Client, name: str) -> None:
    queue = client.queue(name, square, maxsize=50)
    with queue.producer() as out, ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: out.put_many(range(n * 100, n * 100 + 100)), range(8)))
    assert queue.join(30).done == 800
    assert sorted(queue.results()) == [n * n for n in range(800)]


def test_items_of_one_producer_are_taken_in_their_order(client: Client, name: str) -> None:
    queue = client.queue(name)
    with queue.producer() as out:
        out.put_many(range(1_000))
    assert list(queue) == list(range(1_000))


def test_a_queue_ends_when_the_expected_producers_have_come_and_gone(client: Client, name: str) -> None:
    queue = client.queue(name, square, producers=2)
    produce(queue, "first", [1])
    until(lambda: queue.status().done == 1, "the first item")
    assert queue.status().state == "OPEN"
    with pytest.raises(errors.WaitTimeout, match="1 of 2 producers have not come yet"):
        queue.join(0.1)
    produce(queue, "second", [2])
    assert queue.join(30).done == 2


def test_without_a_number_the_last_producer_to_leave_seals(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    first, second = queue.producer("first"), queue.producer("second")
    first.put(1)
    first.close()
    second.put(2)
    assert queue.status().state == "OPEN"
    second.close()
    assert queue.join(30).done == 2
    with pytest.raises(QueueFinished, match=f"queue {name} takes no more items, it is drained: put before the last"):
        queue.producer("third")


def test_a_token_keeps_the_place_of_a_producer_that_starts_later(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    token = queue.producer_token()
    produce(queue, "here", [1])
    assert queue.status().state == "OPEN"
    with processes(spawn.Process(target=produce, args=(queue, token, [2]))):
        assert queue.join(60).done == 2
    assert {p.name for p in queue.status().producers} == {"here", token}


def test_a_token_that_is_never_used_counts_as_lost(cluster: Cluster, name: str) -> None:
    with cluster.client(reap_s=0.1) as client:
        queue = client.queue(name, square)
        token = queue.producer_token(lease_s=0.3)
        with pytest.raises(ProducerLost, match=token):
            queue.join(30)


def test_seal_shuts_out_producers_that_are_still_there(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    out = queue.producer()
    out.put(3)
    out.flush()
    queue.seal()
    with pytest.raises(QueueFinished, match=f"queue {name} takes no more items"):
        put_until_refused(out)
    assert queue.join(30).done == 1
    with pytest.raises(QueueFinished):
        out.close()


def put_until_refused(out: Producer[int]) -> None:
    # What is put is carried by a thread: the refusal is told by the put after it, or by flush().
    out.put(4)
    out.flush(10)


# Producers that are lost


def test_an_error_in_the_block_means_incomplete_and_what_was_put_is_done(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    with pytest.raises(RuntimeError, match="the camera fell"):
        functions.produce_and_fail(queue, "camera-1", [1, 2, 3])
    with pytest.raises(ProducerLost) as caught:
        queue.join(30)
    assert [producer for producer, _ in caught.value.producers] == ["camera-1"]
    for part in (f"queue {name} ended incomplete", "camera-1", "the rest never came", 'on_lost="ignore"'):
        assert part in str(caught.value)
    status = queue.status()
    assert (status.state, status.done) == ("INCOMPLETE", 3)
    results = queue.results()
    assert sorted(itertools.islice(results, 3)) == [1, 4, 9]
    with pytest.raises(ProducerLost, match="camera-1"):
        next(results)


def test_consumers_get_what_a_failed_producer_had_put_and_then_are_told(client: Client, name: str) -> None:
    queue = client.queue(name)
    with pytest.raises(RuntimeError):
        functions.produce_and_fail(queue, "camera-1", [1, 2, 3])
    got = []
    with pytest.raises(ProducerLost, match="camera-1"):
        got.extend(queue)
    assert got == [] or got == [1, 2, 3]
    assert queue.status().done == 3


@pytest.mark.parametrize("function", [None, square], ids=["consumers", "workers"])
def test_a_killed_producer_is_lost_when_its_lease_has_run_out(cluster: Cluster, name: str, function: Any) -> None:
    with cluster.client(lease_s=1, reap_s=0.1) as client:
        queue = client.queue(name, function)
        put = spawn.Event()
        killed = spawn.Process(target=functions.produce_and_hang, args=(queue, "camera-2", [1, 2, 3], put))
        with processes(killed):
            assert put.wait(30)
            killed.kill()
            began = time.monotonic()
            with pytest.raises(ProducerLost) as caught:  # noqa: PT012
                if function is None:
                    for _ in queue:
                        pass
                queue.join(30)
            assert time.monotonic() - began < 10
        assert [producer for producer, _ in caught.value.producers] == ["camera-2"]
        assert queue.status().done == 3


def test_on_lost_ignore_takes_a_lost_producer_for_finished(cluster: Cluster, name: str) -> None:
    with cluster.client(lease_s=1, reap_s=0.1) as client:
        queue = client.queue(name, square, on_lost="ignore")
        put = spawn.Event()
        killed = spawn.Process(target=functions.produce_and_hang, args=(queue, "camera-3", [1, 2], put))
        with processes(killed):
            assert put.wait(30)
            killed.kill()
            assert queue.join(30).done == 2
        assert sorted(queue.results()) == [1, 4]


def test_on_lost_wait_waits_until_the_producer_comes_back_where_it_was(cluster: Cluster, name: str) -> None:
    with cluster.client(lease_s=1, reap_s=0.1) as client:
        queue = client.queue(name, square, on_lost="wait")
        put = spawn.Event()
        killed = spawn.Process(target=functions.produce_and_hang, args=(queue, "camera-4", [0, 1, 2], put))
        with processes(killed):
            assert put.wait(30)
            killed.kill()
            joining = ThreadPoolExecutor(1)
            joined = joining.submit(queue.join, 30)  # reaps meanwhile
            until(lambda: queue.status().producers[0].state == "absent", "its silence to be noticed")
        with pytest.raises(errors.WaitTimeout, match=r"producer camera-4 has not left, silent for [1-9] s"):
            queue.join(0.1)
        with queue.producer("camera-4") as out:
            assert out.position == 3
            out.put_many(range(out.position, 6))
        assert joined.result().done == 6
        joining.shutdown()
    assert sorted(queue.results()) == [n * n for n in range(6)]


def test_put_after_the_lease_was_lost_is_refused(cluster: Cluster, name: str) -> None:
    with cluster.client(lease_s=0.5, reap_s=0.1) as client:
        queue = client.queue(name, square, on_lost="wait")
        out = queue.producer("twice")
        out.put(1)
        out.flush()
        with queue.producer("twice") as other:  # another takes its name, and with it the lease
            with pytest.raises(LeaseLost) as caught:
                put_until_refused(out)  # type: ignore[arg-type]
            for part in (f"producer twice lost its lease on queue {name}", "was not put", "queue.producer()"):
                assert part in str(caught.value)
            assert other.position == 1
        with pytest.raises(LeaseLost):
            out.close()
        assert queue.join(30).done == 1


def test_a_producer_that_lost_its_lease_without_having_put_is_told_when_it_leaves(
    client: Client, cluster: Cluster, name: str
) -> None:
    queue = client.queue(name)
    out = queue.producer("twice")
    with (
        cluster.client(lease_s=9) as elsewhere,
        elsewhere.queue(name).producer("twice"),
        pytest.raises(LeaseLost, match="or another took its name"),
    ):
        out.close()
    assert list(queue) == []


def test_a_producer_whose_lease_ran_out_is_told_at_its_next_put(cluster: Cluster, name: str) -> None:
    with cluster.client(lease_s=0.5, reap_s=0.1) as client:
        queue = client.queue(name, producers=2)
        out = queue.producer("silent")
        client._connection.heart.drop_producer(queue._ledger, "silent", out._epoch)  # as if it were suspended
        with client._connection.heart.watching(queue._ledger):
            until(lambda: queue.status().producers[0].state == "lost", "its lease to run out")
        with pytest.raises(LeaseLost, match="silent lost its lease"):
            put_until_refused(out)
        with pytest.raises(LeaseLost):
            out.close()


def test_a_producer_that_left_cannot_put(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    with queue.producer("gone") as out:
        out.put(1)
    with pytest.raises(ProducerLeft, match=f"producer gone has left queue {name}, the item was not put: put inside"):
        out.put(2)
    out.close()
    out.abandon()
    assert queue.join(30).done == 1


def test_a_producer_is_of_one_process(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    with queue.producer() as out:
        out.put(1)
        with pytest.raises(TypeError, match=r"a producer cannot be pickled.*send the queue, and its producer_token"):
            pickle.dumps(out)
        said = fork.Queue()
        with processes(fork.Process(target=_put_in_fork, args=(out, said))):
            message = said.get(timeout=30)
        out.put(2)
    assert "a producer must be used in the process that took its lease, got a fork of it" in message
    assert queue.join(30).done == 2


def _put_in_fork(out: Producer[int], said: Any) -> None:
    try:
        out.put(3)
        said.put("no error")
    except ConfigError as error:
        said.put(str(error))


# Bounds


class Watched:
    """Looks at a queue's counters whenever the ledger has changed them, for as long as the block lasts."""

    def __init__(self, queue: StatusableQueue[Any]) -> None:
        self.queue = queue
        self.most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.is_set():
            status = self.queue.status()
            self.most = max(self.most, status.ready + status.leased + status.delayed + status.unread)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def test_no_more_than_maxsize_items_are_outstanding(client: Client, name: str) -> None:
    queue = client.queue(name, square, maxsize=7, producers=3)
    with Watched(queue) as watched, ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda n: produce(queue, f"producer-{n}", list(range(200))), range(3)))
        assert queue.join(60).done == 600
    assert 4 <= watched.most <= 7


def test_put_blocks_while_there_is_no_room(client: Client, name: str) -> None:
    queue = client.queue(name, maxsize=3)
    with queue.producer() as out:
        for n in range(3):
            out.put(n, timeout=10)
        with pytest.raises(Full) as caught:
            out.put(3, timeout=0.2)
        assert isinstance(caught.value, standard_queue.Full)
        assert f"queue {name} is full (maxsize 3), waited {caught.value.waited_s:.1f} s for room" in str(caught.value)
        assert 0.2 <= caught.value.waited_s < 5
        with pytest.raises(Full):
            out.put(3, timeout=0)
        blocked = in_thread(out.put, 4)
        # It waits to be rung for, it does not ask again and again.
        until(lambda: client._connection.redis.hget(keys.of_job(name, "job"), "blocked") == b"1", "it to wait")
        consumer = queue.consumer()
        # The chunk in hand counts until the next is asked for.
        assert [consumer.get(10) for _ in range(3)] == [0, 1, 2]
        assert consumer.get(10) == 4
        blocked.join(10)
        assert not blocked.is_alive()
    assert list(consumer) == []


def test_a_full_queue_is_full_for_producers_that_come_later(client: Client, name: str) -> None:
    queue = client.queue(name, maxsize=2)
    with queue.producer() as out:
        out.put_many([1, 2])
        out.flush()
        with queue.producer() as late, pytest.raises(Full):
            late.put(3, timeout=0.1)
        queue.cancel()
        with contextlib.suppress(QueueFinished):
            out.close()


def test_a_put_that_failed_left_nothing_behind(client: Client, name: str) -> None:
    queue = client.queue(name, maxsize=1)
    with queue.producer() as out:
        out.put("kept")
        for _ in range(3):
            with pytest.raises(Full):
                out.put("refused", timeout=0.05)
        consumer = queue.consumer()
        assert consumer.get(10) == "kept"
        with pytest.raises(Empty):
            consumer.get(0.05)
    assert list(consumer) == []
    assert queue.status().put == 1


def test_a_blocked_put_ends_with_the_queue(client: Client, name: str) -> None:
    queue = client.queue(name, maxsize=1)
    out = queue.producer()
    out.put(1)
    caught: list[BaseException] = []

    def put() -> None:
        try:
            out.put(2)
        except errors.LastcallError as error:
            caught.append(error)

    blocked = in_thread(put)
    until(lambda: out._blocked, "put() to block")
    queue.cancel()
    blocked.join(10)
    (error,) = caught
    assert isinstance(error, QueueFinished)
    assert error.state == "CANCELLED"


def test_unread_results_hold_producers_back(client: Client, name: str) -> None:
    queue = client.queue(name, square, maxsize=5, results="once")
    with queue.producer() as out:
        for n in range(5):
            out.put(n, timeout=10)
        until(lambda: queue.status().unread == 5, "five results")
        with pytest.raises(Full):
            out.put(5, timeout=0.1)
        results = queue.results(timeout=30)
        got = [next(results) for _ in range(5)]
        reading = in_thread(got.extend, results)
        out.put_many(range(5, 50))
    reading.join(30)
    assert sorted(got) == [n * n for n in range(50)]


def test_maxbytes_holds_producers_back(client: Client, name: str) -> None:
    queue = client.queue(name, maxbytes=100_000)
    with queue.producer() as out:
        feeding = in_thread(out.put_many, [bytes([n]) * 30_000 for n in range(20)])
        consumer = queue.consumer()
        most = 0
        for n in range(20):
            assert consumer.get(10)[0] == n
            most = max(most, int(queue._ledger.meta()["bytes"]))
        feeding.join(10)
    assert 60_000 < most <= 100_000


@pytest.mark.parametrize("bad", [-1, 1.5, "10", True])
@pytest.mark.parametrize("option", ["maxsize", "maxbytes"])
def test_a_bound_that_is_none_is_refused(client: Client, name: str, option: str, bad: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{option} must be 0 \(no bound\) or a positive int, got {bad!r}"):
        client.queue(name, **{option: bad})


@pytest.mark.parametrize(
    ("option", "bad", "expected"),
    [
        ("max_workers", 0, "a positive int"),
        ("producers", -2, "a positive int"),
        ("on_lost", "panic", "'fail' or 'wait' or 'ignore'"),
        ("results", "some", "'keep' or 'once' or 'discard'"),
        ("on_error", "shout", "'dead' or 'return'"),
        ("job", "a b", "a non-empty string without"),
        ("workers", "gpu", "given with a function"),
    ],
)
def test_other_options_are_checked(client: Client, name: str, option: str, bad: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        client.queue(name, **{option: bad})
    assert str(caught.value).startswith(f"{option} must be {expected}")


def test_names_are_checked(client: Client, name: str) -> None:
    for bad in ("", "a/b", "a{b}", "a b", 5):
        with pytest.raises(ConfigError, match="name must be a non-empty string without"):
            client.queue(bad)  # type: ignore[arg-type]
    queue = client.queue(name)
    with pytest.raises(ConfigError, match='name must be one that does not start with "stage:"'):
        queue.producer("stage:read")
    with pytest.raises(ConfigError, match="chunk_items must be a positive int, got 0"):
        queue.producer(chunk_items=0)
    with pytest.raises(ConfigError, match="lease_s must be a number of seconds, more than 0, got 0"):
        queue.producer_token(lease_s=0)
    assert queue.status().state == "NEW"


# Consumers


def test_consumers_in_several_processes_end_by_themselves_each_item_once(client: Client, name: str) -> None:
    queue = client.queue(name)
    got = spawn.Queue()
    eaters = [spawn.Process(target=consume, args=(queue, got)) for _ in range(2)]
    eaters += [fork.Process(target=consume, args=(queue, got))]
    with processes(*eaters):
        with queue.producer() as out:
            for n in range(300):
                out.put(n)
                if n % 10 == 0:
                    out.flush()
        ended = [got.get(timeout=60) for _ in eaters]
    assert sorted(item for _, items, _ in ended for item in items) == list(range(300))
    assert [how for _, _, how in ended] == ["", "", ""]
    assert queue.status().state == "DRAINED"


def test_consumers_in_threads_share_the_items(client: Client, name: str) -> None:
    queue = client.queue(name)
    got: list[list[int]] = [[], [], []]
    threads = [in_thread(lambda items=items: items.extend(queue)) for items in got]
    with queue.producer(chunk_items=1) as out:
        out.put_many(range(300))
    for thread in threads:
        thread.join(30)
    assert sorted(itertools.chain(*got)) == list(range(300))


def test_a_consumer_waits_for_items_that_come_later(client: Client, name: str) -> None:
    queue = client.queue(name)
    with queue.producer() as out:
        items = iter(queue)
        waiting = ThreadPoolExecutor(1)
        for n in range(3):
            asked = waiting.submit(next, items)
            out.put(n)
            assert asked.result(10) == n
        last = waiting.submit(lambda: list(items))
    assert last.result(10) == []
    waiting.shutdown()


def test_get_with_a_timeout_says_what_it_waits_for(client: Client, name: str) -> None:
    queue = client.queue(name)
    consumer = queue.consumer()
    with pytest.raises(Empty, match="no producer has come yet") as caught:
        consumer.get(0.05)
    assert isinstance(caught.value, standard_queue.Empty)
    with queue.producer("cook") as out:
        with pytest.raises(Empty, match=rf"queue {name} is empty, waited \d\.\d s for an item: .*cook has not left"):
            consumer.get(0.05)
        out.put("bun")
        assert consumer.get(10) == "bun"
    with pytest.raises(StopIteration):
        consumer.get(10)


def test_leaving_a_loop_gives_back_the_rest(client: Client, name: str) -> None:
    queue = client.queue(name)
    with queue.producer() as out:
        for start in (0, 10, 20):
            put_as_one(out, list(range(start, start + 10)))
    for item in queue:
        if item == 3:
            break
    status = queue.status()
    assert (status.done, status.leased, status.ready) == (4, 0, 26)
    assert list(queue) == list(range(4, 30))
    assert queue.status().state == "DRAINED"


def test_a_consumer_block_gives_back_the_item_in_hand_if_it_fails(client: Client, name: str) -> None:
    queue = client.queue(name)
    with queue.producer() as out:
        out.put_many(range(5))

    def work(consumer: Any) -> None:
        with consumer:
            assert (next(consumer), next(consumer)) == (0, 1)
            raise RuntimeError("dropped it")

    with pytest.raises(RuntimeError, match="dropped it"):
        work(queue.consumer())
    assert list(queue) == [1, 2, 3, 4]


def test_a_closed_consumer_gives_nothing_more(client: Client, name: str) -> None:
    queue = client.queue(name)
    with queue.producer() as out:
        out.put_many(range(5))
    consumer = queue.consumer()
    assert next(consumer) == 0
    consumer.close()
    consumer.close()
    assert list(consumer) == []
    assert list(queue) == [1, 2, 3, 4]


def test_what_a_killed_consumer_held_comes_back(cluster: Cluster, name: str) -> None:
    with cluster.client(lease_s=1, reap_s=0.1) as client:
        queue = client.queue(name)
        with queue.producer() as out:
            put_as_one(out, [0, 1, 2, 3, 4])
            put_as_one(out, [5, 6, 7, 8, 9])
        taken = spawn.Event()
        killed = spawn.Process(target=functions.consume_and_hang, args=(queue, 2, taken))
        with processes(killed):
            assert taken.wait(30)
            assert queue.status().leased == 5
            killed.kill()
            # Items that it had taken come again: nobody knows what it did with them.
            assert sorted(queue) == list(range(10))
        assert queue.status().done == 10


def test_a_consumer_that_fell_silent_is_told(cluster: Cluster, name: str) -> None:
    with cluster.client(lease_s=0.5, reap_s=0.1) as client:
        queue = client.queue(name)
        with queue.producer() as out:
            put_as_one(out, [0, 1, 2, 3, 4])
            put_as_one(out, [5, 6, 7, 8, 9])
        consumer = queue.consumer()
        assert next(consumer) == 0
        client._connection.heart.drop_ticket(consumer._ledger, consumer._ticket)  # as if it were suspended
        assert sorted(queue) == list(range(10))
        consumer._on_lost()
        assert list(consumer) == []  # it has ended meanwhile: nothing is left to be told

        queue = client.queue(f"{name}-2")
        with queue.producer() as out:
            put_as_one(out, [0, 1, 2, 3, 4])
            put_as_one(out, [5, 6, 7, 8, 9])
            consumer = queue.consumer()
            assert next(consumer) == 0
            client._connection.heart.drop_ticket(consumer._ledger, consumer._ticket)
            until(lambda: queue.status().leased == 0, "its lease to run out")
            got = [next(consumer) for _ in range(4)]  # it does not know yet
            with pytest.raises(LeaseLost, match=f"lost its lease on queue {name}-2"):
                next(consumer)
            assert got == [1, 2, 3, 4]
            queue.cancel()


def test_a_cancelled_queue_tells_its_consumers(client: Client, name: str) -> None:
    queue = client.queue(name)
    out = queue.producer()
    out.put_many(range(3))
    out.flush()
    consumer = queue.consumer()
    assert next(consumer) == 0
    waiting = ThreadPoolExecutor(1)
    queue.cancel()
    with pytest.raises(QueueCancelled, match=f"queue {name} was cancelled"):
        waiting.submit(list, consumer).result(10)
    waiting.shutdown()
    with pytest.raises(QueueFinished):
        out.put_many(itertools.repeat(1))


def test_a_queue_with_a_function_has_no_consumers(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    for consume_it in (queue.consumer, lambda: iter(queue)):
        with pytest.raises(QueueHasFunction) as caught:
            consume_it()
        for part in (f"queue {name} has no items to read", "tests.functions:square", "read its results instead"):
            assert part in str(caught.value)


def test_a_queue_without_a_function_has_no_results(client: Client, name: str) -> None:
    queue = client.queue(name)
    with pytest.raises(ConfigError, match="called on a queue with a function, got one without: iterate over"):
        queue.results()


def test_chunks_for_consumers_follow_what_an_item_takes(client: Client, name: str) -> None:
    queue = client.queue(name)
    with queue.producer() as out:
        put_at_once(out, list(range(16)))
        assert queue.status().chunks_ready == 1  # it is not known yet
        consumer = queue.consumer()
        assert [next(consumer) for _ in range(16)] == list(range(16))
        threading.Event().wait(0.9)  # a consumer that is slow
        put_at_once(out, [16])
        assert next(consumer) == 16
        put_at_once(out, [17])  # its answer tells the cost
        put_at_once(out, list(range(18, 40)))
        assert queue.status().chunks_ready == 1 + 22  # 50 ms of work each
        assert [next(consumer) for _ in range(23)] == list(range(17, 40))


# Handles


def test_a_handle_pickles(client: Client, name: str) -> None:
    queue = client.queue(name, square, maxsize=9)
    copy = pickle.loads(pickle.dumps(queue))
    assert (copy.name, copy.job, copy.maxsize, copy.workers) == (name, name, 9, "cpu")
    produce(copy, None, [1, 2])
    assert queue.join(30).done == 2


def test_a_handle_by_the_same_name_is_the_same_queue(client: Client, cluster: Cluster, name: str) -> None:
    with cluster.client() as other:
        queue = client.queue(name, square, maxsize=9)
        same = other.queue(name, square)
        assert same.maxsize == 9
        assert other.queue(name).function_name == "tests.functions:square"
        produce(same, None, [3])
        assert list(queue.results(timeout=30)) == [9]


def test_two_functions_under_one_name_are_refused(client: Client, name: str) -> None:
    client.queue(name, square)
    with pytest.raises(FunctionMismatch) as caught:
        client.queue(name, functions.add)
    for part in (f"queue {name} runs its items through tests.functions:square", "got tests.functions:add",
                 "use another queue name or the same function"):  # fmt: skip
        assert part in str(caught.value)
    client.queue(f"{name}-by-value", lambda n: n)
    with pytest.raises(FunctionMismatch):
        client.queue(f"{name}-by-value", lambda n: n + 1)
    client.queue(f"{name}-none")
    with pytest.raises(FunctionMismatch, match=r"through no function, got tests\.functions:square"):
        client.queue(f"{name}-none", square)


def test_another_value_for_an_option_is_refused_by_its_name(client: Client, name: str) -> None:
    client.queue(name, square, maxsize=5, producers=2, workers="io")
    client.queue(name, maxsize=5, producers=2)
    for option, there, asked in (("maxsize", 5, 6), ("producers", 2, 3), ("workers", "io", "cpu")):
        with pytest.raises(QueueMismatch, match=f"queue {name} exists with {option}={there}, got {option}={asked}"):
            client.queue(name, square, **{option: asked})  # type: ignore[arg-type]


def test_reopen_begins_anew(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    produce(queue, "first", [1])
    queue.join(30)
    ended = client.queue(name, square)
    with pytest.raises(QueueFinished, match="reopen=True"):
        ended.producer()
    again = client.queue(name, functions.cube, reopen=True)
    assert again.status().epoch == 2
    produce(again, "first", [2])
    assert again.join(30).put == 1
    assert list(again.results()) == [8]
    assert client.queue(name, functions.cube, reopen=True).status().state == "NEW"


def test_reopen_leaves_a_queue_alone_that_has_not_ended(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    with queue.producer() as out:
        out.put(1)
        assert client.queue(name, square, reopen=True).status().epoch == 1
    assert queue.join(30).done == 1


def test_a_queue_that_expired_is_unknown(cluster: Cluster, name: str) -> None:
    with cluster.client(ttl_s=1) as client:
        queue = client.queue(name)
        produce(queue, None, [])
        until(lambda: not queue._ledger.meta(), "it to expire")
        for use in (queue.status, lambda: queue.join(1), lambda: pickle.loads(pickle.dumps(queue)),
                    lambda: list(queue), queue.producer, lambda: client.job(name).status()):  # fmt: skip
            with pytest.raises(errors.UnknownJob, match=f"no job or queue '{name}' on this server"):
                use()


# Results


def test_results_that_are_kept_can_be_read_again_and_from_a_cursor(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    with queue.producer(chunk_items=1) as out:
        out.put_many(range(50))
    queue.join(30)
    everything = list(queue.results())
    assert sorted(everything) == [n * n for n in range(50)]
    assert list(queue.results()) == everything
    first = queue.results()
    head = [next(first) for _ in range(20)]
    first.close()
    assert head == everything[:20]
    tail = list(queue.results(cursor=first.cursor))
    # What travelled with the last one that was read comes again; nothing is left out.
    assert everything[-len(tail) :] == tail
    assert len(everything) - 20 <= len(tail) <= len(everything) - 20 + 16
    with pytest.raises(ConfigError, match="cursor must be the cursor of results that were read before, got 'x'"):
        queue.results(cursor="x")


def test_results_once_are_gone_when_they_were_read(client: Client, name: str) -> None:
    queue = client.queue(name, square, results="once")
    with queue.producer(chunk_items=1) as out:
        out.put_many(range(50))
    queue.join(30)
    assert queue.status().unread == 50
    results = queue.results()
    head = list(itertools.islice(results, 20))
    results.close()
    unread = queue.status().unread
    assert 30 <= unread <= 30 + 16
    tail = list(queue.results())
    assert len(tail) == unread
    assert sorted({*head, *tail}) == [n * n for n in range(50)]
    assert queue.status().unread == 0
    assert list(queue.results(timeout=5)) == []  # it is known that it has ended
    assert client._connection.redis.xlen(queue._ledger.results_key) == 1  # the end


def test_results_end_with_the_queue_even_if_its_end_is_not_there_to_read(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    produce(queue, None, [1, 2])
    queue.join(30)
    client._connection.redis.xtrim(queue._ledger.results_key, maxlen=0, approximate=False)
    assert list(queue.results()) == []


def test_results_that_are_discarded_cannot_be_read(client: Client, name: str) -> None:
    queue = client.queue(name, square, results="discard")
    produce(queue, None, [1, 2])
    assert queue.join(30).done == 2
    with pytest.raises(ConfigError, match='got results="discard": make the queue with results="keep" or "once"'):
        queue.results()


def test_results_with_a_timeout_say_what_they_wait_for(client: Client, name: str) -> None:
    queue = client.queue(name, square)
    with queue.producer("cook") as out:
        out.put(2)
        results = queue.results(timeout=0.2)
        assert next(results) == 4
        with pytest.raises(errors.WaitTimeout, match=rf"for results of queue {name} \(OPEN.*cook has not left"):
            next(results)


# Dead letters


def test_items_whose_function_raises_become_dead_letters(client: Client, name: str) -> None:
    queue = client.queue(name, functions.odd_only)
    with queue.producer() as out:
        put_as_one(out, [0, 1, 2, 3])
        put_as_one(out, [4, 5, 6, 7])
    with pytest.raises(DeadLetters) as caught:
        queue.join(30)
    assert (caught.value.dead, caught.value.put) == (4, 8)
    for part in (f"queue {name} is drained, but 4 of 8 items failed", "queue.dead_letters()"):
        assert part in str(caught.value)
    assert sorted(queue.results()) == [1, 3, 5, 7]
    letters = sorted(queue.dead_letters(), key=lambda letter: letter.value)
    assert [letter.value for letter in letters] == [0, 2, 4, 6]
    letter = letters[1]
    assert isinstance(letter.error, ValueError)
    assert letter.error.args == ("2 is even",)
    assert "in odd_only" in str(letter.error.__cause__)
    assert (letter.attempts, letter.worker, letter.item) == (1, "cpu@test", "1-1#2")


def test_on_error_return_makes_an_error_the_result(client: Client, name: str) -> None:
    queue = client.queue(name, functions.odd_only, on_error="return")
    produce(queue, None, [2])
    status = queue.join(30)
    assert (status.done, status.failed, status.dead) == (1, 1, 0)
    with pytest.raises(ValueError, match="2 is even"):
        next(queue.results())


def test_a_result_that_cannot_be_sent_is_a_dead_letter_that_names_its_item(client: Client, name: str) -> None:
    queue = client.queue(name, functions.unpicklable_result)
    with queue.producer() as out:
        put_as_one(out, list(range(6)))
    with pytest.raises(DeadLetters, match="1 of 6"):
        queue.join(30)
    (letter,) = queue.dead_letters()
    assert letter.value == 3
    assert isinstance(letter.error, errors.NotSerializable)
    assert "cannot send the result of item 3 (a _thread.lock)" in str(letter.error)
    assert sorted(queue.results()) == [0, 1, 2, 4, 5]


def test_a_letter_holds_the_item_as_it_was_put(client: Client, name: str) -> None:
    queue = client.queue(name, _spoil)
    produce(queue, None, [[1, 2]])
    with pytest.raises(DeadLetters):
        queue.join(30)
    (letter,) = queue.dead_letters()
    assert letter.value == [1, 2]


def _spoil(items: list[int]) -> None:
    items.clear()
    raise ValueError("spoiled")


def test_a_letter_holds_what_was_put_though_the_worker_could_not_send_it_back(client: Client, name: str) -> None:
    queue = client.queue(name, functions.length)
    produce(queue, None, [functions.OneWay(), "abc"])
    with pytest.raises(DeadLetters, match="1 of 2"):
        queue.join(30)
    (letter,) = queue.dead_letters()
    assert isinstance(letter.value, functions.OneWay)
    assert isinstance(letter.error, TypeError)
    assert list(queue.results()) == [3]


def test_an_item_that_a_worker_cannot_rebuild_spoils_no_other(client: Client, name: str) -> None:
    queue = client.queue(name, functions.same)
    with queue.producer() as out:
        put_as_one(out, [1, functions.Unbuildable(), 3])
    with pytest.raises(DeadLetters, match="1 of 3"):
        queue.join(30)
    assert sorted(queue.results()) == [1, 3]
    (letter,) = queue.dead_letters()
    assert isinstance(letter.error, errors.NotDeserializable)
    assert isinstance(letter.value, functions.Unbuildable)  # here, where it was made, it can be rebuilt


def test_a_function_that_cannot_be_imported_makes_dead_letters_that_keep_the_items(
    client: Client, name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue_only_here.py").write_text("def local(n):\n    return n\n")
    monkeypatch.syspath_prepend(tmp_path)
    import queue_only_here  # type: ignore[import-not-found]

    queue = client.queue(name, queue_only_here.local)
    produce(queue, None, [1, 2])
    with pytest.raises(DeadLetters):
        queue.join(30)
    letters = list(queue.dead_letters())
    assert sorted(letter.value for letter in letters) == [1, 2]
    assert "worker cpu@test cannot import queue_only_here: install it there" in str(letters[0].error)


# What cannot be put


def test_an_item_that_cannot_be_pickled_is_named_and_the_producer_goes_on(client: Client, name: str) -> None:
    queue = client.queue(name, functions.same)
    with queue.producer() as out:
        out.put_many([1, 2])
        with pytest.raises(errors.NotSerializable, match=r"cannot send item 2 \(a _thread.lock\): pickle"):
            out.put(threading.Lock())
        out.put(3)
    assert queue.join(30).done == 3


def test_an_item_over_the_limit_is_named_and_the_producer_goes_on(cluster: Cluster, name: str) -> None:
    with cluster.client(max_item_bytes=1_000) as client:
        queue = client.queue(name, functions.length)
        with queue.producer() as out:
            out.put("x" * 900)
            with pytest.raises(errors.ItemTooLarge, match=r"item 1 has 1,0\d\d bytes, the limit is 1,000: raise LASTC"):
                out.put("x" * 1_000)
            out.put("x" * 10)
        assert queue.join(30).done == 2
        assert sorted(queue.results()) == [10, 900]


# Linked queues


def test_three_stages_end_one_after_the_other(client: Client, names: Name) -> None:
    job = names()
    last = client.queue("last", functions.plus_one, job=job)
    middle = client.queue("middle", square, into=last, workers="io")
    first = client.queue("first", functions.plus_one, into=middle, maxsize=20, producers=2)
    assert (first.job, middle.job) == (job, job)
    threads = [in_thread(produce, first, f"producer-{n}", list(range(n, 100, 2))) for n in range(2)]
    assert sorted(last.results(timeout=60)) == [(n + 1) ** 2 + 1 for n in range(100)]
    for thread in threads:
        thread.join(10)
    statuses = client.job(job).wait(30)
    assert [(s.name, s.state, s.done) for s in statuses] == [
        ("first", "DRAINED", 100), ("middle", "DRAINED", 100), ("last", "DRAINED", 100),
    ]  # fmt: skip


def test_the_last_of_linked_queues_may_be_read_by_consumers(client: Client, names: Name) -> None:
    job = names()
    table = client.queue("table", job=job)
    kitchen = client.queue("kitchen", square, into=table)
    produce(kitchen, None, list(range(50)))
    assert sorted(table) == [n * n for n in range(50)]


def test_maxsize_counts_what_waits_downstream(client: Client, names: Name) -> None:
    job = names()
    table = client.queue("table", job=job)
    kitchen = client.queue("kitchen", square, into=table, maxsize=4)
    with kitchen.producer() as out:
        for n in range(4):
            out.put(n, timeout=10)
        until(lambda: table.status().ready == 4, "four on the table")
        with pytest.raises(Full):
            out.put(4, timeout=0.1)
        eaten: list[int] = []
        eater = in_thread(eaten.extend, table)
        out.put_many(range(4, 40))
    eater.join(30)
    assert sorted(eaten) == [n * n for n in range(40)]


def test_a_dead_letter_in_a_stage_does_not_stop_the_others(client: Client, names: Name) -> None:
    job = names()
    last = client.queue("last", square, job=job)
    first = client.queue("first", functions.odd_only, into=last)
    produce(first, None, list(range(10)))
    assert sorted(last.results(timeout=30)) == [1, 9, 25, 49, 81]
    with pytest.raises(DeadLetters, match=f"queue {job}/first is drained, but 5 of 10"):
        client.job(job).wait(30)


def test_a_lost_producer_makes_every_stage_incomplete(client: Client, names: Name) -> None:
    job = names()
    last = client.queue("last", square, job=job)
    first = client.queue("first", functions.same, into=last)
    with pytest.raises(RuntimeError):
        functions.produce_and_fail(first, "camera-1", [1, 2])
    got = []
    with pytest.raises(ProducerLost, match=f"queue {job}/last ended incomplete, producers that were lost: stage:first"):
        got.extend(last.results(timeout=30))
    with pytest.raises(ProducerLost, match="camera-1"):
        client.job(job).wait(30)
    assert last.status().done == 2


def test_links_are_checked(client: Client, names: Name) -> None:
    one, other = client.queue("one", square, job=names()), names()
    with pytest.raises(ConfigError, match="into must be given with a function"):
        client.queue("first", into=one)
    with pytest.raises(ConfigError, match="on_error must be 'dead' where outputs go into another queue"):
        client.queue("first", functions.same, into=one, on_error="return")
    with pytest.raises(ConfigError, match=f"into must be a queue of the same job \\({other}\\), got one of job"):
        client.queue("first", square, job=other, into=one)
    first = client.queue("first", square, into=one)
    with pytest.raises(ConfigError, match=f"got one whose outputs go to {one.job}/one: read the results of that"):
        first.results()


def test_results_go_on_behind_an_exception_that_is_one(client: Client, name: str) -> None:
    # One slot: what is put may travel in several chunks, and then two slots would give the results in either order.
    queue = client.queue(name, functions.reciprocal, on_error="return", results="once", max_workers=1)
    with queue.producer(chunk_items=4) as out:
        out.put_many([1, 0, 2, 4])
    results, got = queue.results(timeout=30), []
    while True:
        try:
            got.append(next(results))
        except StopIteration:
            break
        except ZeroDivisionError as error:
            got.append(type(error))
    assert got == [1, ZeroDivisionError, 0.5, 0.25]
    assert queue.status().unread == 0


def test_a_result_that_was_handed_out_alone_does_not_come_again(client: Client, name: str) -> None:
    queue = client.queue(name, functions.same, results="once")
    with queue.producer() as out:
        for n in range(3):
            out.put(n)
            results = queue.results(timeout=30)
            assert next(results) == n
            results.close()
    assert list(queue.results()) == []


def test_a_producer_that_takes_over_in_the_same_process_keeps_its_lease(client: Client, name: str) -> None:
    queue = client.queue(name)
    old = queue.producer("cam")
    new = queue.producer("cam")
    with pytest.raises(LeaseLost):
        old.put(0)
    connection = queue._connection
    for _ in range(2):
        connection.heart.beaten.clear()
        assert connection.heart.beaten.wait(30)
    new.put(1)
    new.close()
    assert queue.status().put == 1
