"""What is taken out of an envelope, and comes back into it."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from lastcall.envelope import Sealer, load_beside
from lastcall.errors import AsideLost, ItemTooLarge, NotSerializable
from lastcall.parcel import Parcel, Part, fetching
from lastcall_worker.store import Store
from tests.arrays import Block
from tests.workers import environment

SEALER = Sealer(b"k" * 32)
LEAST = 1000
Send = Callable[..., Any]

WITHOUT_NUMPY = """
import sys
sys.modules["numpy"] = None
import pickle
from lastcall.envelope import Sealer
from lastcall.parcel import Parcel, fetching

class Block:
    def __init__(self, data):
        self.data = memoryview(data)
    def __reduce_ex__(self, protocol):
        return Block, (pickle.PickleBuffer(self.data),)

box, sealer = Parcel("job", 1000, 10_000, copied=True), Sealer(b"k" * 32)
dumped = sealer.dump(Block(bytearray(5000)), box)
aside = {digest: bytes(raw) for digest, raw in box.contents.items()}
fetching.set(lambda job, part: aside[part.digest])
back = sealer.load(dumped)
print(len(back.data), len(dumped) < 3000)
"""


def parcel(*, copied: bool = True, limit: int = 1 << 20) -> Parcel:
    return Parcel("job", LEAST, limit, copied=copied)


@pytest.fixture
def send() -> Iterator[Send]:
    """Takes a value to the other side; what lies aside is in send.aside by its digest."""
    aside: dict[bytes, bytes] = {}

    def fetch(job: str, part: Part) -> bytes:
        assert job == "job"
        assert SEALER.digest(aside[part.digest]) == part.digest
        return aside[part.digest]

    def sent(value: Any, *, copied: bool = True) -> Any:
        box = parcel(copied=copied)
        sealed = SEALER.seal(value, "job", parcel=box)
        assert len(sealed) < 5 * LEAST or not box.taken
        aside.update((digest, bytes(raw)) for digest, raw in box.contents.items())
        return SEALER.open(sealed, "job")

    sent.aside = aside  # type: ignore[attr-defined]
    before = fetching.set(fetch)
    yield sent
    fetching.reset(before)


@pytest.mark.parametrize("value", [1, "x" * 5000, b"x" * (LEAST - 1), np.arange(10), [b"x"] * 5000], ids=lambda v: "")
def test_what_is_small_or_no_buffer_travels_as_ever(value: object) -> None:
    box = parcel()
    assert SEALER.dump(value, box) == SEALER.dump(value)
    assert box.taken == []


@pytest.mark.parametrize(
    "value", [b"x" * LEAST, bytearray(b"x" * LEAST), [b"x" * 5000, {"a": bytearray(5000)}, "y" * 500]], ids=lambda v: ""
)
def test_large_bytes_lie_aside_and_come_back_as_they_were(send: Any, value: Any) -> None:
    assert send(value) == value
    assert type(send(value)) is type(value)
    assert send.aside


def test_arrays_come_back_whole(send: Any) -> None:
    arrays = [
        np.arange(1000.0),
        np.arange(1000.0).reshape(10, 100).T,
        np.arange(2000.0)[::2],
        np.array(["a", "bc"] * 1000),
        np.array([None, "x"] * 1000),
        np.arange(3),
    ]
    for one, back in zip(arrays, send(arrays), strict=True):
        assert back.dtype == one.dtype
        assert np.array_equal(one, back)
    assert len(send.aside) == 3  # the first two have the same bytes


def test_what_is_copied_may_be_written_into_and_spoils_nothing(send: Any) -> None:
    array, data = np.zeros(1000), bytearray(5000)
    one, other = send(array), send(array)
    one[0] = 1
    send(data)[0] = 1
    assert (array[0], other[0], send(array)[0], send(data)[0]) == (0, 0, 0, 0)


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize(
    "array",
    [np.zeros(2000)[::2], np.zeros(1000).view(np.recarray), np.ma.zeros(1000), np.zeros((50, 50, 2))[..., 0].T],
    ids=["with gaps", "of a class of its own", "masked", "a part, turned"],
)
def test_arrays_that_pickle_gives_as_bytes_spoil_nothing_either(send: Any, array: Any, copied: bool) -> None:
    for _ in range(2):
        back = send(array, copied=copied)
        assert not np.any(back)
        back[0] = 1
    assert [bytes(len(data)) for data in send.aside.values()] == list(send.aside.values())


def test_bytes_beside_a_function_of_main_are_pickled_in_band_no_more_than_once() -> None:
    box, passes = parcel(), []

    def noted(value: Any, protocol: int, **options: Any) -> bytes:
        payload = pickle.dumps(value, protocol, **options)
        passes.append(len(payload))
        return payload

    for _ in range(2):  # pickle, then cloudpickle, since the value refers to __main__
        assert len(box.dump(b"x" * 5000, pickle.Pickler, noted)) < LEAST
    assert passes == [pytest.approx(5000, abs=100)]
    assert len(box.taken) == 1


def test_what_is_not_copied_is_read_only(send: Any) -> None:
    back = send(np.zeros(1000), copied=False)
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 1


def test_what_was_read_only_stays_so_and_is_not_copied(send: Any) -> None:
    array = np.zeros(1000)
    array.flags.writeable = False
    back = send(array)
    assert not back.flags.writeable
    (data,) = send.aside.values()
    assert np.shares_memory(back, np.frombuffer(data))


def test_the_same_content_lies_aside_once(send: Any) -> None:
    one, other = send((np.ones(1000), np.ones(1000)))
    assert len(send.aside) == 1
    one[0] = 2
    assert other[0] == 1  # they were two, and are


def test_what_is_there_twice_is_one_on_the_other_side(send: Any) -> None:
    array, data, buffer = np.ones(1000), b"x" * 5000, bytearray(5000)
    a, b, c, d, e, f = send((array, array, data, data, buffer, buffer))
    assert a is b
    assert c is d
    assert e is f


def test_a_closure_travels_by_value_without_its_array(send: Any) -> None:
    array, data = np.ones(1000), b"y" * 5000
    back = send(lambda: (array.sum(), len(data)))
    assert back() == (1000, 5000)
    assert len(send.aside) == 2


def test_code_for_another_python_is_refused_before_it_is_loaded(send: Any) -> None:
    with pytest.raises(RuntimeError, match=r"Python 2\.7"):
        load_beside("job", (), b"not looked at", (2, 7))


def test_a_digest_needs_the_key() -> None:
    assert SEALER.digest(b"x") != Sealer(b"j" * 32).digest(b"x")
    assert SEALER.digest(b"x") == SEALER.digest(memoryview(b"x"))


@pytest.mark.parametrize("value", [b"x" * 5000, np.zeros(5000)], ids=["bytes", "array"])
def test_a_buffer_over_the_limit_is_refused(value: Any) -> None:
    with pytest.raises(ItemTooLarge):
        SEALER.dump(value, parcel(limit=4999))


def test_what_cannot_be_pickled_says_so_with_a_parcel_too() -> None:
    with pytest.raises(NotSerializable, match="lock"):
        SEALER.dump((np.zeros(5000), threading.Lock()), parcel())


def test_without_a_key_nothing_is_taken() -> None:
    box = parcel()
    plain = Sealer(None)
    assert plain.load(plain.dump(b"x" * 5000, box)) == b"x" * 5000
    assert box.taken == []


def test_outside_of_a_worker_it_is_said_that_it_cannot_be_had() -> None:
    dumped = SEALER.dump(b"x" * 5000, parcel())
    with pytest.raises(AsideLost, match="workers run"):
        SEALER.load(dumped)


def test_it_works_where_numpy_is_not_installed() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_NUMPY], env=environment(None, None), capture_output=True, text=True, timeout=60
    )
    assert (ran.stdout, ran.stderr) == ("5000 True\n", "")


def test_a_block_of_ones_own_lies_aside(send: Any) -> None:
    assert bytes(send(Block(b"z" * 5000)).data) == b"z" * 5000
    assert len(send.aside) == 1


# The store of a worker's process


def test_the_store_keeps_what_was_used_last_within_its_bound() -> None:
    store, asked = Store(), []

    def get(name: bytes, size: int = 40) -> bytes:
        return store.get(name, 100, lambda: asked.append(name) or name * size)  # type: ignore[func-returns-value]

    for name in (b"a", b"b", b"a", b"c", b"a", b"b"):
        assert get(name) == name * 40
        assert store.size <= 100
    assert asked == [b"a", b"b", b"c", b"b"]


def test_the_store_does_not_keep_what_is_larger_than_its_bound() -> None:
    store = Store()
    for _ in range(2):
        assert len(store.get(b"big", 100, lambda: b"x" * 101)) == 101
    assert store.size == 0


def test_threads_that_ask_for_the_same_wait_for_one() -> None:
    store, asked, begun, go = Store(), [], threading.Event(), threading.Event()

    def fetch() -> bytes:
        asked.append(1)
        begun.set()
        assert go.wait(30)
        return b"x"

    threads = [threading.Thread(target=store.get, args=(b"a", 100, fetch)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    go.set()
    for thread in threads:
        thread.join(30)
    assert asked == [1]


def test_a_fetch_that_fails_is_tried_again_by_the_next() -> None:
    store = Store()

    def fail() -> bytes:
        raise AsideLost("job", "gone")

    with pytest.raises(AsideLost):
        store.get(b"a", 100, fail)
    assert store.get(b"a", 100, lambda: b"x") == b"x"


def test_an_error_of_it_pickles() -> None:
    error = pickle.loads(pickle.dumps(AsideLost("calls-1", "it is gone")))
    assert (error.job, error.why, str(error)) == ("calls-1", "it is gone", str(AsideLost("calls-1", "it is gone")))


@pytest.mark.parametrize("known", [False, True])
def test_what_is_written_into_meanwhile_is_sent_as_what_its_name_says(known: bool) -> None:
    array = np.zeros(5000, np.uint8)

    def digest(data: memoryview) -> bytes:
        name = SEALER.digest(data)
        array[0] += 1  # as another thread might
        return name

    box = Parcel("job", LEAST, 1 << 20, copied=True, known=lambda _: known)
    box.dump(array, pickle.Pickler, pickle.dumps)
    (part,) = box.seal(digest)
    ((raw, *_),) = box.taken
    if known:  # then it is not sent, and need not be copied
        assert part.digest == SEALER.digest(bytes(5000))
        assert np.shares_memory(np.frombuffer(raw, np.uint8), array)
    else:
        assert part.digest == SEALER.digest(raw)
