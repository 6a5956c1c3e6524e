"""What functions keep from one item to the next: resources and local attributes of slots; and what `current` says."""

from __future__ import annotations

import asyncio
import contextvars
import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import lastcall
from lastcall import Client, current, errors, task
from lastcall.place import taken
from tests.conftest import Cluster, start_server
from tests.functions import Gate
from tests.workers import Worker, environment

pytestmark = pytest.mark.integration

KEY = "a key for what slots keep"
POOLS = {"prefork": 2, "threads": 2, "solo": 1, "gevent": 3}


def note(*words: object) -> None:
    path = os.environ.get("TEST_NOTES")
    if path:
        with open(path, "a") as file:
            print(*words, file=file, flush=True)


class Link:
    """As a connection: of one thread."""

    def __init__(self, kind: str) -> None:
        self.kind, self.thread = kind, threading.get_ident()
        self.name = f"{kind}-{os.getpid()}-{id(self)}"
        self.closed = False
        note("made", self.name)

    def close(self) -> None:
        self.closed = True
        where = "here" if threading.get_ident() == self.thread else "elsewhere"
        note("closed", self.name, where)


@lastcall.resource
def first() -> Iterator[Link]:
    link = Link("first")
    yield link
    link.close()


@lastcall.resource
@contextmanager
def second() -> Iterator[Link]:
    link = Link("second")
    try:
        yield link
    finally:
        link.close()


third = lastcall.resource(lambda: Link("third"))


def links(_: int) -> tuple[str, str, str]:
    return first().name, second().name, third().name


class Held:
    """The same, at a gate: so that all slots are at it at once."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def __call__(self, n: int) -> tuple[str, str, str]:
        made, before = links(n), what()
        self.gate(n)  # others run meanwhile, in this process
        assert (links(n), what()) == (made, before)
        return made


tries: list[int] = []
fresh = lastcall.resource(lambda: Link("fresh"))


@lastcall.resource
def shy() -> int:
    tries.append(1)
    if len(tries) % 2:
        raise OSError("the database is not there")
    return len(tries)


@task(name="tests.be_shy", retries=3, backoff_s=0.01)
def be_shy(_: int) -> tuple[int, int]:
    return shy(), current.attempt


def replace(_: int) -> tuple[bool, bool, bool]:
    old = fresh()
    fresh.discard()
    fresh.discard()
    return old.closed, fresh().closed, fresh() is old


mine, jobs = lastcall.local(), lastcall.local(per="job")


def count(_: int) -> tuple[int, int]:
    mine.n = getattr(mine, "n", 0) + 1
    jobs.n = getattr(jobs, "n", 0) + 1
    return mine.n, jobs.n


def what() -> tuple[str, str, str, int, str]:
    return current.job, current.queue, current.item, current.attempt, current.worker


def told(n: int) -> tuple[Any, ...]:
    return (n, threading.get_ident(), os.getpid(), *what())


def around(n: int) -> tuple[Any, ...]:
    """What is seen by a function before, while and after its slot runs another one."""
    mine.n, link, before = -1, third(), what()
    with Client() as client:
        inside = client.submit_to("one", inner, n).result(60)
    return before, what(), inside, link is third(), mine.n, link.name


async def seen_twice() -> list[tuple[Any, ...]]:
    before = what()
    await asyncio.sleep(0)
    return [before, what(), await asyncio.to_thread(what)]


def in_coroutines(_: int) -> tuple[Any, list[Any], list[bool]]:
    """What coroutines of a function see; and threads of it, which do not run the item."""

    async def several() -> list[Any]:
        return await asyncio.gather(*(seen_twice() for _ in range(5)))

    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(bool(current)))
    thread.start()
    thread.join()
    return what(), asyncio.run(several()), seen


def mine_here(seen: list[Link]) -> None:
    seen.append(first())
    assert first() is seen[-1]


def in_threads() -> tuple[bool, list[bool], list[bool]]:
    """Threads that take the function's context along: whether each had a link of its own, and which are closed now."""
    seen: list[Link] = []
    mine_here(seen)
    for _ in range(2):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(mine_here, seen))
        thread.start()
        thread.join()
    return len(set(seen)) == 3, [link.closed for link in seen], [link is first() for link in seen]


