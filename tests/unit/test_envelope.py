"""The envelope: what is sealed comes out, for its place only, and nothing else is unpickled."""

import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastcall import envelope
from lastcall.envelope import OVERHEAD_BYTES, Sealer, dump_pickle, load_by_value, unserializable
from lastcall.errors import BadEnvelope, ConfigError, NotDeserializable, NotSerializable

KEY = b"sixteen bytes or more"
PLACE = ("job", "queue", "7")

text = st.text(st.characters())  # with lone surrogates, as odd file names have them
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | text | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(text | st.integers(-9, 9), inner),
)
contexts = st.lists(st.text(st.characters(exclude_characters="\0")), max_size=4)
sealers = st.sampled_from([Sealer(KEY), Sealer(None)])

detonated: list[str] = []


def detonate() -> None:
    detonated.append("boom")


class Bomb:
    """Unpickling it leaves a trace."""

    def __reduce__(self) -> tuple[Any, ...]:
        return detonate, ()


@pytest.fixture(autouse=True)
def _nothing_detonated_before() -> Iterator[None]:
    detonated.clear()
    yield
    detonated.clear()


@given(values, contexts, sealers)
def test_a_value_comes_out_as_it_went_in(value: object, context: list[str], sealer: Sealer) -> None:
    opened = sealer.open(sealer.seal(value, *context), *context)
    assert repr(opened) == repr(value)  # a NaN equals nothing


@pytest.mark.parametrize("key", [KEY, None])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_any_kind_are_opened(key: bytes | None, kind: type) -> None:
    sealer = Sealer(key)
    assert sealer.open(kind(sealer.seal([1, "a"], *PLACE)), *PLACE) == [1, "a"]


def test_with_a_key_python_values_keep_their_types() -> None:
    value = {"path": Path("/tmp"), "pair": (1, 2), "set": frozenset("ab"), "complex": 1j}
    assert Sealer(KEY).open(Sealer(KEY).seal(value)) == value


def test_without_a_key_tuples_arrive_as_lists() -> None:
    assert Sealer(None).open(Sealer(None).seal((1, (2, 3)))) == [1, [2, 3]]


def test_an_envelope_adds_seventeen_bytes() -> None:
    assert len(Sealer(KEY).seal([1, 2])) == len(pickle.dumps([1, 2], 5)) + OVERHEAD_BYTES


def test_a_key_longer_than_blake2_takes_counts_whole() -> None:
    sealed = Sealer(b"k" * 100).seal(1)
    assert Sealer(b"k" * 100).open(sealed) == 1
    with pytest.raises(BadEnvelope):
        Sealer(b"k" * 99 + b"x").open(sealed)


def test_a_short_key_is_refused_with_its_length_but_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"at least 16 bytes, got 9.*lastcall secrets") as caught:
        Sealer(b"too short")
    assert "too short" not in str(caught.value)


def test_a_sealer_does_not_show_its_key() -> None:
    assert repr(Sealer(KEY)) == "Sealer(keyed)"
    assert Sealer(KEY).keyed
    assert not Sealer(None).keyed


# Nothing is unpickled before it verifies


def test_the_bomb_works() -> None:
    Sealer(KEY).open(Sealer(KEY).seal(Bomb()))
    assert detonated == ["boom"]


def test_an_envelope_of_another_key_is_refused_and_not_unpickled() -> None:
    sealed = Sealer(b"another key of good length").seal(Bomb(), *PLACE)
    with pytest.raises(BadEnvelope, match=r"job/queue/7: .*another key.*LASTCALL_KEY") as caught:
        Sealer(KEY).open(sealed, *PLACE)
    assert caught.value.context == PLACE
    assert not detonated


@pytest.mark.parametrize(
    "other",
    [
        (),
        ("job",),
        ("job", "queue", "8"),
        ("job", "queue", "7", ""),
        ("", "job", "queue", "7"),
        ("job", "queue7"),
        ("jobqueue", "7"),
        ("queue", "job", "7"),
    ],
)
@pytest.mark.parametrize("key", [KEY, None])
def test_an_envelope_for_another_place_is_refused(key: bytes | None, other: tuple[str]) -> None:
    sealer = Sealer(key)
    with pytest.raises(BadEnvelope, match="made for another place"):
        sealer.open(sealer.seal(Bomb() if key else 1, *PLACE), *other)
    assert not detonated


