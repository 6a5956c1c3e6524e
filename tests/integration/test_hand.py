"""A ticket's hand: chunks that are under way stay in it while others are completed and claimed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from lastcall.state.ledger import Ledger
from tests.integration.ledger_server import ledger_server
from tests.integration.test_ledger import counters, filled, ids, make, put, ready, take, whole

pytestmark = pytest.mark.integration


@pytest.fixture
def redis() -> Iterator[Redis]:
    with ledger_server() as client:
        yield client


def alone(queue: Ledger, chunks: int) -> str:
    """The ticket of a queue that has one."""
    lease = queue.join("p")
    (ticket,) = put(queue, "p", lease.epoch, 1, *[1] * chunks, cap=1).tickets
    queue.leave("p", lease.epoch)
    return str(ticket)


def test_others_are_claimed_beside_what_is_known(redis: Redis) -> None:
    queue = make(redis)
    ticket = alone(queue, 4)
    first = take(queue, ticket, 2)
    assert ids(first) == ["1-1", "1-2"]
    more = take(queue, ticket, 1, *whole(first)[:1], known=1)
    assert ids(more) == ["1-3"]
    assert counters(queue) == {"put": 4, "ready": 1, "leased": 2, "done": 1}
    assert ids(take(queue, ticket, 0, known=2)) == []
    # Those that it does not know are given again, in the order in which they were claimed: all, if it knows none.
    assert ids(take(queue, ticket, 5, known=1)) == ["1-3"]
    assert ids(take(queue, ticket, 5)) == ["1-2", "1-3"]


def test_a_claim_whose_reply_was_lost_is_given_again(redis: Redis) -> None:
    queue = make(redis)
    ticket = alone(queue, 3)
    first = take(queue, ticket, 2)
    lost = take(queue, ticket, 1, *whole(first)[1:], known=1)
    again = take(queue, ticket, 1, *whole(first)[1:], known=1)
    assert again == lost
    assert counters(queue) == {"put": 3, "leased": 2, "done": 1}


def test_all_of_a_hand_comes_back_with_its_ticket(redis: Redis) -> None:
    queue = make(redis)
    ticket = alone(queue, 3)
    take(queue, ticket, 1)
    take(queue, ticket, 1, known=1)
    queue.release(ticket)
    assert ready(queue) == ["1-1", "1-2", "1-3"]
    assert take(queue, ticket, 1, known=2).lost


def test_a_chunk_that_came_back_from_a_crash_is_not_claimed_beside_others(redis: Redis) -> None:
    queue = make(redis)
    one, two = filled(queue, 1, 1, 1)[:2]
    take(queue, one, 1)
    first = take(queue, two, 1)
    queue.release(one, crashed=True)
    assert ready(queue) == ["1-1", "1-3"]
    assert ids(take(queue, two, 2, known=1)) == []
    assert ready(queue) == ["1-1", "1-3"]
    assert ids(take(queue, two, 2, *whole(first))) == ["1-1"]


def test_a_ticket_leaves_when_its_hand_is_empty(redis: Redis) -> None:
    queue = make(redis)
    ticket = alone(queue, 2)
    hand = take(queue, ticket, 2)
    assert not take(queue, ticket, 0, *whole(hand)[:1], known=1).ended
    assert queue.status().started == 1
    assert take(queue, ticket, 0, *whole(hand)[1:]).ended == ""
    assert queue.status().state == "DRAINED"


def test_a_hand_holds_no_more_items_than_were_asked_for_but_one_chunk(redis: Redis) -> None:
    queue = make(redis)
    lease = queue.join("p")
    (ticket,) = put(queue, "p", lease.epoch, 1, 3, 2, 4, 1, cap=1).tickets
    first = queue.next(ticket, "nonce", 60_000, 10, most_items=5)
    assert ids(first) == ["1-1", "1-2"]
    assert ready(queue) == ["1-3", "1-4"]
    assert counters(queue) == {"put": 10, "ready": 5, "leased": 5}
    # Asked again since the reply was lost, it gives the same.
    assert ids(queue.next(ticket, "nonce", 60_000, 10, most_items=1)) == ["1-1", "1-2"]
    second = queue.next(ticket, "nonce", 60_000, 10, completions=whole(first), most_items=2)
    assert ids(second) == ["1-3"]
    assert ready(queue) == ["1-4"]