async def in_coroutine_and_threads() -> list[bool]:
    """Whether each link is of the thread that it is used in, first those of threads."""
    here: list[bool] = []

    def use() -> None:
        here.append(first().thread == threading.get_ident())

    await asyncio.gather(*(asyncio.to_thread(use) for _ in range(2)))
    use()
    return here


def inner(_: int) -> tuple[Any, ...]:
    return what(), hasattr(mine, "n"), third().name


@pytest.mark.timeout(240)
def test_each_slot_makes_its_resources_once_and_closes_them_at_the_end(tmp_path: Path) -> None:
    server, workers, notes = start_server(tcp=False), {}, {}
    try:
        for pool, slots in POOLS.items():
            if pool == "gevent" and importlib.util.find_spec("gevent") is None:
                continue
            notes[pool] = tmp_path / pool
            more = {"TEST_NOTES": str(notes[pool])}
            workers[pool] = Worker(server.unix_url, KEY, pool, queues=pool, pool=pool, slots=slots, more=more)
        seen: dict[str, set[tuple[str, str, str]]] = {}
        with Client(server.unix_url, KEY) as client:
            for pool, worker in workers.items():
                worker.ready()
                gate = Gate(server.unix_url, pool)
                results = client.map(Held(gate), range(POOLS[pool]), chunksize=1, workers=pool, timeout=60)
                gate.begun(POOLS[pool])
                gate.open(POOLS[pool])
                seen[pool] = set(results)
                # Another job, many chunks: nothing more is made.
                assert set(client.map(links, range(100), chunksize=1, workers=pool, timeout=60)) <= seen[pool]
        for worker in workers.values():
            worker.tell(signal.SIGTERM)
        for pool, worker in workers.items():
            assert worker.wait() == 0
            assert len(seen[pool]) == POOLS[pool]
            lines = [line.split() for line in notes[pool].read_text().splitlines()]
            for made in seen[pool]:
                of_it = [line[0] for line in lines if line[1] in made]
                assert of_it == ["made"] * 3 + ["closed"] * 3
                assert [line[1] for line in lines if line[1] in made] == [*made, *reversed(made)]
            if pool != "gevent":
                assert all(line[2] == "here" for line in lines if line[0] == "closed")
    finally:
        for worker in workers.values():
            worker.kill()
        server.close()


def test_a_process_that_is_replaced_after_some_tasks_closes_its_resources(tmp_path: Path) -> None:
    server, notes = start_server(tcp=False), tmp_path / "notes"
    more = {"TEST_NOTES": str(notes), "LASTCALL_SLICE_S": "0.01"}  # a slice a task
    options = ("--max-tasks-per-child", "1")
    with Worker(server.unix_url, KEY, "short", slots=1, options=options, more=more) as worker:
        worker.ready()
        with Client(server.unix_url, KEY) as client:
            made = [client.submit(links, n).result(60) for n in range(2)]
            client.submit(abs, 1).result(60)  # in a third process: the second has ended
        lines = notes.read_text().split("\n")
        for names in made:
            assert [line for line in lines if names[0] in line] == [f"made {names[0]}", f"closed {names[0]} here"]
    server.close()


def test_a_resource_that_cannot_be_made_is_the_items_error_and_is_tried_again(client: Client) -> None:
    with pytest.raises(OSError, match="is not there"):
        next(client.map(be_shy, [1], retries=0, max_workers=1))
    number, attempt = client.submit(be_shy, 1).result(60)
    assert number % 2 == 0
    assert attempt in (1, 2)


def test_a_resource_that_is_discarded_is_closed_and_made_anew(client: Client) -> None:
    assert client.submit(replace, 1).result(60) == (True, False, False)


