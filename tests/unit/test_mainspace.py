"""What arrives by value for one pool shares its globals, and nothing with another's."""

from __future__ import annotations

import types
from typing import Any

import pytest

from lastcall.envelope import Sealer
from lastcall.mainspace import Mainspace

SEALER = Sealer(b"a key for the main module")
SOURCE = """
state = None
helper_says = "first"

def set_up(value):
    global state
    state = value

def read():
    return state

def helper():
    return helper_says

def work():
    return helper(), state
"""


@pytest.fixture
def main() -> dict[str, Any]:
    """What a main module has, which this process cannot import."""
    module = types.ModuleType("__main__")
    exec(SOURCE, module.__dict__)
    return module.__dict__


def arrive(space: Mainspace | None, function: Any, *, initializer: bool = False) -> Any:
    sent = SEALER.dump([function])  # not by reference, whatever it is in
    if space is None:
        return SEALER.load(sent)[0]
    with space.loading(initializer=initializer):
        return SEALER.load(sent)[0]


def set_up(space: Mainspace, main: dict[str, Any], value: object) -> None:
    initializer = arrive(space, main["set_up"], initializer=True)
    with space.initializing():
        initializer(value)


def test_functions_of_a_pool_see_what_its_initializer_set_whichever_came_first(main: dict[str, Any]) -> None:
    space, other = Mainspace(), Mainspace()
    early = arrive(space, main["read"])
    set_up(space, main, 7)
    set_up(other, main, 8)
    late = arrive(space, main["work"])
    assert (early(), late(), arrive(other, main["read"])()) == (7, ("first", 7), 8)
    assert arrive(None, main["read"])() is None


def test_what_the_initializer_has_nothing_to_do_with_is_that_of_the_newest(main: dict[str, Any]) -> None:
    space = Mainspace()
    set_up(space, main, 7)
    assert arrive(space, main["work"])() == ("first", 7)
    main["helper_says"], main["state"] = "second", "the sender's"
    assert arrive(space, main["work"])() == ("second", 7)
