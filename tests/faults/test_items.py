"""Items that kill their process or run for too long: they are found, their neighbours complete."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from lastcall import Client, StatusableQueue, errors
from lastcall_worker import limits
from tests import functions
from tests.conftest import Cluster
from tests.functions import Counted, Deadly, Gate, Slow, dawdle, deaf, produce, square, starve_memory
from tests.workers import Worker, until

pytestmark = [pytest.mark.faults, pytest.mark.integration]


@contextlib.contextmanager
def worker(cluster: Cluster, node: str, **options: object) -> Iterator[Worker]:
    with Worker(cluster.url, cluster.key, node, queues=node, **options) as started:  # type: ignore[arg-type]
        started.ready()
        yield started


# Poison


@pytest.mark.parametrize("how", ["killed", "segfault", "exit"])
def test_an_item_that_kills_its_process_is_found_among_its_neighbours(lonely: Cluster, how: str) -> None:
    with worker(lonely, "deadly"), lonely.client() as client:
        queue = client.queue("deadly", Deadly(how, 77), workers="deadly")
        produce(queue, "p", list(range(200)))
        with pytest.raises(errors.DeadLetters, match="1 of 200"):
            queue.join(60)
        assert sorted(queue.results()) == [n for n in range(200) if n != 77]
        (letter,) = queue.dead_letters()
        assert (letter.value, letter.attempts) == (77, 3)
        assert isinstance(letter.error, errors.WorkerLost)


def test_an_item_that_wants_too_much_memory_is_a_dead_letter_like_any_that_raises(client: Client, name: str) -> None:
    queue = client.queue(name, starve_memory)
    produce(queue, "p", list(range(8)))
    with pytest.raises(errors.DeadLetters):
        queue.join(60)
    (letter,) = queue.dead_letters()
    assert (letter.value, letter.attempts) == (3, 1)
    assert isinstance(letter.error, MemoryError)


def test_a_map_says_which_item_killed_its_process_and_crash_limit_how_often_it_may(lonely: Cluster) -> None:
    with worker(lonely, "deadly"), lonely.client() as client:
        with pytest.raises(errors.WorkerLost, match=r"item 5 of .* after 1 attempts"):
            list(client.map(Deadly("killed", 5), range(6), chunksize=1, workers="deadly", crash_limit=1))
        assert list(client.map(square, range(5), workers="deadly")) == [0, 1, 4, 9, 16]


def test_threads_that_die_with_a_deadly_item_are_not_blamed(lonely: Cluster) -> None:
    """The process of all threads ends each time, and is started again as a supervisor would."""
    over = threading.Event()

    def supervise() -> None:
        while not over.is_set():
            with Worker(
                lonely.url, lonely.key, f"t{time.monotonic_ns()}", queues="threads", pool="threads", slots=8,
                more={"LASTCALL_LEASE_S": "1", "LASTCALL_REAP_S": "0.2"},
            ) as one:  # fmt: skip
                until(lambda: over.is_set() or one.process.poll() is not None, "it to die", 120, 0.05)

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    try:
        with lonely.client(lease_s=5) as client:
            queue = client.queue("threads", Deadly("exit", 11, takes_s=0.2), workers="threads")
            with queue.producer(chunk_items=1) as out:
                out.put_many(range(40))
            with pytest.raises(errors.DeadLetters, match="1 of 40"):
                queue.join(100)
            assert sorted(queue.results()) == [n for n in range(40) if n != 11]
            assert [letter.value for letter in queue.dead_letters()] == [11]
    finally:
        over.set()
        supervisor.join(60)


@pytest.mark.parametrize("limit", [1, 2])
def test_neighbours_in_the_same_hand_are_not_blamed_whatever_the_limit(lonely: Cluster, limit: int) -> None:
    with worker(lonely, "deadly", slots=1), lonely.client() as client:
        queue = client.queue("deadly", Deadly("exit", 300), workers="deadly", crash_limit=limit)
        with queue.producer(chunk_items=1) as out:
            out.put_many(range(400))
        with pytest.raises(errors.DeadLetters, match="1 of 400"):
            queue.join(60)
        (letter,) = queue.dead_letters()
        assert (letter.value, letter.worker) == (300, "deadly@test")
        assert "exitcode 1" in str(letter.error)


# Timeouts


def late(queue: StatusableQueue[int], attempts: int = 1) -> None:
    """Item 3 of 0 to 9 ran for too long, the others are done."""
    with pytest.raises(errors.DeadLetters, match="1 of 10"):
        queue.join(60)
    assert sorted(queue.results()) == [n for n in range(10) if n != 3]
    (letter,) = queue.dead_letters()
    assert (letter.value, letter.attempts) == (3, attempts)
    assert isinstance(letter.error, errors.ItemTimeout)
    assert letter.error.timeout_s == 0.3


def test_a_function_that_a_signal_ends_is_told_at_its_timeout(client: Client, name: str) -> None:
    (before,) = set(client.map(_pid, range(1), max_workers=1))
    queue = client.queue(name, Slow("sleep", 3), timeout=0.3)
    produce(queue, "p", list(range(10)))
    late(queue)
    assert before in set(client.map(_pid, range(50), chunksize=1)) or _alive(before)  # nobody was killed for it


@pytest.mark.parametrize("how", ["deaf", "frozen"])
def test_a_process_that_does_not_hear_its_timeout_is_killed_and_replaced(lonely: Cluster, how: str) -> None:
    with worker(lonely, "prefork", slots=1) as only, lonely.client() as client:
        queue = client.queue("slow", Slow(how, 3), workers="prefork", timeout=0.3)
        produce(queue, "p", list(range(10)))
        late(queue)
        assert list(client.map(square, range(5), workers="prefork")) == [0, 1, 4, 9, 16]
        assert "ran for longer than its timeout of 0.3 s; it is given up, and the process" in only.log


def test_an_item_that_was_late_is_tried_again(lonely: Cluster) -> None:
    with worker(lonely, "prefork", slots=1), lonely.client() as client:
        queue = client.queue("slow", Slow("deaf", 3), workers="prefork", timeout=0.3, retries=1, backoff_s=0.01)
        produce(queue, "p", list(range(10)))
        late(queue, attempts=2)
        with pytest.raises(errors.ItemTimeout, match="item 3 of"):
            list(client.map(Slow("sleep", 3), range(10), workers="prefork", item_timeout=0.3))


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_other_pools_give_up_a_late_item_in_time_and_go_on(lonely: Cluster, pool: str) -> None:
    if pool == "gevent":
        pytest.importorskip("gevent")
    with worker(lonely, "others", pool=pool, slots=1 if pool == "solo" else 2), lonely.client() as client:
        queue = client.queue("slow", Slow("sleep", 3), workers="others", timeout=0.3)
        produce(queue, "p", list(range(10)))
        late(queue)
        assert list(client.map(square, range(5), workers="others")) == [0, 1, 4, 9, 16]


def test_what_a_late_thread_returns_after_all_is_not_taken(lonely: Cluster) -> None:
    gate = Gate(lonely.url, "late")
    with worker(lonely, "threads", pool="threads", slots=2), lonely.client() as client:
        queue = client.queue("slow", Slow("", 3, gate), workers="threads", timeout=0.3)
        produce(queue, "p", list(range(10)))
        gate.begun()
        late(queue)
        gate.open()
        assert list(client.map(square, range(100), workers="threads", chunksize=1)) == [n * n for n in range(100)]
        status = queue.status()
        assert (status.done, status.dead, status.state) == (9, 1, "DRAINED")


def test_a_thread_that_was_late_leaves_the_rest_of_its_chunk_to_others(lonely: Cluster) -> None:
    gate = Gate(lonely.url, "late")
    counted = Counted(lonely.url, "counted")
    with worker(lonely, "threads", pool="threads", slots=2), lonely.client() as client:
        queue = client.queue("slow", functions.LateAndCounted(gate, counted, 3), workers="threads", timeout=0.3)
        with queue.producer(chunk_items=10) as out:
            out.put_many(range(10))
        gate.begun()
        late(queue)
        gate.open()
        assert list(client.map(square, range(100), workers="threads", chunksize=1)) == [n * n for n in range(100)]
        runs = counted.runs()
        assert all(runs[n] == 1 for n in range(4, 10))  # those before it may have been in its chunk, and run again
        assert all(runs[n] in (1, 2) for n in range(3))


def test_a_process_that_hangs_is_killed_though_its_queue_has_ended(lonely: Cluster) -> None:
    with worker(lonely, "prefork", slots=1) as only, lonely.client() as client:
        gate = Gate(lonely.url, "hangs")
        queue = client.queue("hangs", functions.DeafAtGate(gate), workers="prefork", timeout=0.3)
        produce(queue, "p", [0])
        gate.begun()
        queue.cancel()
        assert list(client.map(square, range(5), workers="prefork", timeout=60)) == [0, 1, 4, 9, 16]
        assert "is killed: an item that nobody waits for any more ran for too long" in only.log


def test_the_timeout_of_who_waits_is_not_that_of_what_it_does_meanwhile(lonely: Cluster) -> None:
    with worker(lonely, "few", slots=1, more={"LASTCALL_SLICE_S": "0.5"}), lonely.client() as client:
        with pytest.raises(errors.ItemTimeout, match=r"its timeout of 1 s"):
            client.submit_to("few", functions.wait_for_slow_item, 1).result(60)
        (status,) = [one for one in client.status() if one.name == "inner"] or client.job("inner").status()
        assert status.dead == 0


def test_calls_have_the_timeout_of_their_task(client: Client) -> None:
    with pytest.raises(errors.ItemTimeout, match=r"its timeout of 0\.2 s"):
        client.submit(dawdle, 1).result(30)


def test_a_late_call_is_found_among_others_in_the_same_hand(lonely: Cluster) -> None:
    with worker(lonely, "calls", slots=1), lonely.client() as client:
        gate = Gate(lonely.url, "calls")
        first = client.submit_to("calls", gate, 0)
        gate.begun()  # what is sent now is ready when the slot asks for more, several at a time
        others = [client.submit_to("calls", deaf if n == 20 else square, n) for n in range(40)]
        until(lambda: client.status()[0].ready == 40, "all to be there")
        gate.open()
        assert first.result(30) == 0
        with pytest.raises(errors.ItemTimeout):
            others.pop(20).result(60)
        assert [future.result(60) for future in others] == [n * n for n in range(40) if n != 20]


def test_an_alarm_of_the_functions_own_still_rings() -> None:
    rung = threading.Event()
    before = signal.signal(signal.SIGALRM, lambda *_: rung.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with limits.alarm(60, TimeoutError):
            assert not rung.is_set()
        until(rung.is_set, "the function's own alarm", 10)
        with pytest.raises(TimeoutError), limits.alarm(0.01, TimeoutError):
            threading.Event().wait(30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _pid(_: object) -> int:
    return os.getpid()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
