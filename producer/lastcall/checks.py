"""Checks of arguments: each says what was expected, what came and what to do, by ConfigError."""

from __future__ import annotations

from collections.abc import Sequence

from lastcall.errors import ConfigError


def positive(name: str, value: object) -> None:
    """A positive int."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(name, "a positive int", repr(value))


def bound(name: str, value: object) -> None:
    """A positive int, or 0 for no bound."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(name, "0 (no bound) or a positive int", repr(value))


def natural(name: str, value: object) -> None:
    """0, or a positive int."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(name, "0 or a positive int", repr(value))


def seconds(name: str, value: object) -> None:
    """A duration of more than 0 seconds."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ConfigError(name, "a number of seconds, more than 0", repr(value))


def one_of(name: str, value: object, choices: Sequence[str]) -> None:
    """One of some words."""
    if value not in choices:
        raise ConfigError(name, " or ".join(repr(one) for one in choices), repr(value))


def plain_name(name: str, value: object) -> None:
    """A name that can be part of a key and of an address."""
    if not isinstance(value, str) or not value or any(c in value for c in "/{} \t\r\n\0"):
        raise ConfigError(name, "a non-empty string without / { } or white space", repr(value))
