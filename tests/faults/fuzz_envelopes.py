"""Envelopes that were changed on the way: a hundred thousand of them, of which none reaches unpickling.

LASTCALL_FUZZ=1000000 makes it as many.
"""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastcall import envelope
from lastcall.envelope import Sealer
from lastcall.errors import BadEnvelope, NotDeserializable
from lastcall.payload import Outcome, open_items, open_outcome, seal_dumped, seal_outcome, seal_values
from lastcall.state.records import Chunk

pytestmark = pytest.mark.faults

TIMES = int(os.environ.get("LASTCALL_FUZZ", "100000"))
EACH = 500  # mutations of what one example draws

PLACE = ("job", "queue", "1-1")
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text() | st.binary(max_size=200),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
keys = st.binary(min_size=16, max_size=80)

Mutation = Callable[[random.Random, bytes, list[bytes]], bytes]


def flip(dice: random.Random, data: bytes, _: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _bit in range(dice.choice((1, 1, 1, 2, 8))):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def overwrite(dice: random.Random, data: bytes, _: list[bytes]) -> bytes:
    at, size = dice.randrange(len(data)), dice.randrange(1, 20)
    return data[:at] + dice.randbytes(size) + data[at + size :]


def insert(dice: random.Random, data: bytes, _: list[bytes]) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.randbytes(dice.randrange(1, 20)) + data[at:]


def delete(dice: random.Random, data: bytes, _: list[bytes]) -> bytes:
    at = dice.randrange(len(data))
    return data[:at] + data[at + dice.randrange(1, 20) :]


def cut(dice: random.Random, data: bytes, _: list[bytes]) -> bytes:
    return data[: dice.randrange(len(data))]


def splice(dice: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """The head of one with the tail of another: a genuine MAC before a genuine payload of another place."""
    at = dice.choice((1, 17, dice.randrange(len(data))))
    return data[:at] + dice.choice(others)[at:]


def other_kind(dice: random.Random, data: bytes, _: list[bytes]) -> bytes:
    return bytes((dice.randrange(256),)) + data[1:]


def bomb(dice: random.Random, data: bytes, _: list[bytes]) -> bytes:
    """A payload that would run, behind what was there, or behind nothing that fits."""
    return data[: dice.choice((1, 17))] + dice.choice((b"", bytes(16))) + pickle.dumps(Bomb(), 5)


MUTATIONS: tuple[Mutation, ...] = (flip, overwrite, insert, delete, cut, splice, other_kind, bomb)


class Bomb:
    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _explode, ()


def _explode() -> None:
    raise AssertionError("it was unpickled")


class Unpickled(BaseException):
    """Not an Exception, so that nothing takes it for a value that cannot be rebuilt."""


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(*_: object, **__: object) -> None:
        raise Unpickled

    monkeypatch.setattr(envelope.pickle, "loads", loads)


PLAIN = (list, dict, str, bytes, int, float, bool, type(None), msgpack.ExtType, msgpack.Timestamp)
seen = {"times": 0}


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("no_pickle")
def test_no_changed_envelope_of_a_hundred_thousand_is_unpickled() -> None:
    @settings(max_examples=-(-TIMES // EACH), database=None)
    @given(values=st.lists(plain, min_size=1, max_size=6), key=keys, seed=st.integers(0, 2**64))
    def fuzz(values: list[object], key: bytes, seed: int) -> None:
        dice, sealer = random.Random(seed), Sealer(key)
        genuine = [
            seal_values(sealer, *PLACE, values),
            seal_dumped(sealer, *PLACE, [sealer.dump(value) for value in values]),
        ]
        outcome = seal_outcome(sealer, *PLACE, Outcome(7, values, {}))
        elsewhere = [
            outcome,
            seal_values(sealer, "job", "queue", "1-2", values),
            seal_values(sealer, "job2", "queue", "1-1", values),
            seal_values(Sealer(key + b"!"), *PLACE, values),
            seal_values(Sealer(None), *PLACE, [1, "two"]),
        ]
        for _ in range(EACH):
            data = dice.choice(genuine)
            changed = dice.choice(MUTATIONS)(dice, data, elsewhere + genuine)
            if changed in genuine or changed == outcome:  # a mutation that changed nothing, or made the other whole
                changed = dice.choice(elsewhere[1:])
            seen["times"] += 1
            with pytest.raises(BadEnvelope):
                open_items(sealer, *PLACE[:2], Chunk(PLACE[2], len(values), 0, changed))
            with pytest.raises(BadEnvelope):
                open_outcome(sealer, *PLACE, changed)

    seen["times"] = 0
    fuzz()
    assert seen["times"] >= TIMES


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("no_pickle")
def test_a_side_without_a_key_unpickles_nothing_whatever_comes() -> None:
    """There the checksum is anybody's to make: a payload comes to msgpack, which makes plain data or a named error."""
    sealer = Sealer(None)

    @settings(max_examples=-(-TIMES // EACH // 2), database=None)
    @given(values=st.lists(st.text() | st.integers(0, 2**63) | st.binary(max_size=50), max_size=6), seed=st.integers(0))
    def fuzz(values: list[object], seed: int) -> None:
        dice = random.Random(seed)
        payload = msgpack.packb(values)
        others = [pickle.dumps(Bomb(), 5), pickle.dumps(values, 5), msgpack.packb([0, values])]
        for _ in range(EACH):
            changed = dice.choice(MUTATIONS)(dice, payload, others)
            data = bytes((0x12,)) + sealer._mac(PLACE, changed) + changed
            try:
                value = sealer.open(data, *PLACE)
            except (BadEnvelope, NotDeserializable):
                continue
            assert type(value) in PLAIN

    fuzz()


def test_the_trap_of_these_tests_snaps(no_pickle: None) -> None:
    sealer = Sealer(b"a key of the tests")
    with pytest.raises(Unpickled):
        open_items(sealer, "job", "queue", Chunk("1-1", 1, 0, seal_values(sealer, *PLACE, [1])))
