"""Functions on workers that put into queues, and get from them: a slot that waits there does what it waits for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lastcall import Client, JoinableQueue, Queue
from tests.conftest import Cluster, start_server
from tests.functions import get_one, put_all
from tests.workers import Worker, until

pytestmark = pytest.mark.integration

KEY = "a key for queues on workers"
DEEP = 5


@pytest.fixture(scope="module")
def one() -> Iterator[Cluster]:
    """A worker with one slot."""
    server = start_server(tcp=False)
    with Worker(server.unix_url, KEY, "one", queues="cpu", pool="threads", slots=1) as worker:
        worker.ready()
        yield Cluster(server, server.unix_url, KEY, (worker,))
    server.close()


@pytest.fixture
def client(one: Cluster) -> Iterator[Client]:
    with one.client() as client:
        yield client


def put_and_join(queue: Any, item: Any) -> str:
    queue.put(item)
    queue.join(timeout=30)
    return "joined"


def get_and_mark(queue: Any) -> Any:
    item = queue.get(timeout=30)
    queue.task_done()
    return item


def test_a_get_in_the_only_slot_gets_what_a_call_behind_it_puts(client: Client) -> None:
    queue: Queue[int] = Queue(client=client)
    got = client.submit(get_one, queue)
    client.submit(put_all, queue, [7])
    assert got.result(25) == 7


def test_a_put_in_the_only_slot_has_room_when_a_call_behind_it_gets(client: Client) -> None:
    queue: Queue[int] = Queue(1, client=client)
    put = client.submit(put_all, queue, [1, 2, 3])
    got = [client.submit(get_one, queue) for _ in range(3)]
    assert put.result(25) == 3
    assert sorted(future.result(25) for future in got) == [1, 2, 3]


def test_a_join_in_the_only_slot_ends_when_a_call_behind_it_has_marked_the_item(client: Client) -> None:
    queue: JoinableQueue[int] = JoinableQueue(client=client)
    joined = client.submit(put_and_join, queue, 7)
    assert client.submit(get_and_mark, queue).result(25) == 7
    assert joined.result(25) == "joined"


def test_however_many_wait_in_one_slot_each_gets_an_item(client: Client) -> None:
    queue: Queue[int] = Queue(client=client)
    got = [client.submit(get_one, queue) for _ in range(80)]  # more than one slot runs in place of one another
    until(lambda: queue._ledger.status().started >= DEEP, "calls to wait in place of one another")
    put_all(queue, list(range(80)))
    assert sorted(future.result(60) for future in got) == list(range(80))