def test_a_call_in_the_place_of_one_that_waits_has_a_place_of_its_own_and_current_is_right_after_it() -> None:
    server = start_server(tcp=False)
    with Worker(server.unix_url, KEY, "one", queues="one", pool="threads", slots=1) as worker:
        worker.ready()
        with Client(server.unix_url, KEY) as client:
            for n in range(3):
                before, after, inside, same, left, name = client.submit_to("one", around, n).result(60)
                assert before == after
                assert before[0] != inside[0][0]
                assert before[4] == inside[0][4] == "one@test"
                assert same
                assert left == -1
                assert inside[1:] == (False, inside[2])
                assert inside[2] != name
    server.close()


@pytest.mark.parametrize("workers", ["cpu", "io"])
def test_current_is_each_items_own_in_processes_and_threads(client: Client, name: str, workers: str) -> None:
    queue = client.queue(name, told, workers=workers)
    with queue.producer(chunk_items=3) as out:
        out.put_many(range(90))
    queue.join(60)
    rows = sorted(queue.results())
    assert [row[0] for row in rows] == list(range(90))
    ids = [tuple(map(int, row[5].removeprefix("1-").split("#"))) for row in rows]  # chunk, number in it
    assert ids == sorted(set(ids))
    assert max(number for _, number in ids) > 0
    assert {row[3:5] for row in rows} == {(name, name)}
    assert {row[6:] for row in rows} == {(1, f"{workers}@test")}


@pytest.mark.parametrize("workers", ["cpu", "io"])
def test_current_is_the_items_in_coroutines_that_its_function_runs(client: Client, workers: str) -> None:
    for item, seen, in_thread in client.map(in_coroutines, range(20), workers=workers, timeout=60):
        assert seen == [[item] * 3] * 5
        assert in_thread == [False]


@pytest.mark.parametrize("workers", ["cpu", "io"])
def test_threads_that_a_function_starts_have_resources_of_their_own_until_they_end(
    client: Client, workers: str
) -> None:
    assert client.submit_to(workers, in_threads).result(60) == (True, [False, True, True], [True, False, False])
    assert client.submit_to(workers, in_coroutine_and_threads).result(60) == [True, True, True]


def test_attributes_stay_for_the_slot_and_those_of_a_job_do_not_reach_another(client: Client) -> None:
    seen = []
    for _ in range(3):
        seen.append(list(client.map(count, range(8), chunksize=8, max_workers=1)))
    assert all([of_job for _, of_job in rows] == list(range(1, 9)) for rows in seen)
    assert max(of_slot for rows in seen for of_slot, _ in rows) > 8  # of two slots, three jobs


SCRIPT = """
import os
from lastcall import Client, local, resource

class Link:
    made = 0
    def __init__(self):
        Link.made += 1
    def __repr__(self):
        return f"link {Link.made} of {os.getpid()}"

link, seen = resource(Link), local()

@resource
def other():
    yield 1

def use(n):
    seen.n = getattr(seen, "n", 0) + other()
    return repr(link()), seen.n

with Client() as client:
    used = dict(client.map(use, range(20), chunksize=1))
    assert all(" of " in name and name.startswith("link 1 ") for name in used), used
    assert 1 <= len(used) <= 2 and sum(used.values()) == 20, used
    print(use(1)[0] in used)
"""


