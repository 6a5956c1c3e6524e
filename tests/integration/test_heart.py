"""The heart: which leases a process renews, and which it does not."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import ResponseError

from lastcall import Client, StatusableQueue
from lastcall.errors import ServerUnreachable
from lastcall.state.ledger import Ledger
from tests.conftest import Cluster
from tests.functions import produce, square
from tests.workers import until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


@pytest.fixture
def client(lonely: Cluster) -> Iterator[Client]:
    with lonely.client(lease_s=0.8, reap_s=0.1) as client:
        yield client


def beats(client: Client, n: int) -> None:
    """Wait for `n` whole beats."""
    heart = client._connection.heart
    for _ in range(n + 1):  # the first may be half over
        heart.beaten.clear()
        assert heart.beaten.wait(10)


def state(queue: StatusableQueue[Any]) -> str:
    return queue.status().producers[0].state


def test_leases_of_producers_and_consumers_are_renewed(client: Client) -> None:
    queue = client.queue("renewed")
    with queue.producer() as out, queue.consumer() as consumer:
        out.put(1)
        assert next(consumer) == 1
        beats(client, 12)  # longer than a lease, and reaped all the while
        assert state(queue) == "live"
        assert queue.status().leased == 1
        out.put(2)
        assert next(consumer) == 2


def test_a_queue_whose_lease_cannot_be_renewed_does_not_stop_the_others(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    renew = Ledger.renew

    def broken(self: Ledger, *args: Any) -> Any:
        if self.name == "broken":
            raise ResponseError("WRONGTYPE")
        return renew(self, *args)

    monkeypatch.setattr(Ledger, "renew", broken)
    with caplog.at_level(logging.WARNING, "lastcall.heart"):
        first = client.queue("broken").producer()
        queue = client.queue("sound")
        with queue.producer():
            beats(client, 12)
            client._connection.heart.watch(queue._ledger)
            beats(client, 2)
            assert state(queue) == "live"
            client._connection.heart.unwatch(queue._ledger)
    assert [record.getMessage() for record in caplog.records] == ["leases cannot be renewed now: WRONGTYPE"]
    monkeypatch.undo()
    first.abandon()


def test_the_thread_ends_when_there_is_nothing_to_renew_and_begins_again(client: Client) -> None:
    heart = client._connection.heart
    with client.queue("one").producer():
        thread = heart._thread
        assert thread is not None
    thread.join(10)
    assert not thread.is_alive()
    queue = client.queue("two")
    with queue.producer():
        beats(client, 2)
        assert state(queue) == "live"


def test_a_fork_does_not_renew_its_parents_leases(client: Client) -> None:
    fork = multiprocessing.get_context("fork")
    theirs, mine = client.queue("theirs"), client.queue("mine")
    parents = theirs.producer("parent")
    held, over = fork.Event(), fork.Event()
    child = fork.Process(target=_produce_until, args=(mine, theirs, held, over))
    child.start()
    try:
        assert held.wait(30)
        client._connection.heart.drop_producer(theirs._ledger, "parent", parents._epoch)  # as if the parent were killed
        with client._connection.heart.watching(theirs._ledger), client._connection.heart.watching(mine._ledger):
            until(lambda: state(theirs) == "lost", "the parent's lease to run out")
            beats(client, 12)  # longer than a lease
        assert mine.status().producers[0].name == "child"
        assert state(mine) == "live"
    finally:
        over.set()
        child.join(30)
    assert child.exitcode == 0
    assert mine.status().state == "DRAINED"


def _produce_until(mine: StatusableQueue[int], theirs: StatusableQueue[int], held: Any, over: Any) -> None:
    assert theirs.status().live == 1  # it uses what it inherited
    with mine.producer("child"):
        held.set()
        assert over.wait(60)


def test_a_broker_that_was_never_reached_is_told_and_one_that_is_away_later_is_not(
    lonely: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lonely.client(broker_url="redis://127.0.0.1:1/0") as client:
        connection = client._connection
        monkeypatch.setattr(type(connection), "slots", lambda self, queue: 2)  # so that there are tickets to send
        queue = client.queue("queue", square)
        out = queue.producer()
        out.put(1)
        with pytest.raises(ServerUnreachable, match=r"redis://127\.0\.0\.1:1/0"):
            out.flush(30)
        out.abandon()
        with pytest.raises(ServerUnreachable, match=r"redis://127\.0\.0\.1:1/0"):
            client.map(square, [1])
        connection._has_sent = True
        with caplog.at_level(logging.WARNING, "lastcall.connection"):
            second = client.queue("second", square)
            produce(second, None, [1])
        assert second.status().ready == 1
        (record,) = caplog.records
        assert record.getMessage().startswith("tickets for queue second/second are not sent now: ")
