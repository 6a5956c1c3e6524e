"""resource: what a slot makes once and keeps, such as a connection to a database; closed when the slot is gone.

from lastcall import resource

@resource
def database():
    connection = connect()
    yield connection
    connection.close()

def count(table):
    return database().execute(...)
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, overload

from lastcall.byname import ByName, caller
from lastcall.errors import ConfigError
from lastcall.place import Thing, here

T = TypeVar("T")


class Resource(ByName, Generic[T]):
    """Called, it gives this slot's own: made at the first call, the same at every later one, for any job.

    A slot is a process of the pools prefork and solo, a thread of `threads`; gevent has as many as greenlets run at
    the same time. Coroutines of a slot share what it has. A call that a slot runs while its function waits has another.
    Outside of workers each thread has its own.
    It is closed when the process ends (the worker leaves, max-tasks-per-child), or its thread, in the reverse order of
    making; not when it is killed.
    What the factory raises, the call raises: the item fails, and the next call tries anew.
    """

    def __init__(self, factory: Callable[[], Any], close: Callable[[T], object] | None, module: str) -> None:
        if not callable(factory):
            raise ConfigError("a resource", "made by a function without arguments", repr(factory))
        if inspect.iscoroutinefunction(factory) or inspect.isasyncgenfunction(factory):
            raise ConfigError("a resource", "made by a plain function or generator", f"the async {factory!r}")
        if close is not None and not callable(close):
            raise ConfigError("close", "a function of what was made, or None", repr(close))
        self._made_by(module)
        self._factory = factory
        self._close = close
        functools.update_wrapper(self, factory, updated=())

    def __call__(self) -> T:
        """This slot's."""
        place = here()
        thing = place.get(self._key)
        if thing is None:
            thing = self._make()
            place.add(self._key, thing)
        value: T = thing.value
        return value

    def discard(self) -> None:
        """Close this slot's, if it has one: it is broken, say. The next call makes another."""
        here().discard(self._key)

    def __repr__(self) -> str:
        return f"<lastcall.resource {getattr(self._factory, '__qualname__', self._factory)}>"

    def _parts(self) -> tuple[Any, ...]:
        return Resource, self._factory, self._close, "__main__"

    def _make(self) -> Thing:
        by_value = self._module == "__main__"
        made: Any = self._factory()
        if isinstance(made, Iterator) and inspect.isgenerator(made):
            made = contextlib.contextmanager(lambda: made)()
        if isinstance(made, contextlib._GeneratorContextManager):
            value = made.__enter__()
            closes: Callable[[], object] = functools.partial(made.__exit__, None, None, None)
        else:
            value, closes = made, getattr(made, "close", _nothing)
        if self._close is not None:
            closes = functools.partial(self._close, value)
        return Thing(value, closes, by_value)


@overload
def resource(factory: Callable[[], Iterator[T]], *, close: None = None) -> Resource[T]: ...
@overload
def resource(
    factory: Callable[[], contextlib._GeneratorContextManager[T]], *, close: None = None
) -> Resource[T]: ...  # a function decorated with contextlib.contextmanager
@overload
def resource(factory: Callable[[], T], *, close: Callable[[T], object] | None = None) -> Resource[T]: ...
def resource(factory: Callable[[], Any], *, close: Callable[[Any], object] | None = None) -> Resource[Any]:
    """What every slot makes for itself, once, and keeps.

    factory: a generator function that yields it, and closes it behind the yield; a function that contextlib's
    contextmanager decorates; or one that returns it. close: how to close what a function returned; None: by its
    close(), if it has one. (A connection's own `with` block is a transaction, as a rule: it is not entered.)
    """
    return Resource(factory, close, caller())


def _nothing() -> None:
    pass
