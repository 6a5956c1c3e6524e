"""What is inside the envelopes, and the letters of items that were given up."""

from __future__ import annotations

import os
import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lastcall.envelope import Sealer
from lastcall.errors import BadEnvelope, ItemTimeout, NotDeserializable, WorkerLost
from lastcall.letters import read_letter, write_letter
from lastcall.outcome import pack_error
from lastcall.payload import Outcome, open_each, open_items, open_outcome, seal_dumped, seal_outcome, seal_values
from lastcall.results import Entry
from lastcall.state.ledger import Ledger
from lastcall.state.records import Chunk

SEALER = Sealer(b"a key for the tests")
PLAIN = Sealer(None)
LEDGER = cast(Ledger, SimpleNamespace(job="job", name="queue", shown="job/queue"))


def chunk(payload: bytes, items: int, start: int = 0, id: str = "1-1") -> Chunk:
    return Chunk(id, items, start, payload)


@pytest.mark.parametrize("sealer", [SEALER, PLAIN])
def test_items_come_out_as_they_went_in(sealer: Sealer) -> None:
    items = [1, "two", None]
    together = seal_values(sealer, "job", "queue", "1-1", items)
    each = seal_dumped(sealer, "job", "queue", "1-1", [sealer.dump(item) for item in items])
    for payload in (together, each):
        assert open_items(sealer, "job", "queue", chunk(payload, 3)) == items
        assert open_each(sealer, "job", "queue", chunk(payload, 3)) == (items, {})


def test_a_part_of_a_chunk_keeps_the_envelope_of_the_whole() -> None:
    for payload in (
        seal_values(SEALER, "job", "queue", "1-1", list(range(10))),
        seal_dumped(SEALER, "job", "queue", "1-1", [SEALER.dump(n) for n in range(10)]),
    ):
        part = chunk(payload, 3, 4, "1-1/4:7")
        assert open_items(SEALER, "job", "queue", part) == [4, 5, 6]
        assert open_each(SEALER, "job", "queue", part) == ([4, 5, 6], {})


def test_a_chunk_is_good_for_its_own_place_only() -> None:
    payload = seal_values(SEALER, "job", "queue", "1-1", [1])
    for job, queue, id in (("other", "queue", "1-1"), ("job", "other", "1-1"), ("job", "queue", "1-2")):
        with pytest.raises(BadEnvelope):
            open_items(SEALER, job, queue, chunk(payload, 1, id=id))
    outcome = seal_outcome(SEALER, "job", "queue", "1-1", Outcome(5, [1], {}))
    assert open_outcome(SEALER, "job", "queue", "1-1", outcome) == Outcome(5, [1], {})
    with pytest.raises(BadEnvelope):
        open_outcome(SEALER, "job", "queue", "1-2", outcome)
    # Neither is an input good as an outcome.
    with pytest.raises(BadEnvelope):
        open_outcome(SEALER, "job", "queue", "1-1", payload)


class Missing:
    def __reduce__(self) -> Any:
        return os.stat, ("/no/such/file",)


def test_an_item_that_cannot_be_rebuilt_spoils_no_other_that_was_put_by_itself() -> None:
    dumped = [SEALER.dump(value) for value in (1, Missing(), 3, 4)]
    whole = chunk(seal_dumped(SEALER, "job", "queue", "1-1", dumped), 4)
    with pytest.raises(NotDeserializable):
        open_items(SEALER, "job", "queue", whole)
    items, failed = open_each(SEALER, "job", "queue", whole)
    assert items == [1, None, 3, 4]
    assert list(failed) == [1]
    items, failed = open_each(SEALER, "job", "queue", chunk(whole.payload, 2, 1, "1-1/1:3"))
    assert (items, list(failed)) == ([None, 3], [0])
    with pytest.raises(NotDeserializable):
        open_each(SEALER, "job", "queue", chunk(seal_values(SEALER, "job", "queue", "1-1", [1, Missing()]), 2))


def test_an_entry_tells_where_its_items_were_put() -> None:
    for id, number, start in (("1-7", 7, 0), ("1-7/4:9", 7, 4), ("2-1-7/0:1", 7, 0), ("12-1-345-2", 2, 0)):
        entry = Entry("0-1", id, Outcome(0, [], {}))
        assert (entry.number, entry.start) == (number, start)


@pytest.mark.parametrize("sealer", [SEALER, PLAIN])
def test_a_letter_holds_value_error_attempts_and_worker(sealer: Sealer) -> None:
    error = pack_error(ValueError("bad"), sealer.keyed)
    payload = seal_values(sealer, "job", "queue", "1-1", ["a", "b", [1]])
    record = b"S" + write_letter(
        sealer, "job", "queue", "1-1#2", error, 3, "cpu@box", payload, Chunk("1-1", 3, 0, payload)
    )
    letter = read_letter(sealer, LEDGER, "1-1#2", record)
    assert (letter.item, letter.value, letter.attempts, letter.worker) == ("1-1#2", [1], 3, "cpu@box")
    assert isinstance(letter.error, ValueError)
    assert letter.error.args == ("bad",)
    with pytest.raises(BadEnvelope):
        read_letter(sealer, LEDGER, "1-1#3", record)


def test_a_letter_by_a_script_is_read_out_of_the_chunk_that_was_put() -> None:
    payload = seal_values(SEALER, "job", "queue", "1-1", ["a", "b", "c"])
    about = b"cpu@box\tsignal 9 (SIGKILL)"
    record = b"L" + struct.pack("<I", len(about)) + about + Chunk("", 1, 1, payload, 2, 1, 0).record
    letter = read_letter(SEALER, LEDGER, "1-1#1", record)
    assert (letter.value, letter.attempts, letter.worker) == ("b", 3, "cpu@box")
    assert isinstance(letter.error, WorkerLost)
    assert "item 1-1#1 of queue job/queue was given up after 3 attempts" in str(letter.error)
    assert "(the last time: signal 9 (SIGKILL) on cpu@box)" in str(letter.error)


def test_a_letter_whose_value_cannot_be_rebuilt_here_tells_all_the_rest() -> None:
    payload = seal_dumped(SEALER, "job", "queue", "1-1", [SEALER.dump(Missing())])
    error = pack_error(ValueError("bad"), True)
    record = b"S" + write_letter(SEALER, "job", "queue", "1-1#0", error, 2, "w", payload, Chunk("1-1", 1, 0, payload))
    letter = read_letter(SEALER, LEDGER, "1-1#0", record)
    assert isinstance(letter.value, NotDeserializable)
    assert (letter.attempts, letter.worker, letter.error.args) == (2, "w", ("bad",))


def test_a_letter_of_an_item_that_took_too_long_says_what_time_it_had() -> None:
    payload = seal_values(SEALER, "job", "queue", "1-1", ["a", "b", "c"])
    record = b"T" + struct.pack("<I", 5) + b"\t2500" + Chunk("", 1, 1, payload, 0, 0, 2).record
    letter = read_letter(SEALER, LEDGER, "1-1#1", record)
    assert (letter.value, letter.attempts, letter.worker) == ("b", 2, "")
    assert isinstance(letter.error, ItemTimeout)
    assert "item 1-1#1 of queue job/queue ran for longer than its timeout of 2.5 s, 2 times" in str(letter.error)
