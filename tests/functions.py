"""Functions that workers run in tests; they import them from here."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import resource
import signal
import threading
import time
from typing import Any

import redis

from lastcall import Client, Pool, current, task


def square(n: int) -> int:
    return n * n


def add(a: int, b: int, c: int = 0) -> int:
    return a + b + c


def plus_one(n: int) -> int:
    return n + 1


def keyword_only(*, n: int) -> int:
    return n


def same(value: Any) -> Any:
    return value


def length(value: Any) -> int:
    return len(value)


def work(ms: float) -> float:
    """Keep a slot for some milliseconds."""
    time.sleep(ms / 1000)
    return ms


def who(_: object = None) -> tuple[int, int]:
    """Process and thread that this runs in."""
    return os.getpid(), threading.get_ident()


def variables() -> dict[str, str]:
    return dict(os.environ)


def odd_only(n: int) -> int:
    if n % 2 == 0:
        raise ValueError(f"{n} is even")
    return n


class Odd(Exception):
    """Takes other arguments than it hands to Exception, as many do."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"code {code} in {where}")
        self.code = code
        self.where = where


class Wild(Exception):
    """Cannot be pickled at all."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


def fail(how: str) -> None:
    """Raise what `how` names."""
    if how == "value":
        raise ValueError("it is 7", 7)
    if how == "odd":
        raise Odd(7, where="the attic")
    if how == "wild":
        raise Wild("nobody can hold me")
    if how == "noted":
        error = KeyError("elderberry")
        error.add_note("in the third jar")
        raise error
    if how == "chained":
        try:
            fail("value")
        except ValueError as error:
            raise RuntimeError("the first one failed") from error
    raise AssertionError(how)


def unpicklable_result(n: int) -> Any:
    return threading.Lock() if n == 3 else n


class Unbuildable:
    """Pickles, but cannot be made again anywhere else."""

    def __reduce__(self) -> Any:
        return _build, (os.getpid(),)


def _build(pid: int) -> Unbuildable:
    if pid != os.getpid():
        raise RuntimeError("it does not travel")
    return Unbuildable()


class OneWay:
    """Arrives, but does not go back."""

    def __reduce__(self) -> Any:
        if hasattr(self, "arrived"):
            raise TypeError("it stays")
        return _arrive, ()


def _arrive() -> OneWay:
    one = OneWay()
    one.arrived = True  # type: ignore[attr-defined]
    return one


class Scale:
    """Callable instances and bound methods travel by value."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, n: int) -> int:
        return self.factor * n

    def times(self, n: int) -> int:
        return self.factor * n


class Gate:
    """Lets a test see that functions have begun, and hold them until it lets them go on. By the test's own server."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name

    def __call__(self, value: Any) -> Any:
        """What workers run: say that it began, wait to be let through, give the value back."""
        with self._server() as server:
            server.rpush(f"test:{self.name}:begun", repr(value))
            assert server.blpop([f"test:{self.name}:open"], timeout=60), "the gate was not opened in a minute"
        return value

    def begun(self, n: int = 1, timeout_s: float = 30) -> list[str]:
        """Wait until `n` more have begun; their values' reprs."""
        values = []
        with self._server() as server:
            for _ in range(n):
                popped: Any = server.blpop([f"test:{self.name}:begun"], timeout=timeout_s)
                assert popped, f"{len(values)} of {n} began in {timeout_s} s"
                values.append(popped[1].decode())
        return values

    def open(self, n: int = 1) -> None:
        """Let `n` go on."""
        with self._server() as server:
            server.rpush(f"test:{self.name}:open", *["1"] * n)

    def _server(self) -> redis.Redis:
        server: redis.Redis = redis.Redis.from_url(self.url, socket_timeout=90)
        return server


@task
def cube(n: int) -> int:
    return n * n * n


@task
def picky(n: int) -> int:
    if n < 0:
        raise ValueError(f"{n} is negative")
    return n


@task
def oddly(n: int) -> int:
    raise Odd(n, where="here")


@task
def complex_of(n: int) -> complex:
    return complex(n, n)


def not_a_task(n: int) -> int:
    return n


# What processes of tests do


def produce(queue: Any, name: str | None, items: list[Any]) -> None:
    with queue.producer(name) as out:
        out.put_many(items)


def produce_and_hang(queue: Any, name: str, items: list[Any], put: Any) -> None:
    """Put, say so, and live on without leaving."""
    with queue.producer(name) as out:
        out.put_many(items)
        out.flush()
        put.set()
        threading.Event().wait()


