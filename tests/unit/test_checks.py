"""Checks of arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lastcall import checks
from lastcall.errors import ConfigError


@pytest.mark.parametrize(
    ("check", "good", "bad", "expected"),
    [
        (checks.positive, [1, 10**9], [0, -1, 1.0, "1", None, True], "a positive int"),
        (checks.bound, [0, 1], [-1, 0.5, "0", None, False], "0 (no bound) or a positive int"),
        (checks.seconds, [1, 0.001], [0, -1, float("inf"), float("nan"), "1", None, True], "a number of seconds, more"),
        (
            checks.plain_name,
            ["frames", "a.b:c-d_é"],
            ["", "a/b", "a{b", "a}b", "a b", "a\tb", "a\nb", "a\0b", 5, None, b"a"],
            "a non-empty string without / { } or white space",
        ),
    ],
)
def test_each_says_what_it_expected_and_what_came(
    check: Callable[[str, Any], None], good: list[Any], bad: list[Any], expected: str
) -> None:
    for value in good:
        check("option", value)
    for value in bad:
        with pytest.raises(ConfigError) as caught:
            check("option", value)
        assert str(caught.value).startswith(f"option must be {expected}")
        assert str(caught.value).endswith(f"got {value!r}")


def test_one_of_names_the_choices() -> None:
    checks.one_of("option", "b", ("a", "b"))
    with pytest.raises(ConfigError, match="option must be 'a' or 'b', got 'c'"):
        checks.one_of("option", "c", ("a", "b"))