@given(contexts, contexts)
def test_two_places_are_one_only_if_all_their_parts_are(one: list[str], other: list[str]) -> None:
    sealer = Sealer(KEY)
    sealed = sealer.seal(1, *one)
    if one == other:
        assert sealer.open(sealed, *other) == 1
    else:
        with pytest.raises(BadEnvelope):
            sealer.open(sealed, *other)


@pytest.mark.parametrize("context", [("a\0b",), ("a", "b\0"), ("\0",)])
def test_a_place_cannot_be_forged_with_a_separator(context: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="NUL"):
        Sealer(KEY).seal(1, *context)


def test_a_side_with_a_key_refuses_what_has_none() -> None:
    with pytest.raises(BadEnvelope, match=r"got one without a key.*LASTCALL_KEY"):
        Sealer(KEY).open(Sealer(None).seal(1))


def test_a_side_without_a_key_refuses_what_is_signed_and_does_not_unpickle_it() -> None:
    with pytest.raises(BadEnvelope, match=r"this side has no key.*LASTCALL_KEY"):
        Sealer(None).open(Sealer(KEY).seal(Bomb()))
    assert not detonated


def test_a_pickle_with_a_valid_checksum_is_not_unpickled_where_there_is_no_key() -> None:
    forger = Sealer(None)
    with patch.object(envelope, "_dump_plain", lambda value: pickle.dumps(value)):
        forged = forger.seal(Bomb())
    with pytest.raises(NotDeserializable):
        Sealer(None).open(forged)
    assert not detonated


def test_an_envelope_of_a_later_version_is_named_as_such() -> None:
    sealed = bytearray(Sealer(KEY).seal(Bomb()))
    sealed[0] = 0x21
    with pytest.raises(BadEnvelope, match=r"expected version 1 .*0x21.*same version of lastcall"):
        Sealer(KEY).open(sealed)
    assert not detonated


@pytest.mark.parametrize("data", [b"", b"\x11", b"\x11" + b"x" * 15])
def test_what_is_too_short_for_an_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(BadEnvelope, match=f"at least 17 bytes, got {len(data)}"):
        Sealer(KEY).open(data)


