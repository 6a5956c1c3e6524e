"""Functions that travel by value: when their pickles may be sent again."""

from __future__ import annotations

import math
import sys
import types
import xml
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any

import cloudpickle
import pytest

from lastcall.unchanged import unchanged


def made(source: str, **others: Any) -> Any:
    """The function f of a script, whose globals are f.__globals__."""
    space: dict[str, Any] = {"__name__": "__main__", **others}
    exec(source, space)
    return space["f"]


SCRIPT = """
FACTOR, NAMES = 3, ("a", b"b", None, frozenset({1.5}))
def helper(x, y=1, *, z=2):
    return x * FACTOR + y + z
def f(x):
    return [helper(n) for n in range(x)] + [NAMES, len(NAMES), (lambda: FACTOR)()]
"""


def change_global(f: Any) -> None:
    f.__globals__["FACTOR"] = 4


def change_to_what_is_equal(f: Any) -> None:
    f.__globals__["FACTOR"] = 3.0


def change_helper(f: Any) -> None:
    f.__globals__["helper"] = lambda x: x


def change_helpers_code(f: Any) -> None:
    f.__globals__["helper"].__code__ = (lambda x, y=1, *, z=2: x).__code__


def change_default(f: Any) -> None:
    f.__globals__["helper"].__defaults__ = (2,)


def change_keyword_default(f: Any) -> None:
    f.__globals__["helper"].__kwdefaults__["z"] = 3


def add_keyword_default(f: Any) -> None:
    f.__kwdefaults__ = {"z": 3}


def hide_builtin(f: Any) -> None:
    f.__globals__["len"] = abs


def forget_global(f: Any) -> None:
    del f.__globals__["NAMES"]


def set_attribute(f: Any) -> None:
    f.__globals__["helper"].calls = 0


CHANGES: list[Callable[[Any], None]] = [
    change_global, change_to_what_is_equal, change_helper, change_helpers_code, change_default, change_keyword_default,
    add_keyword_default, hide_builtin, forget_global, set_attribute,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_a_function_refers_to_is_seen_to_change(change: Callable[[Any], None]) -> None:
    f = made(SCRIPT)
    held = unchanged(f)
    assert held is not None
    assert held.holds()
    change(f)
    assert not held.holds()


def test_a_closures_variable_is_seen_to_change() -> None:
    count = 0

    def f() -> int:
        return count

    held = unchanged(f)
    assert held is not None
    assert held.holds()
    count += 1
    assert not held.holds()


def test_a_variable_that_has_no_value_yet_is_seen_to_get_one() -> None:
    def f() -> Any:
        return later

    held = unchanged(f)
    assert held is not None
    later = 1
    assert not held.holds()


def test_functions_that_call_each_other_are_looked_at_once() -> None:
    f = made("def g(x):\n return f(x)\ndef f(x):\n return g(x)")
    held = unchanged(f)
    assert held is not None
    assert held.holds()


@pytest.mark.parametrize(
    "value", [math, math.sqrt, Iterator, int, test_functions_that_call_each_other_are_looked_at_once, print, ...]
)
def test_what_travels_by_its_name_does_not_change(value: Any) -> None:
    held = unchanged(made("def f():\n return thing", thing=value))
    assert held is not None
    assert held.holds()


class Own:
    pass


Own.__module__ = "__main__"  # a class of the script


@pytest.mark.parametrize(
    "value",
    [[1], {}, {1}, ([],), Own, Own(), [].append, partial(abs, 1), types.ModuleType("made"), sys.modules["__main__"]],
)
def test_what_may_change_unseen_is_pickled_each_time(value: Any) -> None:
    assert unchanged(made("def f():\n return thing", thing=value)) is None


def test_other_callables_are_pickled_each_time() -> None:
    @wraps(abs)
    def wrapped(x: int) -> int:
        return abs(x)

    for function in (wrapped, partial(abs, 1), Own().__init__, Own, abs):  # type: ignore[misc]
        assert unchanged(function) is None


def test_a_packages_parts_may_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    held = unchanged(made("def f():\n return xml.etree.ElementTree", xml=xml))
    assert held is not None
    assert held.holds()
    monkeypatch.setitem(sys.modules, "xml.part", types.ModuleType("xml.part"))  # which cloudpickle would have imported
    assert not held.holds()


def test_modules_that_go_by_value_may_change() -> None:
    cloudpickle.register_pickle_by_value(xml)
    try:
        assert unchanged(made(SCRIPT)) is None
    finally:
        cloudpickle.unregister_pickle_by_value(xml)
    assert unchanged(made(SCRIPT)) is not None
