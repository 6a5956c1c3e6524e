"""Sending tickets: as Celery's own messages, from threads and forks, past restarts, with an error when it cannot be."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Queue

from lastcall.errors import ServerOutOfMemory, ServerUnreachable, WrongPassword
from lastcall.settings import Settings
from lastcall.tickets import SLOT_TASK, TicketSender
from tests.integration.worker_process import emptied, worker_server
from tests.servers import Server

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with worker_server() as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    server = emptied(shared)
    server.client().config_set("maxmemory", 0)
    return server


def broker(url: str) -> str:
    url_of_broker = Settings.load(url).broker
    assert url_of_broker is not None
    return url_of_broker


@pytest.fixture(params=["tcp_url", "unix_url"])
def sender(server: Server, request: pytest.FixtureRequest) -> Iterator[TicketSender]:
    sender = TicketSender(broker(getattr(server, request.param)))
    yield sender
    sender.close()


def received(server: Server, celery_queue: str, number: int) -> list[Any]:
    """Take messages from a queue as a worker does."""
    messages: list[Any] = []
    with (
        Connection(broker(server.url)) as connection,
        Consumer(connection, [Queue(celery_queue)], callbacks=[lambda _, message: messages.append(message)]),
    ):
        while len(messages) < number:
            connection.drain_events(timeout=5)
        for message in messages:
            message.ack()
    return messages


def test_a_ticket_is_a_celery_task_message(server: Server, sender: TicketSender) -> None:
    sender.send("cpu", "job/frames", ["7"])
    (message,) = received(server, "cpu", 1)
    assert message.content_type == "application/json"
    args, kwargs, embed = message.payload
    assert (args, kwargs) == (["job/frames", "7"], {})
    assert set(embed) == {"callbacks", "errbacks", "chain", "chord"}
    headers = message.headers
    assert (headers["task"], headers["lang"], headers["ignore_result"]) == (SLOT_TASK, "py", True)
    assert headers["id"] == headers["root_id"] == message.properties["correlation_id"]
    assert (headers["eta"], headers["expires"], headers["retries"]) == (None, None, 0)
    assert message.delivery_info["routing_key"] == "cpu"


def test_tickets_arrive_once_each_and_in_order(server: Server, sender: TicketSender) -> None:
    sender.send("cpu", "job/a", ["1", "2", "3"])
    sender.send("cpu", "job/b", ["4"])
    sender.send("cpu", "job/b", [])
    messages = received(server, "cpu", 4)
    assert [message.payload[0] for message in messages] == [
        ["job/a", "1"],
        ["job/a", "2"],
        ["job/a", "3"],
        ["job/b", "4"],
    ]
    assert len({message.headers["id"] for message in messages}) == 4
    assert sender.waiting("cpu") == 0


def test_waiting_counts_the_messages_of_one_queue(server: Server, sender: TicketSender) -> None:
    assert sender.waiting("cpu") == 0
    sender.send("cpu", "job/a", [str(number) for number in range(2_500)])
    sender.send("io", "job/a", ["1"])
    assert [sender.waiting(queue) for queue in ("cpu", "io", "gpu")] == [2_500, 1, 0]


def test_a_restart_of_the_broker_is_bridged(server: Server, sender: TicketSender) -> None:
    sender.send("cpu", "job/a", ["1"])
    server.restart()  # it forgets: nothing is persistent here
    sender.send("cpu", "job/a", ["2", "3"])
    server.restart()
    assert sender.waiting("cpu") == 0
    sender.send("cpu", "job/a", ["4"])
    assert [message.payload[0][1] for message in received(server, "cpu", 1)] == ["4"]


def test_a_broker_that_is_away_is_an_error_in_bounded_time_and_not_for_ever(
    server: Server, sender: TicketSender
) -> None:
    sender.send("cpu", "job/a", ["1"])
    server.kill()
    for ask in (lambda: sender.send("cpu", "job/a", ["2"]), lambda: sender.waiting("cpu")) * 2:
        began = time.monotonic()
        with pytest.raises(ServerUnreachable) as caught:
            ask()
        assert time.monotonic() - began < 5
        assert "start it" in str(caught.value)
    server.start()
    sender.send("cpu", "job/a", ["3", "4"])
    assert sender.waiting("cpu") == 2


def test_a_broker_that_refuses_is_an_error_that_says_why(server: Server, sender: TicketSender) -> None:
    server.client().config_set("maxmemory", 1)
    with pytest.raises(ServerOutOfMemory, match=r"no memory left \(.*maxmemory"):
        sender.send("cpu", "job/a", ["1"])
    server.client().config_set("maxmemory", 0)
    sender.send("cpu", "job/a", ["1"])
    assert sender.waiting("cpu") == 1


def test_a_wrong_password_is_named_and_not_shown() -> None:
    with worker_server(requirepass="the right one") as server:
        sender = TicketSender(broker(f"redis://:the%20wrong%20one@127.0.0.1:{server.port}/0"))
        with pytest.raises(WrongPassword) as caught:
            sender.send("cpu", "job/a", ["1"])
    assert "wrong%20one" not in str(caught.value)
    assert "wrong one" not in str(caught.value)


def test_threads_share_a_sender(server: Server, sender: TicketSender) -> None:
    def send(thread: int) -> None:
        for number in range(25):
            sender.send("cpu", "job/a", [f"{thread}-{number}", f"{thread}-{number}b"])

    threads = [threading.Thread(target=send, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tickets = [message.payload[0][1] for message in received(server, "cpu", 400)]
    assert len(set(tickets)) == 400
    assert [ticket for ticket in tickets if ticket.startswith("3-")][:4] == ["3-0", "3-0b", "3-1", "3-1b"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_sends_through_a_connection_of_its_own(server: Server, sender: TicketSender) -> None:
    sender.send("cpu", "job/a", ["parent"])
    link = sender._link
    with link.lock:  # as if another thread were sending at the moment of the fork
        pid = os.fork()
        if pid == 0:
            try:
                sender.send("cpu", "job/a", ["child"])
            finally:
                os._exit(0 if sender.waiting("cpu") == 2 else 1)
        assert os.waitpid(pid, 0)[1] == 0
    sender.send("cpu", "job/a", ["parent again"])
    assert sender._link is link
    tickets = [message.payload[0][1] for message in received(server, "cpu", 3)]
    assert tickets == ["parent", "child", "parent again"]


def test_a_queue_that_is_there_stays_what_it_is_and_one_that_is_not_is_declared() -> None:
    with Connection("memory://") as connection:
        channel = connection.channel()
        theirs = Queue("theirs", Exchange("theirs", "topic"), routing_key="theirs.#")(channel)
        theirs.declare()
        sender = TicketSender("memory://")
        for name in ("theirs", "not-yet"):
            assert sender.waiting(name) == 0
            sender.send(name, "job/a", ["1", "2"])
            assert sender.waiting(name) == 2
        assert channel.queue_declare("not-yet", passive=True).message_count == 2
        sender.close()
