"""Every transition of the ledger, one at a time, on a real server.

Nothing here waits for time to pass: what should expire gets a deadline that has passed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError

from lastcall.errors import LeaseLost, QueueFinished, QueueMismatch, UnknownJob
from lastcall.state import keys
from lastcall.state.ledger import Ledger, queues_of
from lastcall.state.records import (
    Again,
    Chunk,
    Claim,
    Completion,
    Output,
    Spec,
)
from tests.integration.ledger_server import ledger_server
from tests.workers import until

pytestmark = pytest.mark.integration

LONG_MS = 10**9
CPU = Spec(function=b"f", identity="m:f", celery="cpu")


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with ledger_server() as client:
        yield client


@pytest.fixture
def redis(server: Redis) -> Redis:
    server.config_set("maxmemory", "0")
    server.flushall()
    return server


def make(redis: Redis, *names: str, job: str = "job", **options: Any) -> Ledger:
    """A queue, the first of `names`, whose outputs go into the second, which is there, and so on."""
    ledger = Ledger(redis, job, names or ("q",))
    ledger.create(
        Spec(**{"function": b"f", "identity": "m:f", "celery": "cpu", **options},
             down=names[1] if len(names) > 1 else "")
    )  # fmt: skip
    return ledger


LETTER = struct.pack("<I", 4) + b"said" + Chunk("", 1, 0, b"letter").record


def key(ledger: Ledger, part: str) -> str:
    return keys.of_queue(ledger.job, ledger.name, part)


def expire(ledger: Ledger, part: str, member: str, ago_ms: int = 1000) -> None:
    """Let a deadline (of leases, tickets, delayed) have passed."""
    seconds, _ = ledger.redis.time()
    assert ledger.redis.zadd(key(ledger, part), {member: seconds * 1000 - ago_ms}, xx=True, ch=True) == 1


def now_ms(redis: Redis) -> int:
    seconds, microseconds = redis.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def put(ledger: Ledger, producer: str, epoch: int, seq: int, *sizes: int, cap: int = 10) -> Any:
    """Put chunks of these sizes, each with its number as its payload."""
    chunks = [(size, b"%d" % (seq + at)) for at, size in enumerate(sizes)]
    return ledger.put(producer, epoch, seq, chunks, cap)


def filled(ledger: Ledger, *sizes: int) -> list[str]:
    """Chunks of a producer that has left. Gives the tickets."""
    lease = ledger.join("filler")
    tickets = put(ledger, "filler", lease.epoch, lease.seq + 1, *sizes).tickets
    ledger.leave("filler", lease.epoch)
    return tickets


def take(ledger: Ledger, ticket: str, want: int = 1, *done: Completion, **others: Any) -> Claim:
    return ledger.next(ticket, f"slot of {ticket}".replace(" ", "-"), LONG_MS, want,
                       completions=done, **others)  # fmt: skip


def whole(claim: Claim, outcome: bytes = b"result") -> list[Completion]:
    """Every item of what was claimed is done."""
    return [Completion(chunk.id, chunk.items, outcome=outcome) for chunk in claim.chunks]


def names_of(redis: Redis) -> list[bytes]:
    """Every key there is, but for those that only wake someone."""
    names: Any = redis.keys()
    return [name for name in names if not name.endswith((b":bell", b":room"))]


def counter(ledger: Ledger, field: str) -> int:
    return int(ledger.meta()[field])


def ids(claim: Claim) -> list[str]:
    return [chunk.id for chunk in claim.chunks]


def ready(ledger: Ledger) -> list[str]:
    return [name.decode() for name in ledger.redis.lrange(key(ledger, "ready"), 0, -1)]


def results(ledger: Ledger) -> list[tuple[str, bytes]]:
    stream: Any = ledger.redis.xrange(key(ledger, "results"))
    return [(name.decode(), data) for _, entry in stream for name, data in entry.items()]


def drain(ledger: Ledger, ticket: str) -> str:
    """Work the queue off. Gives its state."""
    claim = take(ledger, ticket)
    while claim.chunks:
        claim = take(ledger, ticket, 1, *whole(claim))
    return claim.ended


def counters(ledger: Ledger) -> dict[str, int]:
    status = ledger.status()
    names = ("put", "ready", "leased", "delayed", "done", "dead", "cancelled")
    return {name: getattr(status, name) for name in names if getattr(status, name)}


class TestStates:
    def test_new_queue_without_producers_is_not_finished(self, redis: Redis) -> None:
        queue = make(redis)
        _, lost, ended = queue.reap(1, nothing_under_way=True)
        assert (lost, ended, queue.status().state) == ([], False, "NEW")

    def test_first_producer_opens(self, redis: Redis) -> None:
        queue = make(redis)
        queue.join("p")
        assert (queue.status().state, queue.status().live) == ("OPEN", 1)

    def test_last_producer_to_leave_seals_and_the_last_chunk_drains(self, redis: Redis) -> None:
        queue = make(redis)
        first, second = queue.join("p1"), queue.join("p2")
        (ticket,) = put(queue, "p1", first.epoch, 1, 3).tickets
        queue.leave("p1", first.epoch)
        assert queue.status().state == "OPEN"
        queue.leave("p2", second.epoch)
        assert queue.status().state == "SEALED"
        claim = take(queue, ticket)
        assert queue.status().state == "SEALED"
        assert take(queue, ticket, 1, *whole(claim)).ended == "DRAINED"
        assert counters(queue) == {"put": 3, "done": 3}

    def test_leaving_an_empty_queue_drains_it_at_once(self, redis: Redis) -> None:
        queue = make(redis)
        queue.leave("p", queue.join("p").epoch)
        assert queue.status().state == "DRAINED"
        assert results(queue) == [("end", b"DRAINED")]

    def test_sealed_queue_takes_no_new_producer(self, redis: Redis) -> None:
        queue = make(redis)
        filled(queue, 1)
        with pytest.raises(QueueFinished) as raised:
            queue.join("late")
        assert raised.value.state == "SEALED"

    def test_queue_waits_for_the_producers_that_it_expects(self, redis: Redis) -> None:
        queue = make(redis, expected=2)
        queue.leave("p1", queue.join("p1").epoch)
        assert queue.status().state == "OPEN"
        queue.reap(1, nothing_under_way=True)
        assert queue.status().state == "OPEN"
        queue.leave("p1", queue.join("p1").epoch)  # the same again is not a second one
        assert queue.status().state == "OPEN"
        queue.leave("p2", queue.join("p2").epoch)
        assert queue.status().state == "DRAINED"

    def test_seal_ends_an_empty_queue_whoever_is_there(self, redis: Redis) -> None:
        queue = make(redis, expected=5)
        queue.join("p")
        assert queue.seal() == "DRAINED"

    def test_seal_ends_a_new_queue(self, redis: Redis) -> None:
        assert make(redis).seal() == "DRAINED"

    def test_sealed_by_hand_refuses_producers_and_drains_what_is_there(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        (ticket,) = put(queue, "p", lease.epoch, 1, 1).tickets
        assert queue.seal() == queue.seal() == "SEALED"
        with pytest.raises(QueueFinished):
            put(queue, "p", lease.epoch, 2, 1)
        with pytest.raises(QueueFinished):
            queue.join("p")
        assert put(queue, "p", lease.epoch, 1, 1).seq == 1  # resent: it is there
        assert drain(queue, ticket) == "DRAINED"

    @pytest.mark.parametrize("on_lost", ["fail", "wait", "ignore"])
    def test_producer_that_falls_silent_after_seal_is_not_lost(self, redis: Redis, on_lost: str) -> None:
        queue = make(redis, on_lost=on_lost)
        lease = queue.join("silent")
        failed = queue.join("failed")
        (ticket,) = put(queue, "silent", lease.epoch, 1, 1).tickets
        queue.seal()
        expire(queue, "leases", "silent")
        assert queue.leave("failed", failed.epoch, lost=True)
        assert queue.leave("failed", failed.epoch, lost=True)
        queue.reap(1, nothing_under_way=True)
        assert drain(queue, ticket) == "DRAINED"
        assert queue.status().lost == ()

    def test_end_is_published_and_written_once(self, redis: Redis) -> None:
        queue = make(redis)
        with redis.pubsub(ignore_subscribe_messages=True) as listener:
            listener.subscribe(queue.results_key)
            assert listener.get_message(timeout=5) is None  # the subscription itself
            queue.leave("p", queue.join("p").epoch)
            queue.seal()
            queue.cancel()
            queue.reap(1, nothing_under_way=True)
            message = listener.get_message(timeout=5)
            assert message is not None
            assert message["data"] == b"DRAINED"
            assert listener.get_message(timeout=0.0) is None
        assert results(queue) == [("end", b"DRAINED")]

    def test_ended_queue_refuses_everything_by_its_state(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 1)
        drain(queue, ticket)
        for refused in (lambda: queue.join("p"), lambda: put(queue, "filler", 1, 2, 1)):
            with pytest.raises(QueueFinished) as raised:
                refused()
            assert raised.value.state == "DRAINED"
        assert take(queue, ticket).ended == "DRAINED"
        assert queue.enroll("c", "n", LONG_MS) == "DRAINED"
        assert queue.seal() == queue.cancel() == "DRAINED"
        assert queue.release(ticket, cap=5) is None
        assert queue.renew(LONG_MS, [ticket], [("filler", 1)]) == ([ticket], [])
        assert queue.reap(1, nothing_under_way=True) == ([], [], True)

    def test_reap_that_ends_a_queue_says_so(self, redis: Redis) -> None:
        queue = make(redis)
        queue.join("p")
        expire(queue, "leases", "p")
        assert queue.reap(1, nothing_under_way=True) == ([], ["p"], True)

    def test_unknown_queue_is_named(self, redis: Redis) -> None:
        queue = Ledger(redis, "job", ["nothing"])
        for call in (
            queue.status, queue.seal, queue.cancel, lambda: queue.join("p"),
            lambda: queue.enroll("c", "n", 1), lambda: Ledger.open(redis, "job", "nothing"),
        ):  # fmt: skip
            with pytest.raises(UnknownJob) as raised:
                call()
            assert raised.value.job == "job/nothing"
        with pytest.raises(UnknownJob):
            queues_of(redis, "job")
        assert take(queue, "1").lost
        assert redis.keys() == []

    def test_scripts_come_back_after_the_server_forgot_them(self, redis: Redis) -> None:
        queue = make(redis)
        redis.script_flush()
        assert queue.join("p").epoch == 1


class TestProducers:
    def test_lease_tells_where_to_go_on(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        assert (lease.seq, lease.position) == (0, 0)
        put(queue, "p", lease.epoch, 1, 5, 7)
        again = queue.join("p")
        assert again.epoch > lease.epoch
        assert (again.index, again.seq, again.position) == (lease.index, 2, 12)
        assert queue.status().live == 1

    def test_old_epoch_is_refused_after_a_takeover(self, redis: Redis) -> None:
        queue = make(redis)
        old = queue.join("p")
        new = queue.join("p")
        with pytest.raises(LeaseLost):
            put(queue, "p", old.epoch, 1, 1)
        assert not queue.leave("p", old.epoch)
        assert queue.renew(LONG_MS, [], [("p", old.epoch), ("p", new.epoch)]) == ([], ["p"])
        assert put(queue, "p", new.epoch, 1, 1).seq == 1

    def test_unknown_producer_is_refused(self, redis: Redis) -> None:
        queue = make(redis)
        with pytest.raises(LeaseLost):
            put(queue, "p", 1, 1, 1)
        assert not queue.leave("p", 1)
        assert queue.renew(LONG_MS, [], [("p", 1)]) == ([], ["p"])

    def test_resent_put_is_recognised(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        for _ in range(2):
            assert put(queue, "p", lease.epoch, 1, 2, 3).seq == 2
        assert put(queue, "p", lease.epoch, 2, 3, 4).seq == 3  # half of it is new
        assert counters(queue) == {"put": 9, "ready": 9}
        assert queue.status().producers[0].position == 9
        assert ready(queue) == [f"{lease.index}-{n}" for n in (1, 2, 3)]

    def test_resent_put_is_recognised_whatever_came_since(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        (ticket,) = put(queue, "p", lease.epoch, 1, 1).tickets
        expire(queue, "leases", "p")
        queue.reap(0, nothing_under_way=False)
        assert put(queue, "p", lease.epoch, 1, 1).seq == 1
        with pytest.raises(LeaseLost):
            put(queue, "p", lease.epoch, 1, 1, 1)
        assert drain(queue, ticket) == "INCOMPLETE"
        assert put(queue, "p", lease.epoch, 1, 1).seq == 1
        assert counters(queue) == {"put": 1, "done": 1}

    def test_put_that_leaves_out_a_chunk_is_refused(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        with pytest.raises(LeaseLost):
            put(queue, "p", lease.epoch, 2, 1)
        assert put(queue, "p", lease.epoch, 1, 1).seq == 1
        assert ready(queue) == [f"{lease.index}-1"]

    def test_a_founder_has_its_lease_from_the_first_and_is_lost_if_it_never_comes(self, redis: Redis) -> None:
        queue = Ledger(redis, "founded", ["q"])
        assert queue.create(Spec(founder="f", lease_ms=1)) == ("OPEN", 1)
        reaped = queue.reap(0, nothing_under_way=True)
        while not reaped[2]:  # a millisecond may not have passed yet
            reaped = queue.reap(0, nothing_under_way=True)
        assert (reaped[1], queue.status().state) == (["f"], "INCOMPLETE")
        queue = Ledger(redis, "founded", ["p"])
        queue.create(Spec(founder="f", lease_ms=LONG_MS))
        lease = queue.join("f")
        assert (lease.index, lease.epoch, lease.seq, lease.position, lease.place) == (1, 2, 0, 0, 1)
        assert queue.leave("f", lease.epoch)
        assert queue.status().state == "DRAINED"

    def test_thousands_of_chunks_in_one_put(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        assert put(queue, "p", lease.epoch, 1, *[1] * 9001).seq == 9001
        assert len(ready(queue)) == redis.hlen(key(queue, "chunks")) == 9001
        assert Chunk.stored("", redis.hget(key(queue, "chunks"), f"{lease.index}-9001")).payload == b"9001"

    def test_leave_may_be_sent_again(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        filled(queue, 1)
        assert queue.leave("p", lease.epoch)
        assert queue.leave("p", lease.epoch)
        assert queue.status().live == 0

    def test_put_after_leaving_is_refused(self, redis: Redis) -> None:
        queue = make(redis)
        queue.join("other")
        lease = queue.join("p")
        queue.leave("p", lease.epoch)
        with pytest.raises(LeaseLost):
            put(queue, "p", lease.epoch, 1, 1)

    def test_lost_producer_ends_the_queue_incomplete(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        (ticket,) = put(queue, "p", lease.epoch, 1, 1).tickets
        expire(queue, "leases", "p")
        assert queue.reap(0, nothing_under_way=False)[1] == ["p"]
        assert queue.status().state == "SEALED"
        assert not queue.leave("p", lease.epoch)
        assert drain(queue, ticket) == "INCOMPLETE"
        assert [name for name, _ in queue.status().lost] == ["p"]
        assert results(queue)[-1] == ("end", b"INCOMPLETE")

    def test_failed_producer_ends_the_queue_incomplete(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        assert queue.leave("p", lease.epoch, lost=True)
        assert queue.status().state == "INCOMPLETE"
        assert queue.leave("p", lease.epoch, lost=True)

    def test_renewed_lease_is_not_lost(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        expire(queue, "leases", "p")
        assert queue.renew(LONG_MS, [], [("p", lease.epoch)]) == ([], [])
        assert queue.reap(0, nothing_under_way=False) == ([], [], False)
        assert queue.status().live == 1

    def test_renewing_a_lease_that_was_given_back_is_no_loss(self, redis: Redis) -> None:
        queue = make(redis)
        queue.join("other")
        lease = queue.join("p")
        queue.leave("p", lease.epoch)
        assert queue.renew(LONG_MS, [], [("p", lease.epoch)]) == ([], [])
        assert redis.zscore(key(queue, "leases"), "p") is None

    def test_token_may_have_a_lease_of_its_own(self, redis: Redis) -> None:
        queue = make(redis, lease_ms=10)
        queue.join("token", lease_ms=LONG_MS)
        deadline = redis.zscore(key(queue, "leases"), "token")
        seconds, _ = redis.time()
        assert deadline > seconds * 1000 + LONG_MS / 2
        queue.join("token")  # the producer that it was taken out for
        assert redis.zscore(key(queue, "leases"), "token") < deadline

    def test_ignored_loss_counts_as_closed(self, redis: Redis) -> None:
        queue = make(redis, on_lost="ignore")
        lease = queue.join("p")
        (ticket,) = put(queue, "p", lease.epoch, 1, 1).tickets
        expire(queue, "leases", "p")
        assert queue.reap(0, nothing_under_way=False)[1] == ["p"]
        assert drain(queue, ticket) == "DRAINED"

    @pytest.mark.parametrize("how", ["renew", "put", "join", "leave"])
    @pytest.mark.parametrize("gone", ["silent", "failed"])
    def test_waited_for_producer_may_come_back(self, redis: Redis, how: str, gone: str) -> None:
        queue = make(redis, on_lost="wait")
        lease = queue.join("p")
        put(queue, "p", lease.epoch, 1, 4)
        if gone == "silent":
            expire(queue, "leases", "p")
            assert queue.reap(0, nothing_under_way=False)[1] == ["p"]
            assert queue.reap(0, nothing_under_way=False)[1] == []  # it is told once
        else:
            for _ in range(2):
                assert queue.leave("p", lease.epoch, lost=True)
        status = queue.status()
        assert (status.state, status.live, status.producers[0].state) == ("OPEN", 1, "absent")
        if how == "leave":
            assert queue.leave("p", lease.epoch)
            assert queue.status().state == "SEALED"
            assert queue.status().lost == ()
            return
        if how == "renew":
            assert queue.renew(LONG_MS, [], [("p", lease.epoch)]) == ([], [])
        elif how == "put":
            assert put(queue, "p", lease.epoch, 2, 1).seq == 2
        else:
            back = queue.join("p")
            assert (back.seq, back.position) == (1, 4)
        status = queue.status()
        assert (status.state, status.live, status.producers[0].state) == ("OPEN", 1, "live")
        assert queue.reap(0, nothing_under_way=False)[1] == []

    def test_status_says_for_how_long_an_absent_producer_has_been_silent(self, redis: Redis) -> None:
        queue = make(redis, on_lost="wait", lease_ms=10_000)
        queue.join("p")
        seconds, _ = redis.time()
        redis.zadd(key(queue, "leases"), {"p": (seconds - 90) * 1000})
        queue.reap(0, nothing_under_way=False)
        assert 99 <= queue.status().producers[0].silent_s <= 110

    def test_lost_producer_may_come_back_while_work_is_left(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        (ticket,) = put(queue, "p", lease.epoch, 1, 2).tickets
        queue.leave("p", lease.epoch, lost=True)
        assert queue.status().state == "SEALED"
        with pytest.raises(QueueFinished):
            queue.join("somebody-new")
        back = queue.join("p")
        assert (back.seq, back.position, queue.status().state) == (1, 2, "OPEN")
        queue.leave("p", back.epoch)
        assert drain(queue, ticket) == "DRAINED"


class TestRoom:
    def test_full_takes_what_fits_and_rings_when_there_is_room(self, redis: Redis) -> None:
        queue = make(redis, maxsize=5)
        lease = queue.join("p")
        taken = put(queue, "p", lease.epoch, 1, 2, 2, 2)
        assert (taken.full, taken.seq, taken.room) == (True, 2, 1)
        assert redis.llen(queue.room_key) == 0
        claim = take(queue, taken.tickets[0])
        assert redis.llen(queue.room_key) == 0  # claimed is still outstanding
        take(queue, taken.tickets[0], 0, *whole(claim))
        assert redis.llen(queue.room_key) == 1
        taken = put(queue, "p", lease.epoch, 3, 2)
        assert (taken.full, taken.seq, taken.room) == (False, 3, 1)

    def test_put_without_bound_has_no_room_to_tell(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        assert put(queue, "p", lease.epoch, 1, 1000).room == -1

    def test_bound_counts_what_is_outstanding_downstream(self, redis: Redis) -> None:
        last = make(redis, "b")
        first = make(redis, "a", "b", maxsize=2)
        lease = first.join("p")
        (ticket, *_) = put(first, "p", lease.epoch, 1, 1, 1).tickets
        claim = take(first, ticket)
        outputs = [Output("out", 1, b"x")]
        done = Completion(claim.chunks[0].id, 1, outputs=outputs)
        (downstream,) = take(first, ticket, 0, done, downstream_cap=1).downstream_tickets
        assert put(first, "p", lease.epoch, 3, 1).full
        redis.delete(first.room_key)
        claim = take(last, downstream)
        take(last, downstream, 0, *whole(claim))
        assert redis.llen(first.room_key) == 1
        assert not put(first, "p", lease.epoch, 3, 1).full

    def test_unread_results_hold_producers_back_until_they_are_acknowledged(self, redis: Redis) -> None:
        queue = make(redis, maxsize=3, results="once")
        lease = queue.join("p")
        ticket = put(queue, "p", lease.epoch, 1, 3).tickets[0]
        claim = take(queue, ticket)
        take(queue, ticket, 0, *whole(claim))
        assert queue.status().unread == 3
        assert put(queue, "p", lease.epoch, 2, 1).full
        entry = redis.xrange(queue.results_key)[-1][0].decode()
        redis.delete(queue.room_key)
        for _ in range(2):  # acknowledged twice, counted once
            queue.ack(entry, 3)
        assert redis.llen(queue.room_key) == 1
        assert (queue.status().unread, results(queue)) == (0, [])
        assert put(queue, "p", lease.epoch, 2, 3).room == 0

    def test_a_slot_is_told_when_what_is_to_be_tried_again_is_due(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        ticket = put(queue, "p", lease.epoch, 1, 1, 1).tickets[0]
        (chunk,) = take(queue, ticket).chunks
        (other,) = take(queue, ticket, 1, Completion(chunk.id, 0, again=[Again(0, 1, LONG_MS, b"x")])).chunks
        assert take(queue, ticket).chunks == [other]
        claim = take(queue, ticket, 1, Completion(other.id, 0, again=[Again(0, 1, 600, b"y")]))
        assert claim.chunks == []
        assert 0 < claim.wait_ms <= 600
        queue.cancel()

    def test_what_is_due_later_is_not_waited_for(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        ticket = put(queue, "p", lease.epoch, 1, 1).tickets[0]
        (chunk,) = take(queue, ticket).chunks
        claim = take(queue, ticket, 1, Completion(chunk.id, 0, again=[Again(0, 1, LONG_MS, b"x")]))
        assert (claim.chunks, claim.wait_ms) == ([], 0)

    def test_items_that_are_tried_again_count_as_unread_once(self, redis: Redis) -> None:
        queue = make(redis, maxsize=4, results="once")
        lease = queue.join("p")
        ticket = put(queue, "p", lease.epoch, 1, 4).tickets[0]
        (chunk,) = take(queue, ticket).chunks
        again = [Again(2, 1, 0, b"x")]
        claim = take(queue, ticket, 1, Completion(chunk.id, 2, dead=1, outcome=b"o", again=again))
        assert queue.status().unread == 3
        take(queue, ticket, 0, *whole(claim))
        assert queue.status().unread == 4
        queue.ack(redis.xrange(queue.results_key)[-1][0].decode(), 4)
        assert put(queue, "p", lease.epoch, 2, 4).room == 0

    def test_bytes_are_bounded_but_for_a_chunk_on_its_own(self, redis: Redis) -> None:
        queue = make(redis, maxbytes=10)
        lease = queue.join("p")
        chunks = [(1, b"x" * 50), (1, b"y")]
        taken = queue.put("p", lease.epoch, 1, chunks, 1)
        assert (taken.full, taken.seq) == (True, 1)
        claim = take(queue, taken.tickets[0])
        take(queue, taken.tickets[0], 1, *whole(claim))
        taken = queue.put("p", lease.epoch, 2, [(1, b"y" * 10)], 1)
        assert not taken.full
        assert queue.put("p", lease.epoch, 3, [(1, b"z")], 1).full

    def test_put_of_nothing_asks_for_room(self, redis: Redis) -> None:
        queue = make(redis, maxsize=2)
        lease = queue.join("p")
        asked = put(queue, "p", lease.epoch, 1)
        assert (asked.full, asked.seq, asked.room, asked.tickets) == (False, 0, 2, [])
        ticket = put(queue, "p", lease.epoch, 1, 2).tickets[0]
        asked = put(queue, "p", lease.epoch, 2)
        assert (asked.full, asked.seq, asked.room) == (True, 1, 0)
        claim = take(queue, ticket)
        take(queue, ticket, 1, *whole(claim))
        assert redis.llen(queue.room_key) == 1
        queue.seal()
        with pytest.raises(QueueFinished):
            put(queue, "p", lease.epoch, 2)

    def test_asking_again_and_again_leaves_few_tokens(self, redis: Redis) -> None:
        queue = make(redis, maxsize=1)
        lease = queue.join("p")
        ticket = put(queue, "p", lease.epoch, 1, 1).tickets[0]
        for _ in range(1000):
            assert put(queue, "p", lease.epoch, 2, 1).full
        claim = take(queue, ticket)
        take(queue, ticket, 1, *whole(claim))
        assert 1 <= redis.llen(queue.room_key) <= 256
        assert redis.pttl(queue.room_key) > 0

    def test_end_and_seal_wake_blocked_producers(self, redis: Redis) -> None:
        for end in ("seal", "cancel"):
            redis.flushall()
            queue = make(redis, maxsize=1)
            lease = queue.join("p")
            assert put(queue, "p", lease.epoch, 1, 1, 1).full
            getattr(queue, end)()
            assert redis.llen(queue.room_key) == 1


class TestClaims:
    def test_oldest_first_with_all_that_a_slot_needs(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket, *_) = filled(queue, 3, 4)
        (chunk,) = take(queue, ticket).chunks
        assert (chunk.id, chunk.items, chunk.start, chunk.tries) == ("1-1", 3, 0, 0)
        assert (chunk.payload, chunk.root) == (b"1", "1-1")
        assert counters(queue) == {"put": 7, "ready": 4, "leased": 3}

    def test_several_chunks_but_no_more_than_a_fair_share(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        first, second = put(queue, "p", lease.epoch, 1, *[1] * 7, cap=2).tickets
        assert ids(take(queue, first, 100)) == ["1-1", "1-2", "1-3", "1-4"]
        assert ids(take(queue, second, 100)) == ["1-5", "1-6"]

    def test_what_is_in_hand_is_given_again(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        (ticket,) = put(queue, "p", lease.epoch, 1, 1, 2, 3, cap=1).tickets
        claim = take(queue, ticket, 2)
        for want in (2, 1, 0, 5):
            assert take(queue, ticket, want).chunks == claim.chunks
        assert counters(queue) == {"put": 6, "ready": 3, "leased": 3}

    def test_another_slot_with_the_same_ticket_is_fenced_off(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 1)
        claim = take(queue, ticket)
        assert queue.next(ticket, "another", LONG_MS, 1, completions=whole(claim)).lost
        assert counters(queue) == {"put": 1, "leased": 1}
        assert results(queue) == []

    def test_ticket_that_nobody_issued_is_refused(self, redis: Redis) -> None:
        queue = make(redis)
        filled(queue, 1)
        assert take(queue, "999").lost
        assert redis.hlen(key(queue, "held")) == 0

    def test_ticket_is_leased_when_its_slot_starts(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 1)
        expire(queue, "tickets", ticket)
        take(queue, ticket)
        seconds, _ = redis.time()
        assert redis.zscore(key(queue, "tickets"), ticket) > seconds * 1000 + LONG_MS / 2

    def test_completing_and_claiming_is_one_call(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket, *_) = filled(queue, 1, 1)
        claim = take(queue, ticket)
        claim = take(queue, ticket, 1, *whole(claim))
        assert ids(claim) == ["1-2"]
        assert results(queue) == [("1-1", b"Oresult")]

    def test_completion_that_is_sent_again_counts_once(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        (ticket, *_) = put(queue, "p", lease.epoch, 1, 2, 2).tickets
        done = Completion(take(queue, ticket).chunks[0].id, 1, 1, b"o", letters=[("1-1#1", b"l")])
        before = take(queue, ticket, 1, done, busy_us=100)
        assert take(queue, ticket, 1, done, done, busy_us=100).chunks == before.chunks
        assert counters(queue) == {"put": 4, "leased": 2, "done": 1, "dead": 1}
        assert results(queue) == [("1-1", b"Oo")]
        assert put(queue, "p", lease.epoch, 3, 1).cost_us == 50

    def test_part_of_a_hand_may_be_completed(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        (ticket,) = put(queue, "p", lease.epoch, 1, 1, 1, 1, 1, cap=1).tickets
        claim = take(queue, ticket, 3)
        rest = take(queue, ticket, 3, whole(claim)[1])
        assert ids(rest) == ["1-1", "1-3"]
        assert counters(queue) == {"put": 4, "ready": 1, "leased": 2, "done": 1}

    def test_want_nothing_gives_the_ticket_back(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        (ticket,) = put(queue, "p", lease.epoch, 1, 1, cap=1).tickets
        claim = take(queue, ticket)
        assert take(queue, ticket, 0, *whole(claim)) == Claim([], [], [])
        assert take(queue, ticket).lost
        assert (queue.status().tickets, queue.status().started) == (0, 0)

    def test_lost_ticket_completes_nothing(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 2)
        claim = take(queue, ticket)
        expire(queue, "tickets", ticket)
        (other,) = queue.reap(1, nothing_under_way=False)[0]
        assert take(queue, ticket, 1, *whole(claim)).lost
        assert counters(queue) == {"put": 2, "ready": 2}
        again = take(queue, other)
        assert (ids(again), again.chunks[0].tries) == (ids(claim), 1)
        assert take(queue, ticket, 1, *whole(claim)).lost
        assert drain(queue, other) == "DRAINED"
        assert results(queue) == [("1-1", b"Oresult"), ("end", b"DRAINED")]

    def test_expired_ticket_is_good_until_it_is_reaped(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 1)
        claim = take(queue, ticket)
        expire(queue, "tickets", ticket)
        assert take(queue, ticket, 1, *whole(claim)).ended == "DRAINED"

    def test_renewed_ticket_is_not_reaped(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 1)
        take(queue, ticket)
        expire(queue, "tickets", ticket)
        assert queue.renew(LONG_MS, [ticket, "999"]) == (["999"], [])
        queue.reap(1, nothing_under_way=True)
        assert counters(queue) == {"put": 1, "leased": 1}

    def test_consumers_take_out_their_own_tickets(self, redis: Redis) -> None:
        queue = make(redis, function=b"", identity="", celery="")
        lease = queue.join("p")
        assert put(queue, "p", lease.epoch, 1, 1, 1).tickets == []
        for _ in range(2):
            assert queue.enroll("c1", "n1", LONG_MS) == ""
        assert queue.enroll("c2", "n2", LONG_MS) == ""
        claim = queue.next("c1", "n1", LONG_MS, 1)
        assert queue.next("c1", "n2", LONG_MS, 1).lost
        queue.leave("p", lease.epoch)
        other = queue.next("c2", "n2", LONG_MS, 1)
        last = queue.next("c1", "n1", LONG_MS, 1, completions=[Completion(ids(claim)[0], 1)])
        assert (last.chunks, last.ended) == ([], "")  # the other may still fail
        done = [Completion(ids(other)[0], 1)]
        assert queue.next("c2", "n2", LONG_MS, 1, completions=done).ended == "DRAINED"
        assert results(queue) == [("end", b"DRAINED")]

    def test_silent_consumer_gives_its_chunk_to_another(self, redis: Redis) -> None:
        queue = make(redis, function=b"", identity="", celery="")
        filled(queue, 1)
        queue.enroll("c1", "n1", LONG_MS)
        claim = queue.next("c1", "n1", LONG_MS, 1)
        expire(queue, "tickets", "c1")
        assert queue.reap(0, nothing_under_way=False) == ([], [], False)
        queue.enroll("c2", "n2", LONG_MS)
        assert ids(queue.next("c2", "n2", LONG_MS, 1)) == ids(claim)


class TestGivingBack:
    def test_one_that_is_given_up_where_errors_are_results_is_done_and_has_failed(self, redis: Redis) -> None:
        queue = make(redis, crash_limit=1, on_error="return")
        (ticket,) = filled(queue, 1)
        take(queue, ticket)
        queue.release(ticket, crashed=True)
        status = queue.status()
        assert (status.state, status.done, status.failed, status.dead) == ("DRAINED", 1, 1, 0)
        assert queue.create(Spec(on_error="return", reopen=True))[0] == "NEW"
        assert queue.status().failed == 0

    def test_returned_hand_is_in_front_in_its_order(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        (ticket,) = put(queue, "p", lease.epoch, 1, 1, 1, 1, cap=1).tickets
        take(queue, ticket, 2)
        assert queue.release(ticket, cap=5) == ["2", "3", "4"]
        assert ready(queue) == ["1-1", "1-2", "1-3"]
        assert counters(queue) == {"put": 3, "ready": 3}
        assert take(queue, "2").chunks[0].tries == 0
        assert queue.release(ticket, cap=5) is None  # again: it is not there any more

    def test_ticket_that_holds_nothing_ends(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 1)
        assert queue.release(ticket, crashed=True, cap=1) == ["2"]  # sent, and never started
        assert take(queue, ticket).lost

    def test_processed_items_of_the_first_chunk_are_done(self, redis: Redis) -> None:
        queue = make(redis, celery="")
        filled(queue, 5, 1)
        queue.enroll("c", "n", LONG_MS)
        queue.next("c", "n", LONG_MS, 1)
        queue.release("c", processed=3)
        assert ready(queue) == ["1-1/3:5", "1-2"]
        assert counters(queue) == {"put": 6, "ready": 3, "done": 3}
        queue.enroll("d", "n", LONG_MS)
        (chunk,) = queue.next("d", "n", LONG_MS, 1).chunks
        assert (chunk.items, chunk.start, chunk.payload, chunk.root) == (2, 3, b"1", "1-1")
        queue.release("d", processed=2)
        assert counters(queue) == {"put": 6, "ready": 1, "done": 5}
        assert redis.hkeys(key(queue, "chunks")) == [b"1-2"]

    def test_processed_to_the_last_item_drains(self, redis: Redis) -> None:
        queue = make(redis, celery="")
        filled(queue, 2)
        queue.enroll("c", "n", LONG_MS)
        queue.next("c", "n", LONG_MS, 1)
        queue.release("c", processed=2)
        assert queue.status().state == "DRAINED"

    def test_chunk_that_keeps_killing_its_slot_is_halved_until_the_guilty_item_is_dead(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 8)
        guilty, crashes, done = 5, 0, set()
        tickets = [ticket]
        while tickets:
            claim = take(queue, tickets[0])
            (chunk,) = claim.chunks
            items = range(chunk.start, chunk.start + chunk.items)
            assert chunk.payload == b"1"
            if guilty in items:
                tickets = queue.release(tickets[0], crashed=True, cap=1)
                crashes += 1
            else:
                done |= set(items)
                tickets = take(queue, tickets[0], 0, *whole(claim)).tickets
        assert done == set(range(8)) - {guilty}
        assert counters(queue) == {"put": 8, "done": 7, "dead": 1}
        assert queue.status().state == "DRAINED"
        letters: Any = redis.hgetall(key(queue, "dead"))
        assert list(letters) == [b"1-1#5"]
        assert letters[b"1-1#5"][:1] == b"L"
        assert [data for name, data in results(queue) if name == "1-1/5:6"] == [b"L3 \t"]
        assert crashes == 6  # two with all, one with each smaller part that holds it, two alone
        assert redis.exists(key(queue, "chunks")) == 0

    def test_those_in_hand_with_the_guilty_one_go_alone_and_live(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        (ticket,) = put(queue, "p", lease.epoch, 1, 1, 1, 1, 1, cap=1).tickets
        assert len(take(queue, ticket, 3).chunks) == 3
        (ticket,) = queue.release(ticket, crashed=True, cap=1)
        for expected in ("1-1", "1-2", "1-3"):
            claim = take(queue, ticket, 4)
            assert (ids(claim), claim.chunks[0].tries) == ([expected], 1)
            assert take(queue, ticket, 0, *whole(claim)).tickets == [str(int(ticket) + 1)]
            ticket = str(int(ticket) + 1)
        assert counters(queue) == {"put": 4, "ready": 1, "done": 3}

    def test_one_that_was_tried_before_is_not_taken_behind_others(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        put(queue, "p", lease.epoch, 1, 1, 1, 1, cap=0)
        (chunk, *_) = (queue.enroll("x", "n", LONG_MS), queue.next("x", "n", LONG_MS, 1))[1].chunks
        done = Completion(chunk.id, 0, again=[Again(0, 1, 0, b"again", crashes=1)])
        claim = queue.next("x", "n", LONG_MS, 9, completions=[done])
        assert ids(claim) == ["1-2", "1-3"]
        assert ready(queue) == ["1-1/0:1"]
        assert counters(queue) == {"put": 3, "ready": 1, "leased": 2}

    def test_dead_by_crash_shows_no_result_where_none_are_kept(self, redis: Redis) -> None:
        queue = make(redis, results="discard")
        (ticket,) = filled(queue, 1)
        for _ in range(3):
            take(queue, ticket)
            (ticket,) = queue.release(ticket, crashed=True, cap=1) or [""]
        assert results(queue) == [("end", b"DRAINED")]
        assert counters(queue) == {"put": 1, "dead": 1}

    def test_reaped_ticket_counts_as_a_crash(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 1)
        for _ in range(3):
            take(queue, ticket)
            expire(queue, "tickets", ticket)
            tickets, _, ended = queue.reap(1, nothing_under_way=False)
            ticket = tickets[0] if tickets else ""
        assert ended
        assert counters(queue) == {"put": 1, "dead": 1}


def unwatched(ledger: Ledger, ago_ms: int) -> None:
    """Let leases have been looked at last some time ago."""
    seconds, _ = ledger.redis.time()
    ledger.redis.hset(key(ledger, "meta"), "reaped", seconds * 1000 - ago_ms)


class TestOutages:
    @pytest.mark.parametrize("on_lost", ["fail", "wait"])
    def test_who_could_not_renew_while_nobody_looked_keeps_its_lease(self, redis: Redis, on_lost: str) -> None:
        queue = make(redis, on_lost=on_lost)
        lease = queue.join("p")
        (ticket,) = put(queue, "p", lease.epoch, 1, 4).tickets
        held = take(queue, ticket)
        assert queue.reap(1, nothing_under_way=True) == ([], [], False)
        unwatched(queue, 30_000)
        expire(queue, "leases", "p", 15_000)
        expire(queue, "tickets", ticket, 15_000)
        assert queue.reap(1, nothing_under_way=True) == ([], [], False)
        seconds, _ = redis.time()
        for part, member in (("leases", "p"), ("tickets", ticket)):
            assert redis.zscore(key(queue, part), member) > (seconds + 5) * 1000
        assert (queue.status().producers[0].state, queue.status().leased) == ("live", 4)
        assert take(queue, ticket, 1, *whole(held)).chunks == []
        assert counters(queue) == {"put": 4, "done": 4}

    def test_nobody_is_spared_twice_in_a_row(self, redis: Redis) -> None:
        queue = make(redis)
        queue.join("p")
        lost = []
        for _ in range(2):
            unwatched(queue, 30_000)
            expire(queue, "leases", "p")
            lost.append(queue.reap(0, nothing_under_way=False)[1])
        assert lost == [[], ["p"]]

    def test_who_was_silent_before_is_lost(self, redis: Redis) -> None:
        queue = make(redis)
        queue.join("p")
        unwatched(queue, 30_000)
        expire(queue, "leases", "p", 31_000)
        assert queue.reap(0, nothing_under_way=False)[1] == ["p"]

    def test_a_short_pause_spares_nobody(self, redis: Redis) -> None:
        queue = make(redis)
        queue.join("p")
        unwatched(queue, 4_000)  # less than half its lease
        expire(queue, "leases", "p")
        assert queue.reap(0, nothing_under_way=False)[1] == ["p"]

    def test_a_ticket_that_nobody_has_started_is_replaced_all_the_same(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 1)
        unwatched(queue, 30_000)
        expire(queue, "tickets", ticket)
        (other,) = queue.reap(1, nothing_under_way=True)[0]
        assert other != ticket


class TestRetries:
    def test_item_is_tried_again_alone_while_its_siblings_are_complete(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 3)
        claim = take(queue, ticket)
        again = [Again(1, 1, LONG_MS, b"only-this")]
        done = Completion(ids(claim)[0], 2, outcome=b"two", again=again)
        assert take(queue, ticket, 1, done).chunks == []
        assert counters(queue) == {"put": 3, "delayed": 1, "done": 2}
        assert queue.reap(1, nothing_under_way=True)[0] == []
        expire(queue, "delayed", "1-1/1:2")
        (chunk,) = take(queue, ticket).chunks
        assert (chunk.id, chunk.items, chunk.start, chunk.tries) == ("1-1/1:2", 1, 1, 1)
        assert (chunk.payload, chunk.root) == (b"only-this", "1-1")
        # Again, and now it goes on under the same id.
        done = Completion(chunk.id, 0, again=[Again(1, 2, LONG_MS, b"third")])
        assert take(queue, ticket, 1, done).chunks == []
        expire(queue, "delayed", "1-1/1:2")
        (chunk,) = take(queue, ticket).chunks
        assert (chunk.tries, chunk.payload) == (2, b"third")
        dead = Completion(chunk.id, 0, dead=1, outcome=b"error", letters=[("1-1#1", b"letter")])
        assert take(queue, ticket, 1, dead).ended == "DRAINED"
        assert counters(queue) == {"put": 3, "done": 2, "dead": 1}
        assert redis.hgetall(key(queue, "dead")) == {b"1-1#1": b"Sletter"}
        assert [name for name, _ in results(queue)] == ["1-1", "1-1/1:2", "end"]

    def test_queue_does_not_end_while_an_item_is_delayed(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 1)
        claim = take(queue, ticket)
        done = Completion(ids(claim)[0], 0, again=[Again(0, 1, LONG_MS, b"x")])
        assert take(queue, ticket, 0, done).ended == ""
        queue.reap(1, nothing_under_way=True)
        assert queue.status().state == "SEALED"

    def test_reaper_brings_a_ticket_for_what_became_ready(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 1)
        claim = take(queue, ticket)
        done = Completion(ids(claim)[0], 0, again=[Again(0, 1, LONG_MS, b"x")])
        take(queue, ticket, 0, done)
        expire(queue, "delayed", "1-1/0:1")
        (other,) = queue.reap(1, nothing_under_way=True)[0]
        assert drain(queue, other) == "DRAINED"

    def test_without_delay_it_is_ready_at_once(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 1)
        claim = take(queue, ticket)
        done = Completion(ids(claim)[0], 0, again=[Again(0, 1, 0, b"x")])
        assert ids(take(queue, ticket, 1, done)) == ["1-1/0:1"]

    def test_crash_of_a_retried_item_keeps_its_payload(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 3)
        claim = take(queue, ticket)
        done = Completion(ids(claim)[0], 2, again=[Again(1, 1, 0, b"mine")])
        take(queue, ticket, 1, done)
        (ticket,) = queue.release(ticket, crashed=True, cap=1)
        (chunk,) = take(queue, ticket).chunks
        assert (chunk.id, chunk.start, chunk.tries, chunk.payload) == ("1-1/1:2", 1, 2, b"mine")


class TestStages:
    def three(self, redis: Redis, **options: Any) -> tuple[Ledger, Ledger, Ledger]:
        last = make(redis, "c", **options)
        middle = make(redis, "b", "c", **options)
        return make(redis, "a", "b", "c", **options), middle, last

    def test_open_finds_what_lies_downstream(self, redis: Redis) -> None:
        self.three(redis)
        assert Ledger.open(redis, "job", "a").names == ("a", "b", "c")
        assert Ledger.open(redis, "job", "b").names == ("b", "c")
        assert sorted(queues_of(redis, "job")) == ["a", "b", "c"]

    def test_chain_ends_where_a_queue_has_expired(self, redis: Redis) -> None:
        first, middle, last = self.three(redis)
        (ticket,) = filled(first, 1)
        middle.cancel()
        last.cancel()
        for queue in (middle, last):
            redis.delete(*(key(queue, part) for part in ("meta", "producers", "results", "dead")))
        assert Ledger.open(redis, "job", "a").names == ("a",)
        with pytest.raises(UnknownJob):
            Ledger.open(redis, "job", "b")
        for ledger in (first, Ledger.open(redis, "job", "a")):
            claim = take(ledger, ticket)
            ledger.reap(1, nothing_under_way=True)
        done = Completion(ids(claim)[0], 1, outputs=[Output("x", 1, b"o")])
        assert take(first, ticket, 1, done, downstream_cap=1).ended == "DRAINED"
        assert all(redis.pttl(name) > 0 for name in names_of(redis))  # nothing of them came back

    def test_stage_is_a_live_producer_of_the_next(self, redis: Redis) -> None:
        _, middle, _ = self.three(redis)
        status = middle.status()
        assert (status.state, status.live) == ("OPEN", 1)
        assert [(p.name, p.state) for p in status.producers] == [("stage:a", "live")]
        middle.reap(1, nothing_under_way=True)
        assert middle.status().live == 1

    def test_ends_cascade_in_one_script(self, redis: Redis) -> None:
        queues = self.three(redis)
        first = queues[0]
        lease = first.join("p")
        assert [queue.status().state for queue in queues] == ["OPEN"] * 3
        first.leave("p", lease.epoch)
        assert [queue.status().state for queue in queues] == ["DRAINED"] * 3
        assert [results(queue) for queue in queues] == [[("end", b"DRAINED")]] * 3

    def test_outputs_appear_with_the_completion(self, redis: Redis) -> None:
        first, middle, last = self.three(redis)
        (ticket,) = filled(first, 2)
        claim = take(first, ticket)
        outputs = [Output("x", 3, b"out-1"), Output("y", 1, b"out-2")]
        done = Completion(ids(claim)[0], 2, outcome=b"o", outputs=outputs)
        reply = take(first, ticket, 1, done, downstream_cap=5)
        assert (reply.ended, reply.downstream_tickets) == ("DRAINED", ["1", "2"])
        assert (counters(middle), ready(middle)) == ({"put": 4, "ready": 4}, ["x", "y"])
        assert [queue.status().state for queue in (middle, last)] == ["SEALED", "OPEN"]
        (chunk,) = take(middle, "1").chunks
        assert chunk == Chunk("x", 3, 0, b"out-1")
        take(middle, "1", 0, Completion("x", 3, outputs=[Output("z", 1, b"")]), downstream_cap=1)
        claim = take(middle, "2")
        assert take(middle, "2", 1, Completion("y", 1)).ended == "DRAINED"
        assert drain(last, "1") == "DRAINED"

    def test_outputs_are_not_doubled_when_the_reply_was_lost(self, redis: Redis) -> None:
        first, middle, _ = self.three(redis)
        (ticket,) = filled(first, 1)
        claim = take(first, ticket)
        done = Completion(ids(claim)[0], 1, outputs=[Output("x", 1, b"o")])
        for _ in range(2):
            take(first, ticket, 0, done, downstream_cap=5)
        assert (counters(middle), ready(middle)) == ({"put": 1, "ready": 1}, ["x"])
        assert middle.status().tickets == 1

    def test_loss_upstream_makes_all_incomplete(self, redis: Redis) -> None:
        queues = self.three(redis)
        queues[0].join("p")
        expire(queues[0], "leases", "p")
        queues[0].reap(1, nothing_under_way=True)
        assert [queue.status().state for queue in queues] == ["INCOMPLETE"] * 3
        assert [name for name, _ in queues[2].status().lost] == ["stage:b"]

    def test_loss_upstream_may_be_ignored_downstream(self, redis: Redis) -> None:
        last = make(redis, "b", on_lost="ignore")
        first = make(redis, "a", "b")
        first.leave("p", first.join("p").epoch, lost=True)
        assert [queue.status().state for queue in (first, last)] == ["INCOMPLETE", "DRAINED"]

    def test_stage_beside_a_producer(self, redis: Redis) -> None:
        last = make(redis, "b")
        first = make(redis, "a", "b")
        lease = last.join("p")
        first.seal()
        assert (first.status().state, last.status().state) == ("DRAINED", "OPEN")
        last.leave("p", lease.epoch)
        assert last.status().state == "DRAINED"

    def test_two_stages_feed_one_queue(self, redis: Redis) -> None:
        last = make(redis, "b")
        stages = [make(redis, name, "b") for name in ("a1", "a2")]
        stages[0].seal()
        assert last.status().state == "OPEN"
        stages[1].seal()
        assert last.status().state == "DRAINED"

    def test_sealing_a_queue_by_hand_does_not_shut_out_its_stages(self, redis: Redis) -> None:
        last = make(redis, "b")
        first = make(redis, "a", "b")
        (ticket,) = filled(first, 1)
        lease = last.join("p")
        assert last.seal() == "SEALED"
        with pytest.raises(QueueFinished):
            put(last, "p", lease.epoch, 1, 1)
        last.reap(1, nothing_under_way=True)
        claim = take(first, ticket)
        done = Completion(ids(claim)[0], 1, outputs=[Output("x", 1, b"o")])
        (downstream,) = take(first, ticket, 1, done, downstream_cap=1).downstream_tickets
        assert last.status().state == "SEALED"
        assert drain(last, downstream) == "DRAINED"
        assert counters(last) == {"put": 1, "done": 1}

    def test_outputs_for_a_cancelled_queue_go_nowhere(self, redis: Redis) -> None:
        last = make(redis, "b")
        first = make(redis, "a", "b")
        (ticket,) = filled(first, 1)
        claim = take(first, ticket)
        last.cancel()
        done = Completion(ids(claim)[0], 1, outputs=[Output("x", 1, b"o")])
        reply = take(first, ticket, 1, done, downstream_cap=1)
        assert (reply.ended, reply.downstream_tickets) == ("DRAINED", [])
        assert last.status().state == "CANCELLED"
        assert counters(last) == {}
        assert all(redis.pttl(name) > 0 for name in names_of(redis))

    def test_cancelling_leaves_the_queue_downstream_incomplete(self, redis: Redis) -> None:
        queues = self.three(redis)
        filled(queues[0], 1)
        queues[0].cancel()
        states = [queue.status().state for queue in queues]
        assert states == ["CANCELLED", "INCOMPLETE", "INCOMPLETE"]

    def test_letters_of_a_stage_may_be_retried_into_a_queue_that_was_reopened_since(self, redis: Redis) -> None:
        two = make(redis, "two")
        one = make(redis, "one", "two")
        two.cancel()
        (ticket,) = filled(one, 1)
        take(one, ticket)
        assert take(one, ticket, 1, Completion("1-1", 0, 1, letters=[("1-1#0", LETTER)])).ended == "DRAINED"
        two.reopen()
        revived, (ticket,) = one.revive(["1-1#0"], 1)
        assert (revived, one.status().state, two.status().state) == (1, "SEALED", "OPEN")
        (chunk,) = take(one, ticket).chunks
        done = Completion(chunk.id, 1, outputs=[Output("1-x", 1, b"out")])
        last = take(one, ticket, 1, done, downstream_cap=1)
        assert (last.ended, two.status().state) == ("DRAINED", "SEALED")
        assert drain(two, last.downstream_tickets[0]) == "DRAINED"

    @pytest.mark.parametrize("on_lost", ["fail", "wait"])
    def test_a_producer_that_seal_shut_out_has_left_when_letters_are_retried(self, redis: Redis, on_lost: str) -> None:
        queue = make(redis, on_lost=on_lost)
        lease = queue.join("p")
        (ticket,) = put(queue, "p", lease.epoch, 1, 1).tickets
        if on_lost == "wait":
            queue.leave("p", lease.epoch, lost=True)  # which is waited for
        queue.seal()
        take(queue, ticket)
        assert take(queue, ticket, 1, Completion("1-1", 0, 1, letters=[("1-1#0", LETTER)])).ended == "DRAINED"
        _, (ticket,) = queue.revive(["1-1#0"], 1)
        status = queue.status()
        assert (status.state, status.live, [one.state for one in status.producers]) == ("SEALED", 0, ["left"])
        assert not redis.exists(key(queue, "leases"))
        assert queue.renew(LONG_MS, [], [("p", lease.epoch)]) == ([], [])
        assert put(queue, "p", lease.epoch, 1, 1).seq == 1  # what it put before is known as that
        with pytest.raises(QueueFinished):
            put(queue, "p", lease.epoch, 2, 1)
        assert drain(queue, ticket) == "DRAINED"

    def test_downstream_must_be_there_and_open(self, redis: Redis) -> None:
        with pytest.raises(UnknownJob) as unknown:
            make(redis, "a", "b")
        assert unknown.value.job == "job/b"
        last = make(redis, "b")
        lease = last.join("p")
        put(last, "p", lease.epoch, 1, 1)
        last.leave("p", lease.epoch)
        with pytest.raises(QueueFinished) as finished:  # sealed: what it waits for is known
            make(redis, "a", "b")
        assert (finished.value.queue, finished.value.state) == ("job/b", "SEALED")
        last.cancel()
        with pytest.raises(QueueFinished) as finished:
            make(redis, "a", "b")
        assert finished.value.state == "CANCELLED"
        assert redis.keys(keys.of_queue("job", "a", "*")) == []

    def test_downstream_that_was_sealed_by_hand_takes_no_new_stage(self, redis: Redis) -> None:
        last = make(redis, "b")
        make(redis, "a1", "b")
        given_up = make(redis, "a2", "b")
        given_up.cancel()
        last.seal()
        for refused in (lambda: make(redis, "a3", "b"), lambda: given_up.create(Spec(down="b", reopen=True))):
            with pytest.raises(QueueFinished):
                refused()


class TestResults:
    def test_kept_results_stay_when_acknowledged(self, redis: Redis) -> None:
        queue = make(redis, results="keep")
        (ticket,) = filled(queue, 1)
        drain(queue, ticket)
        queue.ack(redis.xrange(queue.results_key)[0][0].decode(), 1)
        assert len(results(queue)) == 2
        assert queue.status().unread == 0

    def test_acknowledged_up_to_an_entry(self, redis: Redis) -> None:
        queue = make(redis, results="once")
        (ticket, *_) = filled(queue, 1, 2, 3)
        drain(queue, ticket)
        stream = redis.xrange(queue.results_key)
        assert queue.status().unread == 6
        queue.ack(stream[1][0].decode(), 3)
        queue.ack(stream[0][0].decode(), 1)  # late: it was covered
        assert results(queue) == [("1-3", b"Oresult"), ("end", b"DRAINED")]
        assert queue.status().unread == 3

    def test_dead_by_crash_is_a_result_to_be_read(self, redis: Redis) -> None:
        queue = make(redis, results="once")
        (ticket,) = filled(queue, 1)
        for _ in range(3):
            take(queue, ticket)
            (ticket,) = queue.release(ticket, crashed=True, cap=1) or [""]
        assert (queue.status().unread, results(queue)[0]) == (1, ("1-1", b"L3 \t"))

    def test_end_is_the_last_entry(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 1)
        drain(queue, ticket)
        assert results(queue) == [("1-1", b"Oresult"), ("end", b"DRAINED")]


class TestCancel:
    def test_everything_that_is_left_is_dropped_and_counted(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        tickets = put(queue, "p", lease.epoch, 1, 1, 2, 4, 8).tickets
        take(queue, tickets[0], 0, *whole(take(queue, tickets[0])))
        retried = take(queue, tickets[1])
        again = [Again(0, 1, LONG_MS, b"x")]
        take(queue, tickets[1], 0, Completion(ids(retried)[0], 1, outcome=b"o", again=again))
        running = take(queue, tickets[2])
        assert queue.cancel() == queue.cancel() == "CANCELLED"
        assert counters(queue) == {"put": 15, "done": 2, "cancelled": 13}
        assert take(queue, tickets[2], 1, *whole(running)).ended == "CANCELLED"
        with pytest.raises(QueueFinished):
            put(queue, "p", lease.epoch, 5, 1)
        assert [name for name, _ in results(queue)] == ["1-1", "1-2", "end"]
        parts = ("chunks", "ready", "delayed", "tickets", "held", "leases")
        assert redis.exists(*(key(queue, part) for part in parts)) == 0

    def test_producer_may_leave_a_cancelled_queue(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        queue.cancel()
        assert queue.leave("p", lease.epoch)
        assert queue.status().state == "CANCELLED"
        assert all(redis.pttl(name) > 0 for name in names_of(redis))


class TestWithdrawing:
    def test_what_waits_is_taken_out_and_counts_as_cancelled(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        (ticket, *_) = put(queue, "p", lease.epoch, 1, 1, 2, 3).tickets
        claim = take(queue, ticket)
        assert queue.withdraw(["1-3", "1-2", "1-1"]) == ["1-3", "1-2"]  # the first is in hand
        assert counters(queue) == {"put": 6, "leased": 1, "cancelled": 5}
        assert (ready(queue), redis.hkeys(key(queue, "chunks"))) == ([], [b"1-1"])
        assert queue.meta()["bytes"] == b"1"
        take(queue, ticket, 1, *whole(claim))
        queue.leave("p", lease.epoch)
        assert queue.status().state == "DRAINED"
        assert counters(queue) == {"put": 6, "done": 1, "cancelled": 5}

    def test_its_reader_is_told(self, redis: Redis) -> None:
        queue = make(redis, results="once")
        lease = queue.join("p")
        put(queue, "p", lease.epoch, 1, 1, 2)
        assert queue.withdraw(["1-2", "1-1"]) == ["1-2", "1-1"]
        assert results(queue) == [("1-2", b"C2"), ("1-1", b"C1")]
        assert queue.status().unread == 3

    def test_nobody_is_told_where_results_are_discarded(self, redis: Redis) -> None:
        queue = make(redis, results="discard")
        put(queue, "p", queue.join("p").epoch, 1, 1)
        assert queue.withdraw(["1-1"]) == ["1-1"]
        assert results(queue) == []

    def test_what_was_taken_out_before_is_passed_over(self, redis: Redis) -> None:
        queue = make(redis)
        put(queue, "p", queue.join("p").epoch, 1, 1, 1)
        assert queue.withdraw(["1-1"]) == ["1-1"]
        assert queue.withdraw(["1-1", "1-7"]) == []
        assert counters(queue) == {"put": 2, "ready": 1, "cancelled": 1}

    def test_item_that_waits_for_its_next_attempt_is_taken_out(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        (ticket,) = put(queue, "p", lease.epoch, 1, 2).tickets
        take(queue, ticket)
        take(queue, ticket, 1, Completion("1-1", 1, again=[Again(1, 1, LONG_MS, b"again")]))
        assert queue.withdraw(["1-1/1:2", "1-1"]) == ["1-1/1:2"]
        assert counters(queue) == {"put": 2, "done": 1, "cancelled": 1}
        assert redis.zcard(key(queue, "delayed")) == 0

    def test_the_last_that_is_taken_out_of_a_sealed_queue_ends_it(self, redis: Redis) -> None:
        queue = make(redis)
        filled(queue, 1, 1)
        assert queue.withdraw(["1-2"]) == ["1-2"]
        assert queue.status().state == "SEALED"
        assert queue.withdraw(["1-1"]) == ["1-1"]
        assert queue.status().state == "DRAINED"
        assert results(queue)[-1] == ("end", b"DRAINED")

    def test_queue_that_has_ended_has_nothing_to_take_out(self, redis: Redis) -> None:
        queue = make(redis)
        filled(queue, 1)
        queue.cancel()
        assert queue.withdraw(["1-1"]) == []
        with pytest.raises(UnknownJob):
            Ledger(redis, "job", ["none"]).withdraw(["1-1"])

    def test_it_makes_room(self, redis: Redis) -> None:
        queue = make(redis, maxsize=2)
        lease = queue.join("p")
        put(queue, "p", lease.epoch, 1, 1, 1)
        assert put(queue, "p", lease.epoch, 3, 1).full
        assert queue.withdraw(["1-1"]) == ["1-1"]
        assert redis.exists(queue.room_key)
        assert not put(queue, "p", lease.epoch, 3, 1).full

    def test_others_go_on_when_one_that_was_to_run_alone_is_taken_out(self, redis: Redis) -> None:
        queue = make(redis, crash_limit=2)
        lease = queue.join("p")
        first, second, third = put(queue, "p", lease.epoch, 1, 1, 1, 1).tickets
        take(queue, first)
        take(queue, second)
        expire(queue, "tickets", first)
        queue.reap(0, nothing_under_way=False)  # 1-1 is suspect now, and waits until 1-2 is through
        assert take(queue, third).chunks == []
        assert queue.withdraw(["1-1"]) == ["1-1"]
        assert redis.llen(key(queue, "bell")) == 1
        assert ids(take(queue, third)) == ["1-3"]
        assert queue.meta()["suspects"] == b"0"


class TestReopening:
    def test_the_same_queue_may_be_asked_for_again(self, redis: Redis) -> None:
        queue = make(redis, maxsize=5)
        lease = queue.join("p")
        assert queue.create(CPU) == ("OPEN", 1)
        assert queue.create(Spec(maxsize=5, reopen=True)) == ("OPEN", 1)
        assert queue.create(Spec(function=b"sealed anew", identity="m:f")) == ("OPEN", 1)
        assert put(queue, "p", lease.epoch, 1, 1).seq == 1

    @pytest.mark.parametrize(
        ("option", "value"), [("maxsize", 6), ("identity", "m:g"), ("celery", "io"), ("down", "b")]
    )
    def test_another_value_is_refused(self, redis: Redis, option: str, value: Any) -> None:
        queue = make(redis, maxsize=5)
        with pytest.raises(QueueMismatch) as raised:
            queue.create(Spec(**{option: value}))
        assert (raised.value.option, raised.value.got) == (option, str(value))

    def test_ended_queue_stays_ended_unless_it_is_reopened(self, redis: Redis) -> None:
        queue = make(redis)
        queue.seal()
        assert queue.create(CPU) == ("DRAINED", 1)
        assert queue.create(Spec(celery="io", reopen=True)) == ("NEW", 2)
        assert queue.create(Spec(celery="io", reopen=True)) == ("NEW", 2)  # sent again

    def test_new_epoch_begins_empty(self, redis: Redis) -> None:
        queue = make(redis, maxsize=3)
        lease = queue.join("p")
        put(queue, "p", lease.epoch, 1, 3)
        queue.leave("p", lease.epoch, lost=True)
        queue.cancel()
        queue.create(Spec(celery="cpu", reopen=True))
        status = queue.status()
        assert (status.state, status.epoch, status.producers, status.maxsize) == ("NEW", 2, (), 0)
        assert (counters(queue), results(queue), status.ended_ms) == ({}, [], None)
        queue.leave("p", queue.join("p").epoch)
        assert results(queue) == [("end", b"DRAINED")]

    def test_tickets_and_producers_of_an_earlier_epoch_are_refused(self, redis: Redis) -> None:
        queue = make(redis)
        old = queue.join("p")
        (ticket,) = put(queue, "p", old.epoch, 1, 1).tickets
        claim = take(queue, ticket)
        queue.cancel()
        queue.create(Spec(celery="cpu", reopen=True))
        new = queue.join("p")  # of the same name
        assert (new.seq, new.position) == (0, 0)
        with pytest.raises(LeaseLost):
            put(queue, "p", old.epoch, 1, 1)
        assert not queue.leave("p", old.epoch)
        assert queue.renew(LONG_MS, [ticket], [("p", old.epoch)]) == ([ticket], ["p"])
        (other,) = put(queue, "p", new.epoch, 1, 1).tickets
        assert other != ticket
        assert take(queue, ticket, 1, *whole(claim)).lost
        assert queue.release(ticket, cap=5) is None
        assert counters(queue) == {"put": 1, "ready": 1}
        assert ready(queue) != ids(claim)

    def test_reopened_stage_is_a_producer_again(self, redis: Redis) -> None:
        last = make(redis, "b")
        first = make(redis, "a", "b")
        lease = last.join("p")
        first.cancel()
        assert [name for name, _ in last.status().lost] == ["stage:a"]
        first.create(Spec(celery="cpu", down="b", reopen=True))
        assert (last.status().live, last.status().lost) == (2, ())
        last.leave("p", lease.epoch)
        assert last.status().state == "OPEN"
        first.seal()
        assert last.status().state == "DRAINED"

    def test_stage_that_goes_on_feeds_the_new_epoch(self, redis: Redis) -> None:
        last = make(redis, "b")
        first = make(redis, "a", "b", maxsize=1)
        (ticket,) = filled(first, 1)
        last.cancel()
        assert last.create(Spec(celery="cpu", reopen=True)) == ("OPEN", 2)
        claim = take(first, ticket)
        done = Completion(ids(claim)[0], 1, outputs=[Output("x", 1, b"o")])
        (downstream,) = take(first, ticket, 1, done, downstream_cap=1).downstream_tickets
        assert last.status().state == "SEALED"
        assert drain(last, downstream) == "DRAINED"


class TestExpiry:
    def check(self, redis: Redis, *, expire: bool, ledgers: Sequence[Ledger]) -> None:
        hints = {queue.bell_key for queue in ledgers} | {queue.room_key for queue in ledgers}
        names = set(redis.keys()) - hints
        assert names
        assert {name: redis.pttl(name) > 0 for name in names} == dict.fromkeys(names, expire)

    def test_live_queue_never_expires_an_ended_one_wholly_does(self, redis: Redis) -> None:
        last = make(redis, "b", ttl_ms=5000)
        first = make(redis, "a", "b", ttl_ms=7000, maxsize=2)
        both = (first, last)
        lease = first.join("p")
        (ticket, _) = put(first, "p", lease.epoch, 1, 1, 1, 1).tickets
        claim = take(first, ticket)
        again = [Again(0, 1, LONG_MS, b"x")]
        claim = take(first, ticket, 1, Completion(ids(claim)[0], 0, again=again))
        outputs = [Output("x", 1, b"o")]
        letters = [("l", b"l")]
        done = Completion(ids(claim)[0], 0, 1, b"o", outputs=outputs, letters=letters)
        (downstream,) = take(first, ticket, 1, done, downstream_cap=1).downstream_tickets
        self.check(redis, expire=False, ledgers=both)
        first.cancel()
        assert 5000 < redis.pttl(key(first, "meta")) <= 7000
        assert redis.pttl(key(first, "job")) == -1  # the other has not ended
        assert redis.pttl(key(last, "meta")) == -1
        drain(last, downstream)
        self.check(redis, expire=True, ledgers=both)
        assert 0 < redis.pttl(key(last, "meta")) <= 5000

    def test_reopened_queue_does_not_expire(self, redis: Redis) -> None:
        queue = make(redis)
        queue.seal()
        queue.create(Spec(celery="cpu", reopen=True))
        lease = queue.join("p")
        (ticket,) = put(queue, "p", lease.epoch, 1, 1).tickets
        take(queue, ticket)
        self.check(redis, expire=False, ledgers=[queue])


class TestBell:
    def test_rings_only_for_who_waits(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        first, second = put(queue, "p", lease.epoch, 1, 1, 1, cap=2).tickets
        assert redis.llen(queue.bell_key) == 0
        take(queue, first, 1, *whole(take(queue, first)))
        take(queue, second, 1, *whole(take(queue, second)))  # both wait now
        assert put(queue, "p", lease.epoch, 3, 1).tickets == []  # they are idle
        assert redis.llen(queue.bell_key) == 1
        put(queue, "p", lease.epoch, 4, 1, 1, 1, cap=0)
        assert redis.llen(queue.bell_key) == 2
        assert 0 < redis.pttl(queue.bell_key) <= 60_000

    def test_one_that_waited_in_vain_is_not_rung_for(self, redis: Redis) -> None:
        queue = make(redis, celery="")
        lease = queue.join("p")
        queue.enroll("c", "n", LONG_MS)
        queue.next("c", "n", LONG_MS, 1)
        queue.next("c", "n", LONG_MS, 0, waited=True)
        put(queue, "p", lease.epoch, 1, 1)
        assert redis.llen(queue.bell_key) == 0

    def test_who_waits_is_given_what_rings_for_it(self, redis: Redis) -> None:
        queue = make(redis, celery="")
        lease = queue.join("p")
        queue.enroll("c", "n", LONG_MS)
        queue.next("c", "n", LONG_MS, 1)
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(queue.next, "c", "n", LONG_MS, 1, waited=True, wait_s=30)
            until(lambda: redis.info("clients")["blocked_clients"] == 1, "it to wait")
            put(queue, "p", lease.epoch, 1, 1)
            claim = waiting.result(30)
        assert (ids(claim), claim.rang) == (["1-1"], True)
        assert (counter(queue, "waiting"), counter(queue, "rung"), redis.llen(queue.bell_key)) == (0, 0, 0)

    def test_one_that_waits_in_vain_is_counted_once(self, redis: Redis) -> None:
        queue = make(redis, celery="")
        queue.join("p")
        queue.enroll("c", "n", LONG_MS)
        queue.next("c", "n", LONG_MS, 1)
        for _ in range(3):
            claim = queue.next("c", "n", LONG_MS, 1, wait_s=0.001)
            assert (claim.chunks, claim.rang) == ([], False)
            assert (counter(queue, "waiting"), counter(queue, "rung")) == (1, 0)

    def test_wait_survives_a_server_that_forgot_the_script(self, redis: Redis) -> None:
        queue = make(redis, celery="")
        lease = queue.join("p")
        queue.enroll("c", "n", LONG_MS)
        put(queue, "p", lease.epoch, 1, 1)
        redis.script_flush()
        assert ids(queue.next("c", "n", LONG_MS, 1, wait_s=0.001)) == ["1-1"]

    def test_those_who_died_waiting_are_forgotten_when_the_last_one_leaves(self, redis: Redis) -> None:
        queue = make(redis, celery="")
        lease = queue.join("p")
        for ticket in ("c", "d"):
            queue.enroll(ticket, "n", LONG_MS)
            queue.next(ticket, "n", LONG_MS, 1)
        put(queue, "p", lease.epoch, 1, 1)
        queue.release("d", crashed=True)  # it was rung for, and waited no more
        claim = queue.next("c", "n", LONG_MS, 1, waited=True)
        queue.next("c", "n", LONG_MS, 0, completions=whole(claim))
        assert (counter(queue, "waiting"), counter(queue, "rung")) == (0, 0)

    def test_looking_again_and_again_without_waiting_leaves_few_tokens(self, redis: Redis) -> None:
        queue = make(redis, celery="")
        lease = queue.join("p")
        queue.enroll("c", "n", LONG_MS)
        for _ in range(100):
            queue.next("c", "n", LONG_MS, 1)
        put(queue, "p", lease.epoch, 1, *[1] * 100)
        assert redis.llen(queue.bell_key) == 1

    def test_tokens_that_nobody_takes_are_bounded(self, redis: Redis) -> None:
        queue = make(redis, celery="")
        lease = queue.join("p")
        queue.enroll("c", "n", LONG_MS)
        for seq in range(1, 400):
            queue.next("c", "n", LONG_MS, 1)
            put(queue, "p", lease.epoch, seq, 1)
            claim = queue.next("c", "n", LONG_MS, 1)
            queue.next("c", "n", LONG_MS, 1, completions=whole(claim))
        assert redis.llen(queue.bell_key) <= 256

    @pytest.mark.parametrize("how", ["leave", "cancel"])
    def test_end_wakes_all_who_wait(self, redis: Redis, how: str) -> None:
        queue = make(redis, celery="")
        lease = queue.join("p")
        for consumer in ("c1", "c2", "c3"):
            queue.enroll(consumer, "n", LONG_MS)
            queue.next(consumer, "n", LONG_MS, 1)
        if how == "leave":
            queue.leave("p", lease.epoch)
        else:
            queue.cancel()
        assert redis.llen(queue.bell_key) == 3

    def test_outputs_and_returned_chunks_ring(self, redis: Redis) -> None:
        last = make(redis, "b", celery="")
        first = make(redis, "a", "b")
        last.enroll("c", "n", LONG_MS)
        last.next("c", "n", LONG_MS, 1)
        (ticket,) = filled(first, 1)
        claim = take(first, ticket)
        take(first, ticket, 1, Completion(ids(claim)[0], 1, outputs=[Output("x", 1, b"o")]))
        assert redis.llen(last.bell_key) == 1
        redis.delete(last.bell_key)
        last.enroll("d", "n", LONG_MS)
        last.next("d", "n", LONG_MS, 1)
        last.next("c", "n", LONG_MS, 1)  # now one holds it and the other waits
        last.release("d")
        assert redis.llen(last.bell_key) == 1


class TestTickets:
    def test_one_for_each_ready_chunk_up_to_the_cap(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        assert put(queue, "p", lease.epoch, 1, 1, 1, cap=4).tickets == ["1", "2"]
        assert put(queue, "p", lease.epoch, 3, 1, 1, 1, cap=4).tickets == ["3", "4"]
        assert put(queue, "p", lease.epoch, 6, 1, cap=4).tickets == []
        assert queue.status().tickets == 4

    def test_busy_tickets_do_not_count_for_ready_chunks(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        (ticket,) = put(queue, "p", lease.epoch, 1, 1).tickets
        take(queue, ticket)
        assert put(queue, "p", lease.epoch, 2, 1).tickets == ["2"]

    def test_max_workers_is_the_cap_where_it_is_given(self, redis: Redis) -> None:
        queue = make(redis, max_workers=2)
        lease = queue.join("p")
        assert put(queue, "p", lease.epoch, 1, *[1] * 9, cap=100).tickets == ["1", "2"]
        take(queue, "1")
        assert queue.reap(100, nothing_under_way=False)[0] == []
        assert queue.release("1", cap=100) == ["3"]

    def test_no_tickets_where_consumers_read(self, redis: Redis) -> None:
        queue = make(redis, celery="")
        lease = queue.join("p")
        assert put(queue, "p", lease.epoch, 1, 1, cap=5).tickets == []
        assert queue.reap(5, nothing_under_way=True)[0] == []

    def test_slot_that_leaves_work_behind_hands_on_its_ticket(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        (ticket,) = put(queue, "p", lease.epoch, 1, 1, 1, 1, cap=1).tickets
        claim = take(queue, ticket)
        assert take(queue, ticket, 0, *whole(claim)).tickets == ["2"]
        assert queue.status().tickets == 1

    def test_ticket_that_never_started_is_replaced(self, redis: Redis) -> None:
        queue = make(redis)
        (ticket,) = filled(queue, 1)
        assert queue.reap(1, nothing_under_way=True)[0] == []  # it has its time
        expire(queue, "tickets", ticket)
        assert queue.reap(1, nothing_under_way=True)[0] == ["2"]
        assert take(queue, ticket).lost
        assert take(queue, "2").chunks[0].tries == 0

    def test_ticket_that_never_started_is_sent_again_where_messages_always_wait(self, redis: Redis) -> None:
        """It may be lost, or in a long line, where it must not lose its place."""
        queue = make(redis, max_workers=1)
        (ticket,) = filled(queue, 1)
        for patience_s in (10, 20, 40, 60, 60):
            assert queue.reap(1, nothing_under_way=False)[0] == []
            expire(queue, "tickets", ticket)
            assert queue.reap(0, nothing_under_way=False)[0] == []  # nobody is there to run it
            before_ms = now_ms(redis)
            assert queue.reap(1, nothing_under_way=False)[0] == [ticket]
            deadline: Any = redis.zscore(key(queue, "tickets"), ticket)
            assert 0 <= deadline - before_ms - 1000 * patience_s < 5000
        first = queue.next(ticket, "first to arrive", LONG_MS, 1)
        assert len(first.chunks) == 1
        assert queue.next(ticket, "the other message", LONG_MS, 1).lost
        assert redis.hget(key(queue, "meta"), "patience") == b"0"

    def test_reaper_tops_up_for_a_worker_that_joined(self, redis: Redis) -> None:
        queue = make(redis)
        lease = queue.join("p")
        assert put(queue, "p", lease.epoch, 1, 1, 1, 1, cap=0).tickets == []
        assert queue.reap(2, nothing_under_way=False)[0] == ["1", "2"]


class TestFullServer:
    def test_put_is_refused_whole_and_work_goes_on(self, redis: Redis) -> None:
        last = make(redis, "b")
        first = make(redis, "a", "b")
        lease = first.join("p")
        (ticket, _) = put(first, "p", lease.epoch, 1, 1, 1).tickets
        claim = take(first, ticket)
        redis.config_set("maxmemory", "1kb")
        with pytest.raises(OutOfMemoryError):
            put(first, "p", lease.epoch, 3, 1)
        with pytest.raises(OutOfMemoryError):
            first.join("q")
        assert counters(first) == {"put": 2, "ready": 1, "leased": 1}
        assert first.renew(LONG_MS, [ticket], [("p", lease.epoch)]) == ([], [])
        outputs = [Output("x", 1, b"o")]
        claim = take(first, ticket, 1, Completion(ids(claim)[0], 1, outputs=outputs))
        assert first.leave("p", lease.epoch)
        assert take(first, ticket, 1, *whole(claim)).ended == "DRAINED"
        (ticket,) = last.reap(1, nothing_under_way=True)[0]
        assert drain(last, ticket) == "DRAINED"


def test_status_is_one_picture(redis: Redis) -> None:
    queue = make(redis, maxsize=9, expected=2)
    lease = queue.join("p")
    tickets = put(queue, "p", lease.epoch, 1, 2, 3).tickets
    take(queue, tickets[0])
    status = queue.status()
    assert (status.job, status.name, status.state, status.epoch) == ("job", "q", "OPEN", 1)
    assert (status.put, status.ready, status.leased, status.chunks_ready) == (5, 3, 2, 1)
    assert (status.tickets, status.started, status.maxsize, status.expected) == (2, 1, 9, 2)
    assert (status.function, status.workers, status.live) == ("m:f", "cpu", 1)
    assert (status.ended, status.ended_ms, status.lost) == (False, None, ())
    (producer,) = status.producers
    assert (producer.name, producer.state, producer.position) == ("p", "live", 5)
    assert producer.silent_s < 5
    queue.cancel()
    assert queue.status().ended
    assert (queue.status().ended_ms or 0) >= status.created_ms
