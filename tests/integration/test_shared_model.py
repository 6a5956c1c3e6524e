"""Shared dicts and lists beside Python's own: whatever is done to both, they give and hold the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastcall import Client, Manager
from tests.conftest import start_server

pytestmark = pytest.mark.integration

Operation = tuple[str, tuple[Any, ...]]

HUGE = 2**70
# Several of these are equal: one key.
KEYS = st.sampled_from([
    0, 1, -1, 1.0, True, False, -0.0, 0.5, HUGE, float(HUGE), -HUGE, 1e300, float("inf"), None, "", "a", "1", b"a", b"",
    "\ud800", "\N{SNOWMAN}", (), (1,), (1.0,), ("a", (None, b"a")), (HUGE,),
])  # fmt: skip
NO_KEYS = st.sampled_from([[], {}, ([],)])
VALUES = st.sampled_from([0, 1, None, "x", [1, [2]], {"a": ()}, b"\0"])
DICTS = st.dictionaries(KEYS, VALUES, max_size=3)
ON_DICTS: st.SearchStrategy[Operation] = st.one_of(
    st.tuples(st.just("__setitem__"), st.tuples(KEYS, VALUES)),
    st.tuples(st.sampled_from(["__getitem__", "__delitem__", "__contains__", "get", "pop"]), st.tuples(KEYS)),
    st.tuples(st.sampled_from(["__getitem__", "__delitem__", "__contains__", "get"]), st.tuples(NO_KEYS)),
    st.tuples(st.sampled_from(["get", "pop", "setdefault"]), st.tuples(KEYS, VALUES)),
    st.tuples(
        st.sampled_from(["popitem", "clear", "copy", "keys", "values", "items", "__len__", "__iter__", "__reversed__"]),
        st.just(()),
    ),
    st.tuples(st.just("update"), st.tuples(DICTS | st.lists(st.tuples(KEYS, VALUES), max_size=3) | st.just([1]))),
    st.tuples(st.sampled_from(["__or__", "__ror__", "__ior__"]), st.tuples(DICTS)),
)

NUMBERS = st.integers(0, 4)
INDICES = st.integers(-6, 6) | st.sampled_from([HUGE, -HUGE, True])
LISTS = st.lists(NUMBERS, max_size=4)
ON_LISTS: st.SearchStrategy[Operation] = st.one_of(
    st.tuples(st.just("append"), st.tuples(NUMBERS)),
    st.tuples(st.sampled_from(["extend", "__iadd__", "__add__"]), st.tuples(LISTS)),
    st.tuples(st.sampled_from(["__getitem__", "__delitem__", "pop"]), st.tuples(INDICES | st.just("a"))),
    st.tuples(st.sampled_from(["__getitem__", "__delitem__"]), st.tuples(st.slices(5))),
    st.tuples(st.sampled_from(["__setitem__", "insert"]), st.tuples(INDICES, NUMBERS)),
    st.tuples(st.just("__setitem__"), st.tuples(st.slices(5), LISTS | st.just(3))),
    st.tuples(st.sampled_from(["remove", "index", "count", "__contains__"]), st.tuples(NUMBERS)),
    st.tuples(st.just("index"), st.tuples(NUMBERS, INDICES, INDICES)),
    st.tuples(
        st.sampled_from(["pop", "clear", "reverse", "sort", "copy", "__len__", "__iter__", "__reversed__"]), st.just(())
    ),
    st.tuples(st.sampled_from(["__mul__", "__rmul__", "__imul__"]), st.tuples(st.integers(-1, 2))),
)


@pytest.fixture(scope="module")
def manager() -> Iterator[Manager]:
    server = start_server(tcp=False)
    try:
        with Client(server.unix_url, "a key beside a model") as client, Manager(client=client) as manager:
            yield manager
    finally:
        server.close()


def outcome(thing: Any, operation: Operation) -> Any:
    """What it gives, in plain values; or the class of what it raises."""
    name, args = operation
    try:
        given = getattr(thing, name)(*args)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        return type(error)
    if given is thing:
        return "itself"
    views = name in ("keys", "values", "items", "__iter__", "__reversed__")
    return list(given) if views else given


@given(first=DICTS, operations=st.lists(ON_DICTS, max_size=30))
def test_a_shared_dict_does_what_a_dict_does(manager: Manager, first: Any, operations: list[Operation]) -> None:
    ours, own = manager.dict(first), dict(first)
    for operation in operations:
        assert outcome(ours, operation) == outcome(own, operation), operation
        assert ours.items() == list(own.items())
    assert dict(ours) == (ours | {}) == own
    assert {**ours} == own
    assert len(ours) == len(own)


@given(first=LISTS, operations=st.lists(ON_LISTS, max_size=30))
def test_a_shared_list_does_what_a_list_does(manager: Manager, first: Any, operations: list[Operation]) -> None:
    ours, own = manager.list(first), list(first)
    for operation in operations:
        if len(own) > 50:
            break
        assert outcome(ours, operation) == outcome(own, operation), operation
        assert ours[:] == own
    assert len(ours) == len(own)
