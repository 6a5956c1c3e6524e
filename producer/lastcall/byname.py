"""ByName: what a module makes once and its functions use, wherever they run.

Such an object travels by its name in its module, as a function does; one of a script's own, or of a function, by value:
it is then the same object wherever in a process it arrives, however often.
"""

from __future__ import annotations

import sys
import uuid
import weakref
from typing import Any

from lastcall.mainspace import MAIN

_there: weakref.WeakValueDictionary[str, ByName] = weakref.WeakValueDictionary()


class ByName:
    """Base of resource and local."""

    _module: str
    _key: str

    def _made_by(self, module: str) -> None:
        """In the constructor. module: where it is, as a rule."""
        object.__setattr__(self, "_module", module)
        key = uuid.uuid4().hex
        object.__setattr__(self, "_key", key)
        _there[key] = self

    def _parts(self) -> tuple[Any, ...]:
        """What makes it anew, elsewhere: a function and its arguments."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        name = name_of(self, self._module)
        if name is not None:
            return by_name, (self._module, name)
        return by_value, (self._key, *self._parts())


def name_of(thing: object, module: str) -> str | None:
    """What a module that others can import calls it; None if it does not."""
    if module in MAIN:
        return None
    names = vars(sys.modules[module]) if module in sys.modules else {}
    return next((name for name, value in names.items() if value is thing), None)


def by_name(module: str, name: str) -> Any:
    """Give back what travelled by its name."""
    __import__(module)
    return getattr(sys.modules[module], name)


def by_value(key: str, *parts: Any) -> Any:
    """Give back what travelled by value: the object that arrived before, or a new one."""
    known = _there.get(key)
    if known is None:
        make, *arguments = parts
        made: ByName = make(*arguments)
        object.__setattr__(made, "_key", key)
        object.__setattr__(made, "_module", "__main__")
        known = _there.setdefault(key, made)
    return known


def caller(depth: int = 2) -> str:
    """The module of who called the function that asks."""
    return str(sys._getframe(depth).f_globals.get("__name__", "__main__"))