def produce_and_fail(queue: Any, name: str, items: list[Any]) -> None:
    with queue.producer(name) as out:
        out.put_many(items)
        raise RuntimeError("the camera fell")


def consume(queue: Any, got: Any) -> None:
    """Put the items that this process got into `got`, a multiprocessing queue, then how it ended."""
    items = []
    try:
        for item in queue:
            items.append(item)
    except Exception as error:
        got.put((os.getpid(), items, f"{type(error).__name__}: {error}"))
    else:
        got.put((os.getpid(), items, ""))


def consume_and_hang(queue: Any, n: int, taken: Any) -> None:
    """Take `n` items, say so, and live on without asking for more."""
    consumer = queue.consumer()
    for _ in range(n):
        next(consumer)
    taken.set()
    threading.Event().wait()


def reciprocal(n: float) -> float:
    return 1 / n


# Items that go wrong


def try_again(n: int) -> tuple[int, int]:
    """Every third item raises until its third attempt."""
    if n % 3 == 0 and current.attempt < 3:
        raise ConnectionError(f"{n} at attempt {current.attempt}")
    return n, current.attempt


class Counted:
    """Counts how often it ran for each item, by the test's own server, and raises for some."""

    def __init__(self, url: str, name: str, raising: tuple[int, ...] = (), times: int = 1_000_000) -> None:
        self.url, self.name, self.raising, self.times = url, name, raising, times

    def __call__(self, n: int) -> int:
        with redis.Redis.from_url(self.url) as server:
            runs: Any = server.hincrby(f"test:{self.name}", str(n), 1)
        if n in self.raising and runs <= self.times:
            raise Odd(n, where=f"run {runs}")
        return n

    def runs(self) -> dict[int, int]:
        with redis.Redis.from_url(self.url) as server:
            counts: Any = server.hgetall(f"test:{self.name}")
        return {int(n): int(runs) for n, runs in counts.items()}


class Told:
    """Tells the test what lastcall.current says, and raises for the first times."""

    def __init__(self, url: str, name: str, times: int = 0) -> None:
        self.url, self.name, self.times = url, name, times

    def __call__(self, n: int) -> int:
        said = [current.job, current.queue, current.item, current.attempt, current.worker, current.idempotency_key]
        with redis.Redis.from_url(self.url) as server:
            server.rpush(f"test:{self.name}", json.dumps([n, *said]))
        if current.attempt <= self.times:
            raise ValueError("not yet")
        return n

    def said(self) -> list[list[Any]]:
        with redis.Redis.from_url(self.url) as server:
            told: Any = server.lrange(f"test:{self.name}", 0, -1)
        return [json.loads(one) for one in told]


class Deadly:
    """Ends its process, in one way or another, at one item."""

    def __init__(self, how: str, guilty: int, takes_s: float = 0.0) -> None:
        self.how, self.guilty, self.takes_s = how, guilty, takes_s

    def __call__(self, n: int) -> int:
        time.sleep(self.takes_s if n != self.guilty else self.takes_s / 2)  # while its neighbours are at it
        if n == self.guilty:
            if self.how == "segfault":
                faulthandler.disable()
                ctypes.string_at(0)
            elif self.how == "exit":
                os._exit(1)
            else:  # as the kernel does where there is no memory
                os.kill(os.getpid(), signal.SIGKILL)
        return n


class Slow:
    """Takes too long at one item: "sleep", which a signal ends; "deaf" to signals; "frozen", the whole process."""

    def __init__(self, how: str, late: int, gate: Gate | None = None) -> None:
        self.how, self.late, self.gate = how, late, gate

    def __call__(self, n: int) -> int:
        if n == self.late:
            if self.gate is not None:
                return int(self.gate(n))
            if self.how == "deaf":
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            if self.how == "frozen":
                os.kill(os.getpid(), signal.SIGSTOP)
            threading.Event().wait(60)
        return n


@task(name="tests.stubborn", retries=2, backoff_s=0.01)
def stubborn(n: int) -> int:
    """Gives the attempt at which it gave in."""
    if current.attempt <= n:
        raise ValueError(f"not at attempt {current.attempt}")
    return current.attempt


@task(name="tests.patient", retries=1, backoff_s=600)
def patient(n: int) -> int:
    """Its next attempt is long in coming."""
    raise ValueError(f"not {n}")


@task(name="tests.dawdle", timeout=0.2)
def dawdle(_: int) -> None:
    threading.Event().wait(60)


@task(name="tests.deaf", timeout=0.3)
def deaf(_: int) -> None:
    Slow("deaf", 0)(0)


