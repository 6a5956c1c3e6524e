"""Unchanged: whether a function that travels by value is what it was when it was pickled.

For a script's function cloudpickle takes ten times as long as the rest of a call. Made again, its pickle comes to the
same, unless what the function refers to has changed: a global, a closure's variable, its defaults. Where all of these
are values that nobody can change, or things that travel by their names, it suffices to look whether they are there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any, Final

from lastcall.functions import reference_of
from lastcall.mainspace import MAIN

_PLAIN: Final = (int, float, complex, bool, str, bytes, type(None), type(...), type(NotImplemented))
_MISSING: Final = object()


class _Changeable(Exception):
    """It refers to something that may change and still be there."""


class Unchanged:
    """What a function, and those of its script that it calls, referred to when this was made."""

    def __init__(self, function: FunctionType) -> None:
        self._functions: dict[FunctionType, tuple[object, ...]] = {}
        self._globals: list[tuple[dict[str, Any], str, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        self._modules = 0  # where it refers to a package: how many modules there were, which may be parts of it
        self._add(function)

    def holds(self) -> bool:
        """Whether it would be pickled alike now."""
        return (
            all(space.get(name, _MISSING) is value for space, name, value in self._globals)
            and all(_content(cell) is value for cell, value in self._cells)
            and all(_same(_made_of(function), made) for function, made in self._functions.items())
            and self._modules in (0, len(sys.modules))
        )

    def _add(self, function: FunctionType) -> None:
        if function in self._functions:
            return
        if function.__dict__:
            raise _Changeable
        self._functions[function] = _made_of(function)
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._check(value)
        for cell in function.__closure__ or ():
            value = _content(cell)
            self._check(value)
            self._cells.append((cell, value))
        space = function.__globals__
        for name in {*_names(function.__code__)}:  # more than the globals that it uses: attributes' names, too
            value = space.get(name, _MISSING)
            self._check(value)
            self._globals.append((space, name, value))

    def _check(self, value: Any) -> None:
        kind = type(value)
        if kind in _PLAIN or value is _MISSING:
            return
        if kind is tuple or kind is frozenset:
            for part in value:
                self._check(part)
        elif isinstance(value, ModuleType):
            if sys.modules.get(value.__name__) is not value or value.__name__ in MAIN:
                raise _Changeable
            if hasattr(value, "__path__"):
                self._modules = len(sys.modules)
        elif kind is FunctionType and reference_of(value) is None:
            self._add(value)
        elif not (kind is FunctionType or kind is BuiltinFunctionType or isinstance(value, type)) or (
            reference_of(value) is None
        ):
            raise _Changeable


def unchanged(function: object) -> Unchanged | None:
    """For a function that is pickled now. None where that cannot be seen: it refers to a list, an object of a class, a
    class of its script, ..."""
    if type(function) is not FunctionType:
        return None
    import cloudpickle  # by which it was pickled

    if {*cloudpickle.list_registry_pickle_by_value()} - {*MAIN}:  # of these modules, functions do not travel by name
        return None
    try:
        return Unchanged(function)
    except _Changeable:
        return None


def _made_of(function: FunctionType) -> tuple[object, ...]:
    keywords = function.__kwdefaults__ or {}
    return function.__code__, function.__defaults__, bool(function.__dict__), *keywords, *keywords.values()


def _same(these: tuple[object, ...], those: tuple[object, ...]) -> bool:
    return len(these) == len(those) and all(one is other for one, other in zip(these, those, strict=True))


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the variable has no value yet
        return _MISSING