def test_those_of_a_script_travel_by_value_and_arrive_once_in_each_process(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    env = environment(cluster.url, cluster.key)
    ran = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("False\n", "")


def test_those_of_a_module_travel_by_name() -> None:
    for one in (first, third, mine, jobs):
        assert pickle.loads(pickle.dumps(one)) is one
    assert len(pickle.dumps(mine)) < 150


# Outside of workers


def test_outside_of_workers_each_thread_has_its_own_which_is_closed_with_it() -> None:
    mine.n = 1
    seen: list[Any] = []

    def run() -> None:
        seen.extend((fresh(), fresh(), hasattr(mine, "n")))
        mine.n = 2

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen[0] is seen[1]
    assert seen[0] is not fresh()
    assert (seen[0].closed, seen[2], mine.n) == (True, False, 1)
    fresh.discard()
    del mine.n
    with pytest.raises(AttributeError, match="'n'"):
        del mine.n


def test_one_that_outlives_its_module_ends_in_silence() -> None:
    program = (
        "import sys; from lastcall import place, resource\n"
        "opened = resource(lambda: 'open', close=lambda one: print('closed'))\n"
        "print(opened())\n"
        "sys.kept = place  # so that it ends as one does that others refer to: its names become None, one by one\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment(None, None), capture_output=True, text=True, timeout=60
    )
    assert (ended.stdout.split(), ended.stderr, ended.returncode) == (["open", "closed"], "", 0)


def test_a_fork_neither_uses_nor_closes_its_parents_resource() -> None:
    link = fresh()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b"own" if fresh() is not link and not link.closed else b"parents")
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 10) == b"own"
    os.close(reading)
    os.close(writing)
    assert fresh() is link
    fresh.discard()
    assert link.closed


def test_a_resource_that_cannot_be_closed_is_logged_and_the_others_are_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed: list[str] = []

    def broken(name: str) -> None:
        closed.append(name)
        raise OSError("broken pipe")

    made = [lastcall.resource(lambda name=name: name, close=broken) for name in "abc"]
    with taken() as place:
        assert [one() for one in made] == ["a", "b", "c"]
        place.close()
    assert closed == ["c", "b", "a"]
    assert caplog.text.count("broken pipe") == 3


def test_resources_of_scripts_do_not_pile_up_in_a_slot() -> None:
    closed: list[int] = []
    with taken() as place:
        kept = lastcall.resource(lambda: "kept", close=closed.append)
        for number in range(150):
            one = lastcall.resource(lambda number=number: number, close=closed.append)
            one._module = "__main__"
            assert one() == number
            assert kept() == "kept"
        assert closed == list(range(50))
        place.close()
    assert closed[50:-1] == list(range(149, 49, -1))
    assert closed[-1] == "kept"


class Shared(lastcall.local, per="job"):
    times = 0

    def __init__(self, start: int, *, step: int = 1) -> None:
        self.n = start
        self.step = step
        Shared.times += 1

    @property
    def next(self) -> int:
        self.n += self.step
        return self.n


def test_a_subclass_is_set_up_once_in_each_slot() -> None:
    state = Shared(10, step=5)
    assert (state.next, state.next, Shared.times) == (15, 20, 1)
    with taken():
        assert (state.next, state.n, Shared.times) == (15, 15, 2)
    assert (state.n, vars(state)) == (20, {"n": 20, "step": 5})
    with pytest.raises(AttributeError):
        state.next = 3  # type: ignore[misc]


class Shy(lastcall.local):
    ready = True

    def __init__(self) -> None:
        self.half = 1
        if not Shy.ready:
            raise OSError("not yet")
        self.whole = 2


@pytest.mark.parametrize("kind", [Shy, type("Theirs", (threading.local,), {"__init__": Shy.__init__})])
def test_one_whose_init_fails_is_set_up_by_the_next_use(kind: Callable[[], Any], monkeypatch: Any) -> None:
    state = kind()
    seen: list[Any] = []

    def use() -> None:
        for ready in (False, True):
            monkeypatch.setattr(Shy, "ready", ready)
            try:
                seen.append(state.whole)
            except OSError as error:
                seen.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == ["not yet", 2]


@pytest.mark.parametrize(
    "make",
    [
        lambda: lastcall.resource(3),  # type: ignore[call-overload]
        lambda: lastcall.resource(_later),
        lambda: lastcall.resource(Link, close=3),  # type: ignore[call-overload]
        lambda: lastcall.local(per="item"),
        lambda: type("Bad", (lastcall.local,), {}, per="thread"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(errors.ConfigError, match="must be"):
        make()


async def _later() -> None:
    pass
