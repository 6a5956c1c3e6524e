"""When are two functions that travel by value the same?

Not when their pickles are: cloudpickle gives every class of __main__ a random id, and sets of
strings have another order in each process. So this hashes what they do and what they hold: code,
defaults, closure, bound arguments. Globals that they use count by name only.
"""

import hashlib
import pickle
from collections.abc import Iterator
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

_LONG_BYTES = 4096  # of which the digest says as much, in a hundredth of repr()'s time

# ids of what is being described, outermost first: something may hold itself.
_Path = tuple[int, ...]


def fingerprint(function: object) -> str:
    """32 hex digits, the same in every process (of one Python version) for the same function."""
    return hashlib.blake2b(repr(_describe(function, ())).encode(), digest_size=16).hexdigest()


def _describe(value: Any, path: _Path) -> Any:
    """Nested tuples of plain values, whose repr() is equal for equal values only."""
    if isinstance(value, bytes) and len(value) > _LONG_BYTES:
        return "bytes", hashlib.blake2b(value).digest()
    if isinstance(value, str | bytes | int | float | complex | None):
        return type(value).__name__, repr(value)
    if id(value) in path:
        return "itself", path.index(id(value))
    path = (*path, id(value))

    def each(values: Any) -> tuple[Any, ...]:
        return tuple(_describe(part, path) for part in values)

    match value:
        case partial():
            return "partial", each((value.func, value.args, value.keywords))
        case FunctionType():
            held = (value.__code__, value.__defaults__, value.__kwdefaults__)
            return "function", value.__module__, value.__qualname__, each(held), each(_cells(value))
        case MethodType():
            return "method", each((value.__func__, value.__self__))
        case CodeType():
            names = (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars)
            return "code", value.co_code, value.co_flags, names, each(value.co_consts)
        case type() | BuiltinFunctionType():
            return "name", value.__module__, value.__qualname__
        case ModuleType():
            return "module", value.__name__
        case tuple() | list():
            return type(value).__name__, each(value)
        case set() | frozenset():
            return type(value).__name__, sorted(map(repr, each(value)))
        case dict():
            return "dict", each(value.items())
    return _describe_object(value, path)


def _describe_object(value: Any, path: _Path) -> tuple[Any, ...]:
    kind = type(value)
    called = kind.__call__ if callable(value) else None
    name = f"{kind.__module__}.{kind.__qualname__}"
    what = (name, _describe(called, path) if isinstance(called, FunctionType) else "")
    fields = getattr(value, "__dict__", None)
    if isinstance(fields, dict):
        # What travels: of one that says by itself what that is, not what it works with (a connection, say).
        return *what, _describe(value.__reduce_ex__(5) if _says_what_travels(kind) else fields, path)
    try:
        return *what, _describe(pickle.dumps(value, 5), path)
    except Exception:  # cloudpickle could, or this would not travel; its own code may raise anything
        return what


def _says_what_travels(kind: type) -> bool:
    return any(
        getattr(kind, name) is not getattr(object, name, None)
        for name in ("__reduce__", "__reduce_ex__", "__getstate__")
        if hasattr(kind, name)
    )


def _cells(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # the variable has no value yet
            yield "no value yet"
