"""Things that are shared: those of lastcall.Manager beside multiprocessing.Manager's; and what leases add."""

from __future__ import annotations

import contextlib
import multiprocessing
import operator
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import lastcall
from lastcall import Client, announced, errors
from lastcall.shared import permits, thing
from lastcall.state import keys
from tests.conftest import Cluster
from tests.workers import Worker, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

KEY = "a key for what is shared"
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def theirs() -> Iterator[Any]:
    with FORK.Manager() as manager:
        yield manager


@pytest.fixture(params=["multiprocessing", "lastcall"])
def manager(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each test that takes it is run with both, so that what it promises is what multiprocessing does."""
    if request.param == "multiprocessing":
        yield request.getfixturevalue("theirs")
    else:
        with lastcall.Manager(client=request.getfixturevalue("client")) as manager:
            yield manager


@pytest.fixture
def ours(client: Client) -> Iterator[lastcall.Manager]:
    with lastcall.Manager(client=client) as manager:
        yield manager


@pytest.fixture
def short(lonely: Cluster) -> Iterator[Client]:
    """A client whose leases end after half a second."""
    with lonely.client(lease_s=0.5) as client:
        yield client


@contextlib.contextmanager
def process(function: Callable[..., object], *args: Any) -> Iterator[Any]:
    """A process that runs a function; killed at the end."""
    running = FORK.Process(target=function, args=args)
    running.start()
    try:
        yield running
    finally:
        running.kill()
        running.join()


def in_threads(n: int, function: Callable[[], Any]) -> list[Any]:
    """What a function gives, or raises, in some threads at the same time."""
    came: list[Any] = []

    def run() -> None:
        try:
            came.append(function())
        except Exception as error:
            came.append(type(error))

    threads = [threading.Thread(target=run) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return came


# As multiprocessing has it


def test_a_dict_is_a_dict(manager: Any) -> None:
    d = manager.dict({"b": 1, "a": 2}, c=3)
    d["d"] = [4]
    assert list(d.keys()) == ["b", "a", "c", "d"]
    assert (d.values(), d.items()[0], len(d)) == ([1, 2, 3, [4]], ("b", 1), 4)
    assert ("a" in d, "z" in d, d.get("z"), d.get("z", 5), d.get("a", 5)) == (True, False, None, 5, 2)
    d[1] = "one"
    assert (d[1.0], d[True]) == ("one", "one")
    d[1, ("x", 2.5, None)] = b"tuple"
    assert d[1, ("x", 2.5, None)] == b"tuple"
    d["d"].append(5)  # of a copy
    assert d["d"] == [4]
    assert d.setdefault("a", 9) == 2
    assert d.setdefault("e", 9) == 9
    assert (d.pop("e"), d.pop("e", None)) == (9, None)
    d["b"] = 10
    assert d.copy() == {"b": 10, "a": 2, "c": 3, "d": [4], 1: "one", (1, ("x", 2.5, None)): b"tuple"}
    assert d.popitem() == ((1, ("x", 2.5, None)), b"tuple")
    assert (sorted(map(str, d)), str(d)) == (["1", "a", "b", "c", "d"], str(d.copy()))
    d.update([("x", 1)], y=2)
    del d["x"]
    for missing in (lambda: d["x"], lambda: d.pop("x"), lambda: d.__delitem__("x")):
        with pytest.raises(KeyError, match="x"):
            missing()
    with pytest.raises(TypeError, match="unhashable"):
        d[[]] = 1
    d.clear()
    assert (len(d), d.copy(), list(d)) == (0, {}, [])
    with pytest.raises(KeyError, match="dictionary is empty"):
        d.popitem()


def test_a_list_is_a_list(manager: Any) -> None:
    items = manager.list([3, 1])
    items.append(2)
    items.extend(iter("ab"))
    items += ["c"]
    assert items[:] == list(items) == [3, 1, 2, "a", "b", "c"]
    assert (items[0], items[-1], items[1:3], len(items)) == (3, "c", [1, 2], 6)
    assert (items.pop(), items.pop(0), items.pop(2), items.pop(-2)) == ("c", 3, "a", 2)
    items.insert(1, {"n": None})
    items[0] = 4
    items[-1] = 5
    assert (items[:], 4 in items, 6 in items, items.index(5), items.count(4)) == (
        [4, {"n": None}, 5],
        True,
        False,
        2,
        1,
    )
    items[1:2] = [9, 8]
    del items[0]
    items.remove(5)
    items.sort()
    assert str(items) == "[8, 9]"
    items.sort(key=operator.neg)
    items.reverse()
    longer = items + [1]  # noqa: RUF005
    assert (longer, items * 2, list(reversed(items))) == ([8, 9, 1], [8, 9, 8, 9], [9, 8])
    items *= 2
    assert items[:] == [8, 9, 8, 9]
    for wrong in (lambda: items[4], lambda: items.__setitem__(-5, 1), lambda: items.pop(9)):
        with pytest.raises(IndexError, match="range"):
            wrong()
    with pytest.raises(ValueError, match="not in list"):
        items.remove(7)
    del items[:]
    with pytest.raises(IndexError, match="pop from empty list"):
        items.pop()


def test_values_and_namespaces(manager: Any) -> None:
    value = manager.Value("i", 3)
    value.value += 1
    assert (value.value, value.get()) == (4, 4)
    value.set("five")
    assert value.value == "five"
    space = manager.Namespace(x=1)
    space.y = space.x + 1
    assert (space.x, space.y, str(space)) == (1, 2, "Namespace(x=1, y=2)")
    del space.x
    with pytest.raises(AttributeError, match="'x'"):
        _ = space.x
    with pytest.raises(AttributeError):
        del space.x


def test_things_lie_in_one_another(manager: Any) -> None:
    outer = manager.dict()
    outer["inner"] = manager.list([1])
    outer["inner"].append(2)
    assert outer["inner"][:] == [1, 2]


def test_a_lock_is_one(manager: Any) -> None:
    lock = manager.Lock()
    assert lock.acquire()
    assert in_threads(1, lambda: lock.acquire(False)) == [False]
    assert in_threads(1, lambda: lock.acquire(True, 0.05)) == [False]
    assert in_threads(1, lock.release) == [None]  # by another thread
    with lock as got:
        assert got is True
        assert not lock.acquire(blocking=False)
    with pytest.raises(RuntimeError):
        lock.release()
    with pytest.raises(ValueError, match="timeout"):
        lock.acquire(False, 1)
    with pytest.raises(ValueError, match="timeout"):
        lock.acquire(True, -2)
    with pytest.raises(TypeError):
        lock.acquire(True, "soon")


def test_an_rlock_is_its_threads(manager: Any) -> None:
    lock = manager.RLock()
    with lock, lock:
        assert in_threads(1, lambda: lock.acquire(False)) == [False]
        assert in_threads(1, lock.release) == [RuntimeError] or in_threads(1, lock.release) == [errors.NotHeld]
    assert in_threads(1, lambda: (lock.acquire(False), lock.release())) == [(True, None)]
    with pytest.raises(RuntimeError):
        lock.release()


def test_semaphores(manager: Any) -> None:
    semaphore = manager.Semaphore(2)
    assert [semaphore.acquire(blocking=False) for _ in range(3)] == [True, True, False]
    semaphore.release()
    assert semaphore.acquire(timeout=5)
    for _ in range(3):
        semaphore.release()
    assert [semaphore.acquire(blocking=False) for _ in range(4)] == [True, True, True, False]
    bounded = manager.BoundedSemaphore(1)
    with bounded:
        assert not bounded.acquire(blocking=False)
    with pytest.raises(ValueError):  # noqa: PT011
        bounded.release()
    with pytest.raises(Exception, match=r"value must be"):
        manager.Semaphore(-1)


def test_events_wake_all_who_wait(manager: Any) -> None:
    event = manager.Event()
    assert (event.is_set(), event.wait(0.05)) == (False, False)
    with process(event.set):
        assert in_threads(3, lambda: event.wait(60)) == [True] * 3
    assert event.is_set()
    assert event.wait()
    event.clear()
    assert not event.is_set()


def test_barriers(manager: Any) -> None:
    barrier = manager.Barrier(3)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)
    for _ in range(3):
        assert sorted(in_threads(3, barrier.wait)) == [0, 1, 2]
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(0.05)
    assert barrier.broken
    assert in_threads(2, barrier.wait) == [threading.BrokenBarrierError] * 2
    barrier.reset()
    assert not barrier.broken
    for end in (barrier.reset, barrier.abort):
        came: list[Any] = []
        waiting = threading.Thread(target=lambda came=came: came.extend(in_threads(2, barrier.wait)))
        waiting.start()
        until(lambda: barrier.n_waiting == 2, "two to wait")
        end()
        waiting.join(60)
        assert came == [threading.BrokenBarrierError] * 2
    assert barrier.broken


def add_under_lock(lock: Any, total: Any, items: Any, n: int) -> None:
    for _ in range(n):
        with lock:
            total.value += 1
            items.append(total.value)


def test_processes_that_take_turns_lose_nothing(manager: Any) -> None:
    lock, total, items = manager.Lock(), manager.Value("i", 0), manager.list()
    with process(add_under_lock, lock, total, items, 25), process(add_under_lock, lock, total, items, 25) as second:
        add_under_lock(lock, total, items, 25)
        second.join(60)
        until(lambda: len(items) == 75, "the other")
    assert (total.value, list(items)) == (75, list(range(1, 76)))


# On workers


def take_turns(args: Any) -> int:
    lock, counter, log, barrier, n = args
    barrier.wait(60)
    with lock:
        log.append(n)
        return int(counter.add(n))


def test_functions_on_workers_share_what_they_are_handed(client: Client, ours: lastcall.Manager) -> None:
    log, counter = ours.list(), ours.Counter(100)
    # Four parties, and two slots: a slot that waits at the barrier runs another party meanwhile.
    args = (ours.Lock(), counter, log, ours.Barrier(4))
    totals = sorted(client.map(take_turns, [(*args, n) for n in range(4)], chunksize=1, timeout=60))
    assert sorted(log) == [0, 1, 2, 3]
    assert (counter.value, totals[-1]) == (106, 106)


def test_their_methods_are_functions(client: Client, ours: lastcall.Manager) -> None:
    counter, items = ours.Counter(), ours.list()
    with client.queue(f"methods-{ours._id}", items.append).producer() as out:
        out.put_many(range(20))
    assert sorted(client.map(counter.add, [1] * 20, timeout=60)) == list(range(1, 21))
    client.queue(f"methods-{ours._id}", items.append).join(60)  # the same function
    assert sorted(items) == list(range(20))


def add_twice(args: Any) -> None:
    lock, counter, total = args
    with lock, lock:
        seen = total.value
        counter.add()
        total.value = seen + 1


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_slots_of_one_process_take_turns(server: Any, pool: str) -> None:
    if pool == "gevent":
        pytest.importorskip("gevent")
    with Worker(server.unix_url, KEY, pool, queues=pool, pool=pool, slots=4) as worker:
        worker.ready()
        with Client(server.unix_url, KEY) as client, lastcall.Manager(client=client) as manager:
            counter, total = manager.Counter(), manager.Value("i", 0)
            items = [(manager.RLock(), counter, total)] * 60
            assert len(list(client.map(add_twice, items, chunksize=1, workers=pool, timeout=60))) == 60
            assert (counter.value, total.value) == (60, 60)


def wait_for(pair: Any) -> bool:
    event, sets = pair
    if sets:
        event.set()
        return True
    return bool(event.wait(60))


def test_an_event_that_is_set_by_work_which_waits_for_a_slot_is_set(client: Client, ours: lastcall.Manager) -> None:
    event = ours.Event()
    items = [*[(event, False)] * 4, (event, True)]
    assert list(client.map(wait_for, items, chunksize=1, timeout=60)) == [True] * 5


def take(lock: Any) -> str:
    try:
        lock.acquire()
    except errors.WaitTimeout as error:
        return str(error)
    return "got it"


def take_in_vain(lock: Any) -> str:
    with lock, Client() as client:
        return client.submit_to("one", take, lock).result(60)


def test_a_lock_that_is_held_by_who_waits_for_the_slot_is_a_named_error_and_says_who(server: Any) -> None:
    more = {"LASTCALL_WORKER_WAIT_S": "0.5"}
    with Worker(server.unix_url, KEY, "one", queues="one", pool="threads", slots=1, more=more) as worker:
        worker.ready()
        with Client(server.unix_url, KEY, worker_wait_s=0.5) as client:
            said = client.submit_to("one", take_in_vain, client.lock("shared")).result(60)
    assert "for lock shared, held by item " in said
    assert " on one@test, which did not give it back" in said


# Leases


def hold_and_hang(semaphore: Any, held: Any) -> None:
    semaphore.acquire()
    held.set()
    signal.pause()


def test_what_a_killed_process_held_is_free_when_its_lease_is_over(short: Client, name: str) -> None:
    semaphore, held = short.semaphore(name, 2), FORK.Event()
    assert semaphore.acquire()
    with process(hold_and_hang, semaphore, held) as holder:
        assert held.wait(30)
        assert not semaphore.acquire(timeout=1.5)  # it lives: its lease is renewed
        assert sorted(who.split()[1] for who in semaphore.holders()) == sorted(map(str, (os.getpid(), holder.pid)))
        os.kill(holder.pid, signal.SIGKILL)
        assert semaphore.acquire(timeout=30)
    assert [who.split()[1] for who in semaphore.holders()] == [str(os.getpid())] * 2


def hold_and_tell(lock: Any, pipe: Any) -> None:
    said: list[Any] = []
    try:
        with lock:
            pipe.send(lock.token)
            pipe.recv()
            with contextlib.suppress(errors.HoldLost):
                lock.check()
                said.append("still held")
    except errors.LeaseLost as error:
        said.append(error)
    pipe.send(said)


def test_a_frozen_holder_loses_the_lock_and_is_told(short: Client, name: str) -> None:
    lock = short.lock(name)
    here, there = FORK.Pipe()
    with process(hold_and_tell, lock, there) as holder:
        token = here.recv()
        os.kill(holder.pid, signal.SIGSTOP)
        assert lock.acquire(timeout=30)
        assert lock.token > token
        os.kill(holder.pid, signal.SIGCONT)
        here.send("go on")
        assert here.poll(30)
        (error,) = here.recv()
    assert isinstance(error, errors.HoldLost)
    assert (error.name, error.token) == (name, token)
    lock.check()  # what the other released was not this
    lock.release()
    assert not lock.locked()


def test_tokens_grow_after_everything_has_expired(client: Client, server: Any, name: str) -> None:
    lock = client.lock(name)
    with lock:
        first = lock.token
    client.forget(name)
    with lock:
        assert lock.token > first
    with pytest.raises(errors.NotHeld, match="not held here"):
        _ = lock.token


def wait_at(barrier: Any, number: Any) -> None:
    number.value = barrier.wait()


def test_a_party_that_dies_at_a_barrier_has_not_come(short: Client, name: str) -> None:
    barrier = short.barrier(name, 2)
    number = FORK.Value("i", -1)
    with process(wait_at, barrier, number) as dead:
        until(lambda: barrier.n_waiting == 1, "it to wait")
        os.kill(dead.pid, signal.SIGKILL)
        until(lambda: barrier.n_waiting == 0, "its lease to end")
        with process(wait_at, barrier, number) as other:
            assert barrier.wait(60) in (0, 1)
            other.join(60)
    assert number.value in (0, 1)


def test_who_waits_is_woken_and_does_not_look_again_and_again(
    lonely: Cluster, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permits, "_LOOK_S", 100.0)
    monkeypatch.setattr(announced, "LOOK_S", 100.0)
    with lonely.client(lease_s=400.0) as client:
        lock, event = client.lock(name), client.event(f"{name}-event")
        lock.acquire()
        came: list[Any] = []
        threads = [
            threading.Thread(target=lambda: came.extend(in_threads(3, lambda: (lock.acquire(), lock.release())))),
            threading.Thread(target=lambda: came.append(event.wait())),
        ]
        for waiting in threads:
            waiting.start()
        redis = lonely.server.client()
        until(lambda: redis.info("clients")["blocked_clients"] == 3, "three to wait for the lock")
        until(lambda: dict(redis.pubsub_numsub(event._key("meta")))[event._key("meta")] == 1, "one for the event")
        lock.release()
        event.set()
        for waiting in threads:
            waiting.join(60)
        assert sorted(map(str, came)) == ["(True, None)"] * 3 + ["True"]


def test_a_wait_outlasts_a_server_that_is_away(short: Client, lonely: Cluster, name: str) -> None:
    lock, event = short.lock(name), short.event(f"{name}-event")
    came: list[Any] = []
    lock.acquire()
    waiting = threading.Thread(target=lambda: came.extend(in_threads(1, lambda: (lock.acquire(), event.wait()))))
    waiting.start()
    until(lambda: lonely.server.client().info("clients")["blocked_clients"] >= 1, "it to wait")
    lonely.server.kill()
    lonely.server.start()
    event.set()
    waiting.join(60)
    assert came == [(True, True)]  # the server had forgotten who had it
    with pytest.raises(errors.HoldLost):
        lock.check()


# What is sent again


CHANGES: list[tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = [
    ("Counter", lambda c: c.add(5), lambda c: c.value),
    ("list", lambda items: items.append(1), list),
    ("list", lambda items: items.pop(), list),
    ("list", lambda items: items.insert(0, 1), list),
    ("dict", lambda d: d.popitem(), dict),
    ("dict", lambda d: d.setdefault("z", 1), dict),
    ("Semaphore", lambda s: s.release(), lambda s: [s.acquire(False) for _ in range(3)]),
]


@pytest.mark.parametrize(("kind", "change", "look"), CHANGES)
def test_a_change_whose_reply_was_lost_is_made_once(
    ours: lastcall.Manager, monkeypatch: pytest.MonkeyPatch, kind: str, change: Any, look: Any
) -> None:
    first = {"list": [[1, 2, 3]], "dict": [{"a": 1, "b": 2}]}.get(kind, [])
    once, twice = (getattr(ours, kind)(*first) for _ in range(2))
    expected = change(once), look(once)
    run, sent = type(twice)._run, []

    def again(self: Any, script: Any, *args: Any, **options: Any) -> Any:
        if script.name in ("hold", "store") and sent:
            return run(self, script, *args, **options)
        number = thing._change()
        with monkeypatch.context() as patch:
            patch.setattr(thing, "_change", lambda: number)
            sent.append(run(self, script, *args, **options))
            return run(self, script, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(twice), "_run", again)
        got = change(twice)
    assert sent
    assert (got, look(twice)) == expected


# What comes to lie on the server


def test_nothing_that_is_not_genuine_is_unpickled(client: Client, name: str) -> None:
    d, items = client.shared_dict(name), client.shared_list(f"{name}-list")
    d["a"], d["b"] = 1, 2
    items.append(1)
    redis, (field_a, field_b) = client._connection.redis, (b"\xa1a", b"\xa1b")
    fields = d._key("fields")
    redis.hset(fields, field_a, redis.hget(fields, field_b))  # of another key
    redis.lset(items._key("items"), 0, pickle.dumps(print))
    for bad in (lambda: d["a"], lambda: items[0], d.items):
        with pytest.raises(errors.BadEnvelope):
            bad()
    client.forget(name)
    client.forget(f"{name}-list")


def test_a_name_is_that_of_one_kind(client: Client, name: str) -> None:
    client.counter(name).add()
    with pytest.raises(errors.ConfigError, match=f"name must be that of a lock, got '{name}', of a counter"):
        client.lock(name).acquire()
    client.semaphore(f"{name}-2", 2).acquire()
    with pytest.raises(errors.ConfigError, match=r"that of a semaphore 3, got .* of a semaphore 2"):
        client.semaphore(f"{name}-2", 3).acquire()
    for wrong in ("", "a b", "{x}", 3):
        with pytest.raises(errors.ConfigError, match="name must be"):
            client.lock(wrong)  # type: ignore[arg-type]
    client.forget(name)
    client.forget(f"{name}-2")


def test_all_of_it_expires_and_is_gone_with_its_manager(client: Client) -> None:
    redis = client._connection.redis
    with lastcall.Manager(client=client) as manager:
        manager.dict(a=1)
        lock = manager.Lock()
        lock.acquire()
        manager.list([1])
        counter = manager.Counter()
        value = manager.Value("i", 3)
        there = set(redis.scan_iter(f"{keys.PREFIX}:{{shared:{manager._id}-*"))
        assert len(there) >= 9
        assert all(0 < redis.pttl(key) <= client.settings.ttl_s * 1000 for key in there)
    assert not set(redis.scan_iter(f"{keys.PREFIX}:{{shared:{manager._id}-*"))
    manager.shutdown()
    with pytest.raises(errors.ClientClosed):
        manager.dict()
    with pytest.raises(errors.HoldLost):
        lock.release()
    with pytest.raises(LookupError, match="manager is shut down"):
        value.get()
    assert counter.value == 0


def test_its_queues_go_to_processes(manager: Any) -> None:
    queue, done = manager.Queue(2), manager.JoinableQueue()
    with FORK.Pool(1) as pool:
        pool.apply(_put_and_mark, (queue, done))
    assert (queue.get(timeout=30), queue.empty(), queue.full()) == ("bun", True, False)
    done.join()


def _put_and_mark(queue: Any, done: Any) -> None:
    queue.put("bun")
    done.put(1)
    done.get()
    done.task_done()


def test_its_queues_end_with_a_manager(client: Client) -> None:
    with lastcall.Manager(client=client) as manager:
        queue = manager.Queue()
        queue.put(1)
    with pytest.raises(errors.ShutDown):
        queue.get()
    with pytest.raises(errors.ClientClosed):
        manager.Queue()


def test_handles_pickle_and_a_manager_does_not(client: Client, ours: lastcall.Manager) -> None:
    made = [ours.Lock(), ours.RLock(), ours.Semaphore(3), ours.Event(), ours.Barrier(2, timeout=3), ours.Counter(1)]
    for one in made:
        copy = pickle.loads(pickle.dumps(one))
        assert (type(copy), copy.name, copy._options) == (type(one), one.name, one._options)
    with ours.Lock() as _, pytest.raises(TypeError, match="hand over what it makes"):
        pickle.dumps(ours)
    lock = ours.Lock()
    lock.acquire()
    pickle.loads(pickle.dumps(lock)).release()  # of the same process
    assert not lock.locked()


def test_without_a_key_plain_values_are_shared(lonely: Cluster) -> None:
    with Client(lonely.url) as client, lastcall.Manager(client=client) as manager:
        d = manager.dict({("a", 1): [1.5, None]})
        assert d.items() == [(("a", 1), [1.5, None])]
        with pytest.raises(errors.NotSerializable, match="LASTCALL_KEY"):
            d["f"] = print


def test_updates_of_a_value_and_of_a_list_are_atomic(ours: lastcall.Manager) -> None:
    value, items = ours.Value("i", 0), ours.list()
    in_threads(4, lambda: [value.update(lambda n: n + 1) for _ in range(10)])
    in_threads(4, lambda: [items.insert(0, 1) for _ in range(10)])
    assert (value.value, len(items)) == (40, 40)


def test_a_counter_has_64_bits(ours: lastcall.Manager) -> None:
    counter = ours.Counter(2**63 - 1)
    for wrong in (lambda: counter.add(), lambda: counter.set(2**63)):
        with pytest.raises(OverflowError, match="64 bits"):
            wrong()
    with pytest.raises(errors.ConfigError, match="a count must be an int"):
        counter.add(1.5)  # type: ignore[arg-type]
    counter.value = -3
    assert counter.add(1) == -2
