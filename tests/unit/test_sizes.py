"""How many items a chunk shall hold, found by measuring."""

from __future__ import annotations

import itertools

import pytest

from lastcall.feed import MOST_BYTES, MOST_ITEMS, TARGET_S, Sizes

SLOTS = 2


def grow(sizes: Sizes, item_us: float, overhead_us: float = 0.0) -> list[int]:
    """The sizes of a chunk each, until they are grown: a chunk takes an overhead and its items."""
    seen = [sizes.next(SLOTS)]
    while not sizes.grown and len(seen) < 20:
        items = sizes.next(SLOTS)
        sizes.learn(overhead_us + item_us * items, items)
        seen.append(sizes.next(SLOTS))
    return seen


def test_a_chunk_comes_to_hold_its_share_of_work() -> None:
    sizes = Sizes()
    assert grow(sizes, item_us=1_000)[0] == 1
    assert sizes.size == pytest.approx(TARGET_S / 1e-3, rel=0.01)
    assert sizes.chunk_s == pytest.approx(TARGET_S, rel=0.01)


def test_what_a_small_chunk_takes_besides_its_items_does_not_keep_it_small() -> None:
    sizes = Sizes(remaining=10**6)
    seen = grow(sizes, item_us=0.5, overhead_us=120)
    assert seen[-1] == MOST_ITEMS
    assert len(seen) <= 5


def test_a_chunk_grows_by_no_more_than_its_items_have_shown() -> None:
    sizes = Sizes()
    seen = grow(sizes, item_us=2_000)
    assert max(after / before for before, after in itertools.pairwise(seen)) <= 8
    known = Sizes(remaining=10**6)
    known.learn(100, 1)
    assert known.size == 100  # which take 10 ms if each takes what the first one did, all included
    unknown = Sizes()  # all that is left may be in one chunk, and may take longer
    unknown.learn(100, 1)
    assert unknown.size == 8


def test_sizes_are_grown_when_a_whole_chunk_has_told_them() -> None:
    sizes = Sizes(remaining=10**6)
    sizes.learn(100, 1)
    assert not sizes.grown
    sizes.learn(100 * sizes.size, sizes.size)
    assert sizes.size == TARGET_S / 100e-6
    assert not sizes.grown
    sizes.learn(100 * sizes.size, sizes.size)
    assert sizes.grown


def test_the_latest_chunks_count_for_more_the_more_items_they_had() -> None:
    sizes = Sizes()
    sizes.learn(1_000, 1)
    sizes.learn(99 * 10, 99)
    assert sizes.chunk_s / sizes.size == pytest.approx(0.01 * 1e-3 + 0.99 * 10e-6)
    many = Sizes()
    many.learn(10 * 1_000_000, 1_000_000)
    many.learn(1_000, 1)  # items have become slower: a few tell
    assert many.chunk_s / many.size == pytest.approx(0.7 * 10e-6 + 0.3 * 1e-3)


def test_chunks_shrink_towards_an_end_that_is_known_but_not_below_what_is_worth_a_round_trip() -> None:
    sizes = Sizes(remaining=1_000)
    sizes.learn(10, 10)
    sizes.learn(10_000, 10_000)  # 1 us each
    assert sizes.next(SLOTS) == 2_000  # 2 ms
    slow = Sizes(remaining=1_000)
    slow.learn(1_000, 1)
    for _ in range(4):
        slow.learn(1_000 * slow.size, slow.size)
    slow.took(960, 0.0)
    assert slow.next(SLOTS) == 10


def test_large_items_make_small_chunks() -> None:
    sizes = Sizes()
    sizes.item_bytes = MOST_BYTES / 4
    assert grow(sizes, item_us=1)[-1] == 4


def test_a_given_size_is_the_size() -> None:
    sizes = Sizes(7, remaining=20)
    assert sizes.grown
    sizes.learn(1, 1)
    assert sizes.next(SLOTS) == 7


def test_what_is_left_of_an_input_of_known_length_may_fit_into_some_chunks() -> None:
    sizes = Sizes(remaining=100)
    sizes.learn(1_000, 1)
    assert sizes.size == 10
    assert not sizes.fits(9)
    assert sizes.fits(10)
    sizes.took(10, 0.0)
    assert sizes.fits(9)
    assert not Sizes().fits(10**9)
