"""What flows need of the ledger: order, gathers, barriers, rates, emitting; on a real server, without workers.

Slots are calls of Ledger's methods; the payload of a chunk here is what it holds, in words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from lastcall.flowoptions import FlowOptions
from lastcall.state import keys
from lastcall.state.ledger import Ledger
from lastcall.state.records import (
    AGAIN,
    ERROR,
    NEXT,
    SHOWN,
    Again,
    Chunk,
    Claim,
    Completion,
    Emitted,
    Output,
    Segment,
    Spec,
    part_of,
)
from tests.integration.ledger_server import ledger_server

pytestmark = pytest.mark.integration

LONG_MS = 10**9


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with ledger_server() as client:
        yield client


@pytest.fixture
def redis(server: Redis) -> Redis:
    server.flushall()
    return server


def chain(redis: Redis, *stages: tuple[str, FlowOptions], **options: Any) -> list[Ledger]:
    """Queues of a flow, the first one first. options: of all."""
    names = [name for name, _ in stages]
    ledgers = []
    for at in reversed(range(len(stages))):
        ledger = Ledger(redis, "job", names[at:])
        more = dict(options)
        if stages[at][1].gather:
            more["max_workers"] = 1
        spec = Spec(
            **{"function": b"f", "identity": "m:f", "celery": "cpu", **more}, **stages[at][1].stored,
            down=names[at + 1] if at + 1 < len(names) else "",
        )  # fmt: skip
        ledger.create(spec, slots=2)
        ledgers.insert(0, ledger)
    return ledgers


def fill(ledger: Ledger, *sizes: int, leave: bool = True) -> None:
    """Chunks of a producer, each with its number as its payload."""
    lease = ledger.join("filler")
    first = lease.seq + 1
    ledger.put("filler", lease.epoch, first, [(size, b"%d" % (first + at)) for at, size in enumerate(sizes)], 0)
    if leave:
        ledger.leave("filler", lease.epoch)


def take(ledger: Ledger, ticket: str, want: int = 1, *done: Completion) -> Claim:
    """As a slot does, which is there from its first call on."""
    ledger.enroll(ticket, ticket, LONG_MS)
    return ledger.next(ticket, ticket, LONG_MS, want, completions=done, downstream_cap=2)


def through(chunk: Chunk, *, way: str = NEXT, items: int | None = None, **others: Any) -> Completion:
    """A stage that does one thing with each item, and has one output for each."""
    size = chunk.items if items is None else items
    out = f"o{chunk.id.replace('/', '-').replace(':', '-')}"
    parts = [Output(out, size, chunk.id.encode())] if size else []
    return Completion(
        chunk.id, chunk.items, segments=[Segment(chunk.start, chunk.start + chunk.items, way, parts)], **others
    )


def ready(ledger: Ledger) -> list[str]:
    return [name.decode() for name in ledger.redis.lrange(keys.of_queue("job", ledger.name, "ready"), 0, -1)]


def results(ledger: Ledger) -> list[tuple[str, bytes]]:
    stream: Any = ledger.redis.xrange(keys.of_queue("job", ledger.name, "results"))
    return [(name.decode(), data) for _, entry in stream for name, data in entry.items()]


def names(ledger: Ledger) -> list[str]:
    return [name for name, _ in results(ledger)]


def meta(ledger: Ledger, field: str) -> str:
    return ledger.meta()[field].decode()


FIRST = FlowOptions(paths=True)


class TestOrder:
    def test_chunks_are_numbered_by_the_items_put_before(self, redis: Redis) -> None:
        (queue,) = chain(redis, ("a", FIRST))
        fill(queue, 3, 2)
        one, two = (take(queue, ticket).chunks[0] for ticket in "12")
        assert (one.path, two.path) == ("0:3:0", "3:5:0")
        assert (one.total, two.total) == (3, 2)

    def test_a_gated_queue_takes_chunks_in_the_order_of_the_source(self, redis: Redis) -> None:
        first, last = chain(redis, ("a", FIRST), ("b", FlowOptions(gated=True)))
        fill(first, 3, 2, 1)
        one, two, three = (take(first, ticket).chunks[0] for ticket in "123")
        take(first, "3", 0, through(three))
        take(first, "2", 0, through(two))
        assert ready(last) == []
        assert (last.status().delayed, last.status().put) == (3, 3)
        take(first, "1", 0, through(one))
        assert ready(last) == ["o1-1", "o1-2", "o1-3"]
        assert (last.status().delayed, last.status().ready) == (0, 6)

    def test_ordered_results_appear_in_the_order_of_the_source(self, redis: Redis) -> None:
        (queue,) = chain(redis, ("a", FlowOptions(paths=True, ordered=True)), results="once")
        fill(queue, 1, 1)
        one, two = (take(queue, ticket).chunks[0] for ticket in "12")
        take(queue, "2", 0, through(two, way=SHOWN))
        assert (names(queue), queue.status().unread) == ([], 1)
        take(queue, "1", 0, through(one, way=SHOWN))
        assert names(queue) == ["o1-1", "o1-2", "end"]

    def test_what_comes_to_nothing_lets_those_behind_it_pass(self, redis: Redis) -> None:
        first, last = chain(redis, ("a", FIRST), ("b", FlowOptions(gated=True)))
        fill(first, 1, 1)
        one, two = (take(first, ticket).chunks[0] for ticket in "12")
        take(first, "2", 0, through(two))
        take(first, "1", 0, through(one, items=0))
        assert ready(last) == ["o1-2"]

    def test_a_retried_item_leaves_a_hole_that_is_filled_when_it_is_done(self, redis: Redis) -> None:
        first, last = chain(redis, ("a", FIRST), ("b", FlowOptions(gated=True)))
        fill(first, 5)
        (chunk,) = take(first, "1").chunks
        done = Completion(
            chunk.id, 4,
            again=[Again(2, 1, 0, b"alone")],
            segments=[Segment(0, 2, NEXT, [Output("before", 2, b"")]), Segment(3, 5, NEXT, [Output("behind", 2, b"")])],
        )  # fmt: skip
        claim = take(first, "1", 1, done)
        assert ready(last) == ["before"]
        (again,) = claim.chunks
        assert (again.id, again.path, again.total, again.payload) == ("1-1/2:3", "0:5:0", 5, b"alone")
        take(first, "1", 0, through(again))
        assert ready(last) == ["before", "o1-1-2-3", "behind"]
        paths = [Chunk.stored("", redis.hget(keys.of_queue("job", "b", "chunks"), name)).path for name in ready(last)]  # type: ignore[arg-type]
        assert paths == ["0:5:0/0:2:0", "0:5:0/2:3:0", "0:5:0/3:5:1"]

    def test_an_item_that_is_given_up_by_a_script_lets_those_behind_it_pass(self, redis: Redis) -> None:
        first, last = chain(redis, ("a", FIRST), ("b", FlowOptions(gated=True)), crash_limit=1)
        fill(first, 1, 1)
        take(first, "1")
        (two,) = take(first, "2").chunks
        take(first, "2", 0, through(two))
        assert ready(last) == []
        first.release("1", crashed=True)
        assert ready(last) == ["o1-2"]
        assert first.status().dead == 1

    def test_an_error_of_an_inner_stage_has_its_place_in_the_results(self, redis: Redis) -> None:
        first, last = chain(redis, ("a", FIRST), ("b", FlowOptions(ordered=True)), on_error="return", results="once")
        fill(first, 3)
        (chunk,) = take(first, "1").chunks
        segments = [
            Segment(0, 1, NEXT, [Output("x", 1, b"")]), Segment(1, 2, ERROR, [Output("bad", 1, b"!")]),
            Segment(2, 3, NEXT, [Output("y", 1, b"")]),
        ]  # fmt: skip
        take(first, "1", 0, Completion(chunk.id, 3, segments=segments, failed=1))
        assert first.status().failed == 1
        x, y = (take(last, ticket).chunks[0] for ticket in "12")
        take(last, "2", 0, through(y, way=SHOWN))
        assert names(last) == []
        take(last, "1", 0, through(x, way=SHOWN))
        assert names(last) == ["ox", "bad", "oy", "end"]
        assert last.status().unread == 3

    def test_what_is_lost_with_a_cancelled_stage_holds_nobody_up(self, redis: Redis) -> None:
        first, last = chain(redis, ("a", FIRST), ("b", FlowOptions(gated=True, ordered=True)))
        fill(first, 1, 1)
        take(first, "1")
        (two,) = take(first, "2").chunks
        take(first, "2", 0, through(two))
        first.cancel()
        (chunk,) = take(last, "1").chunks
        assert take(last, "1", 0, through(chunk, way=SHOWN)).chunks == []
        assert names(last) == ["oo1-2", "end"]
        assert last.status().state == "INCOMPLETE"

    def test_a_letter_that_is_retried_goes_through_a_gate_whose_turn_is_over(self, redis: Redis) -> None:
        first, last = chain(redis, ("a", FIRST), ("b", FlowOptions(gated=True)), crash_limit=1)
        fill(first, 1, 1, leave=False)
        take(first, "1")
        first.release("1", crashed=True)
        (two,) = take(first, "1").chunks
        take(first, "1", 1, through(two))
        assert ready(last) == ["o1-2"]
        assert first.revive(["1-1#0"], 0)[0] == 1
        (one,) = take(first, "1").chunks
        assert one.path == "0:1:0"
        take(first, "1", 1, through(one))
        assert ready(last) == ["o1-2", f"o{one.id.replace('/', '-').replace(':', '-')}"]


class TestRules:
    def test_a_barrier_gives_nothing_before_all_of_it_is_there(self, redis: Redis) -> None:
        first, last = chain(redis, ("a", FIRST), ("b", FlowOptions(barrier=True)))
        fill(first, 1, 1)
        one = take(first, "1").chunks[0]
        claim = take(first, "1", 1, through(one))
        assert (claim.downstream_tickets, take(last, "b1").chunks) == ([], [])
        take(last, "b1", 0)
        # Whoever ends the stage upstream is told which tickets the barrier lacks now.
        ended = take(first, "1", 1, through(claim.chunks[0]))
        assert ended.ended == "DRAINED"
        assert len(ended.downstream_tickets) == 2
        assert len(take(last, "b1").chunks) == 1

    def test_tickets_of_a_queue_further_on_are_told_to_who_makes_it_claimable(self, redis: Redis) -> None:
        first, _, last = chain(redis, ("a", FIRST), ("b", FlowOptions()), ("c", FlowOptions(barrier=True)))
        fill(first, 1, leave=False)
        middle = Ledger(redis, "job", ["b", "c"])
        (one,) = take(first, "1").chunks
        take(first, "1", 0, through(one))
        (chunk,) = take(middle, "2").chunks
        take(middle, "2", 0, through(chunk))
        lease = first.join("filler")
        assert first.leave("filler", lease.epoch)
        assert [minted.queue for minted in first.take_minted()] == ["c"]
        assert first.take_minted() == []
        assert last.status().state == "SEALED"

    def test_a_batch_is_given_as_many_chunks_as_it_needs_and_leaves_the_rest(self, redis: Redis) -> None:
        first, last = chain(redis, ("a", FlowOptions(paths=True, batch=4)), ("b", FlowOptions(gated=True)))
        fill(first, 3, leave=False)
        assert take(first, "1").chunks == []
        fill(first, 3, 1, leave=False)
        claim = take(first, "1")
        assert ([chunk.items for chunk in claim.chunks], claim.position, claim.last) == ([3, 3], 0, False)
        assert take(first, "2").chunks == []  # one slot at a time, whoever asks
        one, two = claim.chunks
        batch = [Segment(0, 0, NEXT, [Output("b0", 1, b"")])]
        claim = take(first, "1", 1, Completion(one.id, 3), Completion(two.id, 1, segments=batch, rest=2))
        assert claim.chunks == []
        assert ready(first) == ["1-2/1:3", "1-3"]
        assert (first.status().ready, first.status().done, first.status().leased) == (3, 4, 0)
        first.leave("filler", first.join("filler").epoch)
        claim = take(first, "1")
        assert ([chunk.items for chunk in claim.chunks], claim.position, claim.last) == ([2, 1], 4, True)
        one, two = claim.chunks
        batch = [Segment(0, 0, NEXT, [Output("b1", 1, b"")])]
        assert take(first, "1", 1, Completion(one.id, 2), Completion(two.id, 1, segments=batch)).ended == "DRAINED"
        assert ready(last) == ["b0", "b1"]
        assert meta(last, "turn") == "7"

    def test_a_batch_that_has_waited_for_long_enough_goes_as_it_is(self, redis: Redis) -> None:
        queue, _ = chain(redis, ("a", FlowOptions(batch=4, batch_timeout_s=60)), ("b", FlowOptions()))
        fill(queue, 3, leave=False)
        claim = take(queue, "1")
        assert claim.chunks == []
        assert 59_000 < claim.wait_ms <= 60_000
        redis.hset(keys.of_queue("job", "a", "meta"), "since", 1)
        claim = take(queue, "1")
        assert ([chunk.items for chunk in claim.chunks], claim.last) == ([3], True)
        again = take(queue, "1")
        assert (again.chunks, again.last) == (claim.chunks, True)  # the reply was lost

    def test_a_reduction_goes_on_until_one_is_left(self, redis: Redis) -> None:
        first, last = chain(redis, ("a", FlowOptions(reduce=True)), ("b", FlowOptions(gated=True)))
        fill(first, 1, leave=False)
        assert take(first, "1").chunks == []
        fill(first, 1, leave=False)
        claim = take(first, "1")
        assert ([chunk.id for chunk in claim.chunks], claim.last) == (["1-1", "1-2"], False)
        fill(first, 1)
        one, two = claim.chunks
        so_far = [Segment(0, 0, AGAIN, [Output("fold-0", 1, b"1+2")])]
        done = [Completion(one.id, 1), Completion(two.id, 1, segments=so_far)]
        claim = take(first, "1", 1, *done)
        assert ([chunk.id for chunk in claim.chunks], claim.last, claim.position) == (["fold-0", "1-3"], True, 2)
        assert take(first, "1", 1, *done).chunks == claim.chunks  # the reply was lost: nothing is put twice
        one, two = claim.chunks
        whole = [Segment(0, 0, NEXT, [Output("sum", 1, b"1+2+3")])]
        assert take(first, "1", 1, Completion(one.id, 1), Completion(two.id, 1, segments=whole)).ended == "DRAINED"
        assert ready(last) == ["sum"]

    def test_a_gather_that_dies_gets_everything_again_in_order(self, redis: Redis) -> None:
        queue, _ = chain(redis, ("a", FlowOptions(batch=2)), ("b", FlowOptions()))
        fill(queue, 1, 1, 1)
        before = take(queue, "1")
        queue.release("1", crashed=True)
        after = take(queue, "2")
        assert [chunk.id for chunk in after.chunks] == [chunk.id for chunk in before.chunks] == ["1-1", "1-2"]
        queue.release("2", crashed=True)
        take(queue, "3")
        queue.release("3", crashed=True)  # each has killed its slot three times, for all that is known
        assert (queue.status().dead, queue.status().ready) == (2, 1)

    def test_the_item_that_kills_a_reduction_is_given_up_and_not_what_it_came_to(self, redis: Redis) -> None:
        queue, _ = chain(redis, ("a", FlowOptions(reduce=True)), ("b", FlowOptions()))
        fill(queue, 1, 1, 1)
        assert len(take(queue, "0").chunks) == 3
        queue.release("0", crashed=True)
        for ticket in "12":
            assert [chunk.id for chunk in take(queue, ticket).chunks] == ["1-1", "1-2"]
            queue.release(ticket, crashed=True)
        assert redis.hkeys(keys.of_queue("job", "a", "dead")) == [b"1-2#0"]
        assert [chunk.id for chunk in take(queue, "3").chunks] == ["1-1", "1-3"]

    def test_a_rate_gives_no_more_than_it_lets_through(self, redis: Redis) -> None:
        (queue,) = chain(redis, ("a", FlowOptions(paths=True, rate=0.5)))
        fill(queue, 3)
        (chunk,) = take(queue, "1").chunks
        assert (chunk.id, chunk.items, chunk.total, ready(queue)) == ("1-1/0:1", 1, 3, ["1-1/1:3"])
        claim = take(queue, "2")
        assert claim.chunks == []
        assert 1000 < claim.wait_ms <= 2000
        redis.hset(keys.of_queue("job", "a", "meta"), "rate_due", 0)
        assert take(queue, "2").chunks[0].id == "1-1/1:2"


def emit(ledger: Ledger, ticket: str, chunk: Chunk, item: int, *names: str, **others: Any) -> Emitted:
    """Send outputs of an item, as a slot does that has sent none of it before."""
    options: dict[str, Any] = {"parts": chunk.parts, "skip": chunk.skip + len(names), "way": NEXT, **others}
    outputs = [Output(name, 1, name.encode()) for name in names]
    return ledger.emit(ticket, ticket, chunk, item, outputs, cap=2, downstream_cap=2, **options)


class TestEmit:
    def test_the_item_stays_in_hand_and_its_neighbours_are_done_or_others(self, redis: Redis) -> None:
        first, last = chain(redis, ("a", FIRST), ("b", FlowOptions(gated=True)))
        fill(first, 5, 1)
        (chunk,) = take(first, "1").chunks
        before = through(chunk._replace(id="1-1/0:2", items=2))
        emitted = emit(first, "1", chunk, 2, "x", completions=[before], busy_us=7)
        assert (emitted.full, emitted.lost) == (False, False)
        assert (len(emitted.tickets), len(emitted.downstream_tickets)) == (1, 2)
        assert ready(last) == ["o1-1-0-2", "x"]
        assert ready(first) == ["1-1/3:5", "1-2"]
        status = first.status()
        assert (status.done, status.leased, status.ready) == (2, 1, 3)
        part = part_of(chunk, 2)
        emit(first, "1", part._replace(parts=1, skip=1), 2, "y")
        assert ready(last) == ["o1-1-0-2", "x", "y"]
        take(first, "1", 0, through(part))
        assert ready(last)[3:] == ["o1-1-2-3"]
        paths = [Chunk.stored("", redis.hget(keys.of_queue("job", "b", "chunks"), name)).path for name in ready(last)]  # type: ignore[arg-type]
        assert paths == ["0:5:0/0:2:0", "0:5:0/2:3:0/0:1:0", "0:5:0/2:3:0/1:2:0", "0:5:0/2:3:0/2:3:1"]

    def test_sent_again_it_does_nothing_twice(self, redis: Redis) -> None:
        first, last = chain(redis, ("a", FIRST), ("b", FlowOptions(gated=True)))
        fill(first, 3)
        (chunk,) = take(first, "1").chunks
        before = through(chunk._replace(id="1-1/0:1", items=1))
        for _ in range(2):
            assert not emit(first, "1", chunk, 1, "x", completions=[before]).lost
        assert ready(last) == ["o1-1-0-1", "x"]
        assert (first.status().done, first.status().leased, first.status().ready) == (1, 1, 1)
        part = part_of(chunk, 1)._replace(parts=1, skip=1)
        for _ in range(2):
            assert not emit(first, "1", part, 1, "y").lost
        assert ready(last) == ["o1-1-0-1", "x", "y"]

    @pytest.mark.parametrize("how", ["crash", "retry"])
    def test_another_attempt_knows_what_was_emitted(self, redis: Redis, how: str) -> None:
        first, _ = chain(redis, ("a", FIRST), ("b", FlowOptions()))
        fill(first, 3)
        (chunk,) = take(first, "1").chunks
        emit(first, "1", chunk, 0, "x")
        part = part_of(chunk, 0)
        if how == "crash":
            first.release("1", crashed=True)
        else:
            take(first, "1", 0, Completion(part.id, 0, again=[Again(0, 1, -1, chunk.payload)]))
        for ticket in "23":
            (again,) = take(first, ticket).chunks
            if again.id == part.id:
                break
        assert (again.id, again.parts, again.skip) == ("1-1/0:1", 1, 1)

    def test_chunks_that_were_in_hand_beside_it_are_done_or_go_back(self, redis: Redis) -> None:
        first, last = chain(redis, ("a", FIRST), ("b", FlowOptions()))
        fill(first, 1, 2, 1)
        one, two, three = take(first, "1", 3).chunks
        emit(first, "1", two, 0, "x", completions=[through(one)])
        assert ready(last) == ["o1-1", "x"]
        assert ready(first) == ["1-2/1:2", three.id]
        assert (first.status().leased, first.status().ready) == (1, 2)

    def test_a_slot_that_lost_its_ticket_emits_nothing(self, redis: Redis) -> None:
        first, last = chain(redis, ("a", FIRST), ("b", FlowOptions()))
        fill(first, 1)
        (chunk,) = take(first, "1").chunks
        first.release("1")
        assert emit(first, "1", chunk, 0, "x").lost
        take(first, "2")
        assert emit(first, "2", chunk._replace(id="1-9"), 0, "x").lost
        assert ready(last) == []

    def test_where_there_is_no_room_only_the_one_whose_turn_it_is_goes_on(self, redis: Redis) -> None:
        first, last = chain(redis, ("a", FIRST), ("b", FlowOptions(gated=True)), maxsize=2)
        lease = first.join("p")
        first.put("p", lease.epoch, 1, [(1, b""), (1, b"")], 0)
        one, two = (take(first, ticket).chunks[0] for ticket in "12")
        assert not emit(first, "2", two, 0, "x", "y", parts=0).full
        more = two._replace(parts=2, skip=2)
        assert emit(first, "2", more, 0, "z").full
        assert emit(first, "2", more, 0, "z").full
        assert not emit(first, "1", one, 0, "a").full  # all others wait for it
        assert not emit(first, "2", more, 0, "z", force=True).full
        take(first, "1", 0, through(one))
        assert ready(last) == ["a", "o1-1", "x", "y", "z"]

    def test_what_was_done_before_it_goes_on_even_where_there_is_no_room(self, redis: Redis) -> None:
        """Else the others would wait for that, and so room never come."""
        first, last = chain(redis, ("a", FIRST), ("b", FlowOptions()), maxsize=1)
        lease = first.join("p")
        first.put("p", lease.epoch, 1, [(1, b"")], 0)
        (one,) = take(first, "1").chunks
        redis.hset(keys.of_queue("job", "a", "meta"), "maxsize", 0)
        first.put("p", lease.epoch, 2, [(3, b"")], 0)
        (two,) = take(first, "2").chunks
        take(first, "1", 0, through(one))
        before = through(two._replace(id="1-2/0:1", items=1))
        for _ in range(2):
            assert emit(first, "2", two, 1, "x", completions=[before]).full
        assert ready(last) == ["o1-1", "o1-2-0-1"]
        assert ready(first) == ["1-2/2:3"]

    def test_unread_results_hold_back_who_emits_into_them(self, redis: Redis) -> None:
        (queue,) = chain(redis, ("a", FlowOptions(paths=True)), maxsize=2, results="once")
        fill(queue, 2, leave=False)
        (chunk,) = take(queue, "1").chunks
        assert not emit(queue, "1", chunk, 0, "x", "y", way=SHOWN).full
        more = part_of(chunk, 0)._replace(parts=2, skip=2)
        assert emit(queue, "1", more, 0, "z", way=SHOWN).full
        entry: Any = redis.xrevrange(queue.results_key, count=1)
        queue.ack(entry[0][0].decode(), 2)
        assert not emit(queue, "1", more, 0, "z", way=SHOWN).full
        assert redis.llen(queue.room_key) == 1

    def test_the_chunk_whose_turn_it_is_can_be_asked_for(self, redis: Redis) -> None:
        first, _ = chain(redis, ("a", FIRST), ("b", FlowOptions(gated=True)))
        fill(first, 1, 1, 1)
        one, two = (take(first, ticket).chunks[0] for ticket in "12")
        assert take(first, "3", -2).chunks == []  # it is in another's hand
        take(first, "1", 0, through(one))
        first.release("2")
        assert [chunk.id for chunk in take(first, "3", -2).chunks] == [two.id]


class TestMoving:
    """Slots of a flow's queues that go from one to the other."""

    @pytest.fixture
    def queues(self, redis: Redis) -> list[Ledger]:
        return chain(redis, *((name, FlowOptions(paths=name == "a", head="a")) for name in "abc"))

    def test_a_slot_with_nothing_to_do_moves_to_what_lacks_slots(self, queues: list[Ledger]) -> None:
        first, second, _ = queues
        fill(first, 1, 1, leave=False)
        (chunk,) = take(first, "x").chunks
        (other,) = take(first, "y").chunks
        claim = take(first, "x", 1, through(chunk))
        assert (claim.chunks, claim.called) == ([], True)
        assert first.move("a", "x", "x", "x-1", LONG_MS) == "b"
        assert [one.items for one in second.next("x-1", "x", LONG_MS, 1).chunks] == [1]
        assert first.next("x", "x", LONG_MS, 1).lost
        assert take(first, "y", 0, through(other)).chunks == []

    def test_a_move_whose_reply_was_lost_is_made_once(self, queues: list[Ledger]) -> None:
        first, second, _ = queues
        fill(first, 1)
        (chunk,) = take(first, "x").chunks
        take(first, "x", 1, through(chunk))
        for _ in range(2):
            assert first.move("a", "x", "x", "x-1", LONG_MS) == "b"
        assert second.status().started == 1

    def test_a_slot_whose_ticket_was_given_up_does_not_move(self, queues: list[Ledger]) -> None:
        first, second, _ = queues
        fill(first, 1, leave=False)
        (chunk,) = take(first, "x").chunks
        take(first, "x", 1, through(chunk))
        first.release("x")
        assert first.move("a", "x", "x", "x-1", LONG_MS) is None
        assert first.move("a", "x", "another", "x-1", LONG_MS) is None
        assert second.status().started == 0

    def test_no_ticket_is_issued_where_all_slots_are_in_the_flow(self, queues: list[Ledger]) -> None:
        first, second, last = queues
        lease = first.join("filler")
        first.put("filler", lease.epoch, 1, [(1, b"1"), (1, b"2")], 2)
        chunks = [take(first, ticket).chunks[0] for ticket in "xy"]
        claim = take(first, "x", 1, through(chunks[0]))
        assert claim.downstream_tickets == []
        assert (claim.chunks, claim.called) == ([], True)
        assert second.status().tickets == 0
        # One slot leaves: from now on a message brings another.
        first.next("x", "x", LONG_MS, 0)
        assert [(one.queue, len(one.tickets)) for one in first.issue()] == [("b", 1)]
        assert first.issue() == []
        claim = take(first, "y", 1, through(chunks[1]))
        assert len(claim.downstream_tickets) == 1
        assert last.status().tickets == 0

    def test_a_helper_is_no_slot_of_its_own(self, queues: list[Ledger]) -> None:
        first, _, _ = queues
        fill(first, 1, 1, leave=False)
        (chunk,) = take(first, "x").chunks
        first.enroll("helper-1", "helper-1", LONG_MS)
        assert len(take(first, "x", 1, through(chunk)).downstream_tickets) == 1

    def test_who_moves_takes_the_place_of_a_ticket_that_no_slot_has_shown(self, queues: list[Ledger]) -> None:
        first, second, _ = queues
        fill(first, 1, 1, leave=False)
        (chunk,) = take(first, "x").chunks
        claim = take(first, "x", 1, through(chunk))
        (sent,) = claim.downstream_tickets  # to another slot, which is elsewhere
        first.next("x", "x", LONG_MS, 1, completions=[through(claim.chunks[0])], downstream_cap=1)
        assert second.status().tickets == 1
        assert first.move("a", "x", "x", "x-1", LONG_MS) == "b"
        assert second.status().tickets == 1
        assert second.next(sent, "late", LONG_MS, 1).lost

    def test_a_bound_on_slots_holds_for_those_that_move(self, redis: Redis) -> None:
        first, second = chain(
            redis, ("a", FlowOptions(paths=True, head="a")), ("b", FlowOptions(head="a")), max_workers=1
        )
        fill(first, 1, 1, leave=False)
        claims = [take(first, "x").chunks[0]]
        take(first, "x", 1, through(claims[0]))
        claims = list(first.next("x", "x", LONG_MS, 1).chunks)
        first.next("x", "x", LONG_MS, 1, completions=[through(one) for one in claims])
        assert first.move("a", "x", "x", "x-1", LONG_MS) == "b"
        take(first, "y", 1)
        assert first.move("a", "y", "y", "y-1", LONG_MS) == ""
        assert second.status().tickets == 1

    def test_a_slot_of_a_queue_that_has_ended_moves_on(self, queues: list[Ledger]) -> None:
        first, second, _ = queues
        fill(first, 1)
        (chunk,) = take(first, "x").chunks
        assert take(first, "x", 1, through(chunk)).ended == "DRAINED"
        assert first.move("a", "x", "x", "x-1", LONG_MS) == "b"
        assert second.next("x-1", "x", LONG_MS, 1).chunks

    def test_a_queue_that_has_something_again_is_not_left(self, queues: list[Ledger]) -> None:
        first, _, _ = queues
        fill(first, 1, leave=False)
        (chunk,) = take(first, "x").chunks
        take(first, "x", 1, through(chunk))
        fill(first, 1, leave=False)
        assert first.move("a", "x", "x", "x-1", LONG_MS) == ""
        assert first.next("x", "x", LONG_MS, 1).chunks

    def test_what_is_put_upstream_calls_slots_that_wait_downstream(self, queues: list[Ledger]) -> None:
        first, second, last = queues
        lease = first.join("filler")
        first.put("filler", lease.epoch, 1, [(1, b"1")], 1)
        (chunk,) = take(first, "x").chunks
        take(first, "x", 1, through(chunk))
        assert first.move("a", "x", "x", "x-1", LONG_MS) == "b"
        (chunk,) = second.next("x-1", "x", LONG_MS, 1).chunks
        second.next("x-1", "x", LONG_MS, 1, completions=[through(chunk)], downstream_cap=1)
        assert first.move("b", "x-1", "x", "x-2", LONG_MS) == "c"
        (chunk,) = last.next("x-2", "x", LONG_MS, 1).chunks
        last.next("x-2", "x", LONG_MS, 1, completions=[through(chunk, way=SHOWN)])
        assert first.move("c", "x-2", "x", "x-3", LONG_MS) == ""
        assert last.next("x-2", "x", LONG_MS, 1).called is False
        assert first.put("filler", lease.epoch, 2, [(1, b"2")], 1).tickets == []
        assert last.redis.llen(keys.of_queue("job", "c", "bell")) == 1
        assert last.next("x-2", "x", LONG_MS, 1).called is True
        assert first.move("c", "x-2", "x", "x-3", LONG_MS) == "a"

    def test_the_reaper_issues_whoever_is_there(self, queues: list[Ledger]) -> None:
        first, second, _ = queues
        lease = first.join("filler")
        first.put("filler", lease.epoch, 1, [(1, b"1")], 1)
        (chunk,) = take(first, "x").chunks
        first.next("x", "x", LONG_MS, 1, completions=[through(chunk)], downstream_cap=1)
        assert second.status().tickets == 0
        tickets, *_ = second.reap(1, nothing_under_way=True)
        assert len(tickets) == 1

    def test_who_waits_for_a_rate_goes_where_there_is_work_and_is_called_back(self, redis: Redis) -> None:
        first, second = chain(redis, ("a", FlowOptions(paths=True, head="a", rate=2)), ("b", FlowOptions(head="a")))
        lease = first.join("filler")
        first.put("filler", lease.epoch, 1, [(1, b"1"), (1, b"2")], 1)
        (chunk,) = take(first, "x").chunks
        claim = first.next("x", "x", LONG_MS, 1, completions=[through(chunk)], downstream_cap=1)
        assert claim.wait_ms > 0
        assert claim.called
        assert first.move("a", "x", "x", "x-1", LONG_MS) == "b"
        (chunk,) = second.next("x-1", "x", LONG_MS, 1).chunks
        assert second.next("x-1", "x", LONG_MS, 1, completions=[through(chunk, way=SHOWN)]).called
        assert first.move("b", "x-1", "x", "x-2", LONG_MS) == "a"

    def test_a_slot_beside_one_that_gathers_moves(self, redis: Redis) -> None:
        first, second, last = chain(
            redis, ("a", FlowOptions(paths=True, head="a")), ("b", FlowOptions(reduce=True, head="a")),
            ("c", FlowOptions(head="a")),
        )  # fmt: skip
        fill(first, *[1] * 6)
        for _ in range(6):
            (chunk,) = take(first, "x").chunks
            take(first, "x", 0, through(chunk))
        assert second.next("1", "y", LONG_MS, 1).chunks or take(second, "y").chunks
        assert last.status().tickets == 0
        assert second.status().tickets == 1
        take(second, "z")
        assert first.move("b", "z", "z", "z-1", LONG_MS) == ""
