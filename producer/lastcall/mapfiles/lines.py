"""Lines of the output: one JSON object an item."""

from __future__ import annotations

import base64
import json
import pickle
from typing import Any, Final

from lastcall.errors import RemoteTraceback

HOW: Final = ("json", "repr", "pickle")


class NotJson(TypeError):
    """A function's value cannot be written as JSON."""


def of_value(index: int, value: Any, how: str, *given: Any) -> bytes:
    """The line of a value. how: one of HOW. given: the item, if it is to be in it. Raises NotJson."""
    if how == "repr":
        value = repr(value)
    elif how == "pickle":
        value = base64.b64encode(pickle.dumps(value, 5)).decode()
    try:
        return _line({"index": index, "value" if how == "json" else how: value, **_input(given)})
    except (TypeError, ValueError, RecursionError) as error:
        raise NotJson(
            f"the function's value, of type {type(value).__name__}, is not JSON ({error}): return what is, or say "
            "--values repr or --values pickle"
        ) from None


def of_error(index: int, error: BaseException, *given: Any) -> bytes:
    """The line of an item that has no value."""
    told = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error.__cause__, RemoteTraceback):
        told["traceback"] = str(error.__cause__)
    return _line({"index": index, "error": told, **_input(given)})


def _input(given: tuple[Any, ...]) -> dict[str, Any]:
    """given: the item, if it is to be told; by its repr where it is not JSON: json.loads knows NaN and infinity."""
    if not given:
        return {}
    try:
        _line({"input": given[0]})
    except (ValueError, RecursionError):
        return {"input": repr(given[0])}
    return {"input": given[0]}


def _line(fields: dict[str, Any]) -> bytes:
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps(fields, allow_nan=False).encode() + b"\n"
