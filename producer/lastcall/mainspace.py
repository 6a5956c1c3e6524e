"""Mainspace: the globals that a script's functions share in a worker's process, where they work for one pool.

Functions of `__main__` travel by value, each with the globals that it names, which are then its own. What a pool's
initializer sets, to be read by the functions that run after it, as programs of multiprocessing do it, these would never
see.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

# A program's main module has these names in another process only if that is the same program.
MAIN = ("__main__", "__mp_main__")


class Mainspace:
    """One pool's, in this process. What is loaded for it brings globals along, and leaves alone what the initializer
    has brought or set."""

    def __init__(self) -> None:
        self._globals: dict[str, Any] = {}
        self._kept: set[str] = set()

    @contextmanager
    def loading(self, *, initializer: bool = False) -> Iterator[None]:
        """What is unpickled in the block is the pool's; initializer: is that one."""
        before = _here.set((self, initializer))
        try:
            yield
        finally:
            _here.reset(before)

    @contextmanager
    def initializing(self) -> Iterator[None]:
        """The initializer runs in the block."""
        before = dict(self._globals)
        try:
            yield
        finally:
            self._kept.update(
                name for name, value in dict(self._globals).items() if before.get(name, _NOTHING) is not value
            )

    def make(self, make: Callable[..., Any], code: Any, found: dict[str, Any], *rest: Any) -> Any:
        """A function, by cloudpickle's `make`."""
        if found.get("__name__") in MAIN and not _is_method(code.co_qualname):
            for name, value in found.items():
                self._globals.setdefault(name, value)
            found = self._globals
        return make(code, found, *rest)

    def set_state(
        self, keep: bool, set_state: Callable[..., Any], function: Any, state: tuple[Any, dict[str, Any]]
    ) -> Any:
        """What a function brings along, by cloudpickle's `set_state`."""
        if function.__globals__ is self._globals:
            attributes, slots = state
            brought = slots["__globals__"]
            state = attributes, {**slots, "__globals__": {k: v for k, v in brought.items() if k not in self._kept}}
            if keep:
                self._kept.update(brought)
        return set_state(function, state)


class Loader(pickle.Unpickler):
    """Unpickles what cloudpickle took; inside an envelope that was verified."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        here = _here.get()
        if here is not None and module == "cloudpickle.cloudpickle":
            space, keep = here
            if name == "_make_function":
                return partial(space.make, found)
            if name == "_function_setstate":
                return partial(space.set_state, keep, found)
        return found


def _is_method(qualname: str) -> bool:
    """Whether it is a class's, which this process has once, whatever pool it came for."""
    owner, _, _ = qualname.rpartition(".")
    return bool(owner) and not owner.endswith("<locals>")


_NOTHING = object()
_here: ContextVar[tuple[Mainspace, bool] | None] = ContextVar("lastcall_mainspace", default=None)
