"""The function that a command line names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from lastcall.errors import ConfigError

_EXPECTED = "package.module:function or path/of/script.py:function"
# As multiprocessing calls the main module in its children: what is in it travels by value, as a script's own does, and
# `if __name__ == "__main__"` is not run.
_SCRIPT = "__mp_main__"


def find(target: str) -> Callable[..., Any]:
    """Import the function that a target names, with sys.path as `python -m module` or `python script.py` has it.

    Raises ConfigError.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise ConfigError("the function", _EXPECTED, repr(target))
    found: Any = _script(place, target) if place.endswith(".py") else _module(place, target)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigError("the function", _EXPECTED, repr(target), f"{place} has no {name}") from None
    if not callable(found):
        raise ConfigError("the function", "callable", f"{target}, a value of type {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def _module(name: str, target: str) -> ModuleType:
    _first_on_path(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise ConfigError(
                "the function", "of a module that can be imported here", repr(target),
                f"there is no module {missing} in {os.getcwd()} or elsewhere on sys.path",
            ) from error  # fmt: skip
        raise _failed(name, error) from error
    except Exception as error:  # a module's own code may raise anything
        raise _failed(name, error) from error


def _script(path: str, target: str) -> ModuleType:
    if not os.path.isfile(path):
        raise ConfigError("the function", "of a file that is there", repr(target), f"there is no {path}")
    _first_on_path(os.path.dirname(os.path.abspath(path)))
    spec = importlib.util.spec_from_file_location(_SCRIPT, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[_SCRIPT] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a script's own code may raise anything
        raise _failed(path, error) from error
    return module


def _first_on_path(folder: str) -> None:
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)


def _failed(name: str, error: Exception) -> ConfigError:
    return ConfigError(
        "the function",
        "of a module that can be imported here",
        f"{name}, which raised {type(error).__name__}",
        str(error),
    )