@st.composite
def mutated(draw: st.DrawFn, original: bytes) -> bytes:
    """An envelope with bytes changed, removed, inserted, or another tail."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(["change", "remove", "insert", "cut", "append", "repeat"]))
        if how == "change" and data:
            data[at] ^= draw(st.integers(1, 255))
        elif how == "remove":
            del data[at : at + draw(st.integers(1, 20))]
        elif how == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=20))
        elif how == "cut":
            del data[at:]
        elif how == "append":
            data += draw(st.binary(min_size=1, max_size=20))
        else:
            data += data[at:]
    return bytes(data)


BOMB = Sealer(KEY).seal(Bomb(), *PLACE)


@given(mutated(BOMB) | mutated(BOMB[:OVERHEAD_BYTES]) | st.binary(max_size=100))
def test_no_changed_envelope_reaches_pickle(data: bytes) -> None:
    if data == BOMB:
        return  # two changes that undid each other
    for sealer in (Sealer(KEY), Sealer(None)):
        with patch.object(pickle, "loads") as loads:
            try:
                sealer.open(data, *PLACE)
            except BadEnvelope:
                pass
            except NotDeserializable:
                assert not sealer.keyed  # without a key anyone can make the checksum
            else:
                assert not sealer.keyed
        assert not loads.called


def test_the_spy_of_the_test_above_sees_a_genuine_envelope() -> None:
    with patch.object(pickle, "loads") as loads:
        Sealer(KEY).open(BOMB, *PLACE)
    assert loads.called


@given(st.binary(max_size=200))
def test_any_bytes_with_a_valid_checksum_give_plain_data_or_a_named_error(payload: bytes) -> None:
    with patch.object(envelope, "_dump_plain", lambda value: value):
        forged = Sealer(None).seal(payload)
    with patch.object(pickle, "loads") as loads:
        try:
            opened = Sealer(None).open(forged)
        except NotDeserializable:
            opened = None
    assert not loads.called
    assert isinstance(
        opened,
        None | bool | int | float | str | bytes | list | dict | msgpack.ExtType | msgpack.Timestamp,
    )


# What cannot travel


def test_what_neither_pickle_nor_cloudpickle_takes_is_named() -> None:
    with pytest.raises(NotSerializable) as caught:
        Sealer(KEY).seal(threading.Lock())
    assert caught.value.type_name == "_thread.lock"
    assert "pickle: TypeError" in caught.value.reason
    assert "cloudpickle: TypeError" in caught.value.reason


def test_without_a_key_a_python_object_is_refused_with_what_to_do() -> None:
    with pytest.raises(NotSerializable, match=r"pathlib\.\w+.*LASTCALL_KEY") as caught:
        Sealer(None).seal(Path("/tmp"))
    assert caught.value.type_name.startswith("pathlib.")


@pytest.mark.parametrize("value", [2**64, {1, 2}, 1j])
def test_without_a_key_only_plain_values_are_taken(value: object) -> None:
    with pytest.raises(NotSerializable, match="without a key only"):
        Sealer(None).seal([value])


@pytest.mark.parametrize("key", [KEY, None])
def test_the_item_that_cannot_be_sent_is_found(key: bytes | None) -> None:
    sealer = Sealer(key)
    items = [1, "a", threading.Lock(), threading.Lock()]
    with pytest.raises(NotSerializable):
        sealer.seal(items)
    found = unserializable(sealer, items)
    assert found is not None
    index, error = found
    assert index == error.index == 2
    assert "item 2 (a _thread.lock)" in str(error)
    assert unserializable(sealer, items[:2]) is None


def test_an_object_whose_own_pickling_fails_in_any_way_is_named() -> None:
    class Odd:
        def __reduce__(self) -> str:
            raise ZeroDivisionError("odd")

    with pytest.raises(NotSerializable, match="ZeroDivisionError: odd"):
        Sealer(KEY).seal(Odd())


def test_lambdas_and_local_functions_travel_by_value() -> None:
    offset = 40
    sealer = Sealer(KEY)
    assert sealer.open(sealer.seal(lambda x: x + offset))(2) == 42


def test_a_genuine_value_whose_module_is_missing_here_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_there.py").write_text("class Thing:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_there  # type: ignore[import-not-found]

    sealed = Sealer(KEY).seal(only_there.Thing())
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "only_there")
    with pytest.raises(NotDeserializable, match="install the module only_there here") as caught:
        Sealer(KEY).open(sealed)
    assert caught.value.module == "only_there"


MAIN = """
import sys
from multiprocessing import get_context
from lastcall.envelope import Sealer

class Thing:
    def __init__(self, value):
        self.value = value

def double(thing):
    return Thing(2 * thing.value)

def seal(out):
    with open(out, "wb") as file:
        file.write(Sealer(b"sixteen bytes or more").seal([double, Thing(21)]))

if __name__ == "__main__":
    out, how = sys.argv[1:]
    if how == "main":
        seal(out)
    else:
        child = get_context("spawn").Process(target=seal, args=(out,))
        child.start()
        child.join()
"""


@pytest.mark.parametrize("how", ["main", "child"])
def test_what_the_main_module_defines_is_opened_in_a_process_with_another(tmp_path: Path, how: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(MAIN)
    subprocess.run([sys.executable, script, tmp_path / "out", how], check=True, timeout=60)
    double, thing = Sealer(KEY).open((tmp_path / "out").read_bytes())
    assert double(thing).value == 42


def test_a_value_that_merely_mentions_main_comes_out_as_it_went_in() -> None:
    text = 'if __name__ == "__main__": main()'
    assert pickle.loads(dump_pickle([text])) == [text]


def test_what_goes_by_value_from_another_python_is_refused_before_it_is_rebuilt() -> None:
    version = (sys.version_info[0], sys.version_info[1] + 1)
    with pytest.raises(RuntimeError, match=rf"from Python {version[0]}\.{version[1]}, and this is Python"):
        load_by_value(version, b"not even a pickle")
    assert load_by_value(sys.version_info[:2], pickle.dumps("mine")) == "mine"