def starve_memory(n: int) -> int:
    """Asks for more memory than it may have."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    try:
        return len(bytearray(4 << 30)) if n == 3 else n
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class Late:
    """Can be rebuilt as soon as its server's flag is set: a module that is installed later."""

    def __init__(self, url: str, flag: str) -> None:
        self.url, self.flag = url, flag

    def __reduce__(self) -> Any:
        return _rebuild_late, (self.url, self.flag)


def _rebuild_late(url: str, flag: str) -> Late:
    with redis.Redis.from_url(url) as server:
        if not server.exists(flag):
            raise ModuleNotFoundError("No module named 'later'", name="later")
    return Late(url, flag)


def said(value: object) -> str:
    return type(value).__name__ if isinstance(value, Late) else str(value)


class Outer:
    """Holds an exception class."""

    class Bank(Exception):
        pass


def bank(n: int) -> int:
    if current.attempt == 1:
        raise Outer.Bank("closed")
    return n


class LateAndCounted:
    """Waits at the gate with one item, counts the others."""

    def __init__(self, gate: Gate, counted: Counted, late: int) -> None:
        self.gate, self.counted, self.late = gate, counted, late

    def __call__(self, n: int) -> int:
        return int(self.gate(n)) if n == self.late else self.counted(n)


class DeafAtGate:
    """Says that it began, and then hears nothing."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def __call__(self, n: int) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        return int(self.gate(n))


def slow_item(n: int) -> int:
    time.sleep(2)
    return n


@task(name="tests.wait_for_slow_item", timeout=1)
def wait_for_slow_item(n: int) -> int:
    with Client() as client:
        queue = client.queue("inner", slow_item, workers="few")
        produce(queue, "p", [n])
        return queue.join(60).done


# What pools run

_set_up: list[object] = []  # of each process
_of_thread = threading.local()


def set_up(*what: object) -> None:
    """An initializer."""
    _set_up.append(what)
    _of_thread.times = getattr(_of_thread, "times", 0) + 1
    _of_thread.what = what


def was_set_up(_: object = None) -> tuple[int, int, int, object]:
    """Process, thread, how often its newest initializer was run there for it, and what with."""
    return os.getpid(), threading.get_ident(), _set_up.count(_of_thread.what), _of_thread.what


def where(_: object = None) -> tuple[int, int]:
    """Process and attempt."""
    return os.getpid(), current.attempt if current else 1


async def where_async(_: object) -> tuple[int, int]:
    return where()


def times_set_up(what: object) -> tuple[int, int]:
    """Process, and how often that initializer was run in it."""
    time.sleep(0.01)  # others of its kind take a turn
    return os.getpid(), _set_up.count((what,))


def cannot_set_up(what: str) -> None:
    raise OSError(f"there is no {what}")


def pass_in_turn(gates: dict[str, Gate], name: str) -> str:
    """Wait at the gate of this name."""
    return str(gates[name](name))


def gate_of(pair: tuple[Gate, Any]) -> Any:
    """Wait at a gate; None: at none."""
    gate, value = pair
    return value if gate is None else gate(value)


def sum_by_pool(n: int) -> int:
    """A function on a worker that has a pool of its own."""
    with Pool() as pool:
        squares = pool.map_async(square, range(n), 1)
        return sum(squares.get(60)) + sum(pool.imap(square, range(n), 1)) + pool.apply(square, (n,))


# What processes and functions do with queues


def put_all(queue: Any, items: list[Any], shutting: bool = False) -> int:
    """Put items; gives how many."""
    for item in items:
        queue.put(item)
    if shutting:
        queue.close()
    return len(items)


def put_and_fail(queue: Any, items: list[Any]) -> None:
    put_all(queue, items)
    raise RuntimeError("the camera fell")


def put_and_hang(queue: Any, items: list[Any], put: Any) -> None:
    put_all(queue, items)
    assert queue.qsize() == len(items)  # they are there
    put.set()
    threading.Event().wait()


def get_and_hang(queue: Any, gets: int, done: int, got: Any) -> None:
    """Get so many items, mark so many as done, say so, and live on without asking for more."""
    for _ in range(gets):
        queue.get()
    for _ in range(done):
        queue.task_done()
    got.set()
    threading.Event().wait()


def get_and_fail(queue: Any) -> None:
    raise RuntimeError(f"cannot eat {queue.get()}")


def get_one(queue: Any) -> Any:
    return queue.get(timeout=30)


def until_finished(queue: Any, got: Any) -> None:
    """Read a queue to its end, as the article does it; what was read into another one."""
    while not queue.finished():
        got.put(queue.get())
