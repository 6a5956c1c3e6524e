"""A slot's place: what its functions keep between items, resources (resource.py) and attributes (slotlocal.py).

A slot has a place while it runs a ticket. The places of a thread stay with it, those of greenlets, which come and go
with each ticket, with their process; so there are as many as slots have run at the same time. A call that a waiting
slot runs meanwhile has a place of its own: what it does with a connection does not mix with what the one that waits has
begun. Coroutines have the place of their event loop, so that what is made in its thread is used and closed there.
Outside of a slot a thread has one place, as has one that a slot's function starts.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

_log = logging.getLogger(__name__)

_MOST_BY_VALUE: Final = 100  # resources of scripts that a place keeps: each script brings others


@dataclass(slots=True)
class Thing:
    """A resource that was made. used: the how-manieth use of any was its last one."""

    value: Any
    close: Callable[[], object]
    by_value: bool
    used: int = 0


class Place:
    """What one slot has made, in the order of making; and its attributes, by the `local` that they are of."""

    def __init__(self) -> None:
        self.pid: Final = os.getpid()
        self.things: dict[Any, Thing] = {}
        self.attributes: MutableMapping[object, dict[str, dict[str, Any]]] = weakref.WeakKeyDictionary()
        self._uses = 0

    def get(self, key: Any) -> Thing | None:
        """A resource, if it is there."""
        thing = self.things.get(key)
        if thing is not None:
            self._uses += 1
            thing.used = self._uses
        return thing

    def add(self, key: Any, thing: Thing) -> None:
        """Keep a resource; where there are many of scripts, the one that was not used for longest goes."""
        self._uses += 1
        thing.used = self._uses
        self.things[key] = thing
        if thing.by_value:
            others = [(other.used, name) for name, other in self.things.items() if other.by_value]
            if len(others) > _MOST_BY_VALUE:
                self.discard(min(others, key=lambda one: one[0])[1])

    def discard(self, key: Any) -> None:
        """Close a resource, if it is there."""
        thing = self.things.pop(key, None)
        if thing is None:
            return
        try:
            closing = thing.close()
            if inspect.iscoroutine(closing):
                _close_later(closing)
        except Exception as error:  # it may be broken, which is why it goes; the others are to be closed, too
            _log.warning("a resource could not be closed: %s: %s", type(error).__name__, error)

    def close(self) -> None:
        """Close all resources, the newest first."""
        while self.things:
            self.discard(next(reversed(self.things)))


class _Places:
    """Those of a thread (of a process, where there are greenlets)."""

    def __init__(self) -> None:
        self.pid: Final = os.getpid()
        self.outside = Place()  # for what runs in no slot
        self.idle: list[Place] = []
        self._others = _everybodys  # a module's names may be gone before it is, at the interpreter's end
        _everybodys[id(self)] = weakref.ref(self)

    def close(self) -> None:
        """The thread, or the process, ends."""
        if self.pid != os.getpid():
            return
        while self.idle:
            self.idle.pop().close()
        self.outside.close()

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if finalizing():
            return  # all was closed by atexit, and this module's names may be gone
        self.close()  # in the thread itself, as it ends: what may be used in one thread only is closed there
        if self.pid == os.getpid():
            self._others.pop(id(self), None)


_everybodys: dict[int, weakref.ref[_Places]] = {}  # a WeakSet must not grow, in another thread, while it is read
_inherited: list[object] = []  # kept for ever: a fork must not close its parent's connections
# With the thread that it is of: a context may be taken to another one (asyncio.to_thread), a place may not.
_place: ContextVar[tuple[Place, int] | None] = ContextVar("lastcall_place", default=None)
_closing: set[asyncio.Task[None]] = set()
_of_thread = threading.local()
_of_process: _Places | None = None


def here() -> Place:
    """The place of the slot that runs here; outside of slots, the thread's."""
    place, thread = _place.get() or (None, 0)
    if place is not None and place.pid == os.getpid() and thread == threading.get_ident():
        return place
    return _places().outside


@contextmanager
def taken() -> Iterator[Place]:
    """A slot's place, for the block."""
    places = _places()
    place = places.idle.pop() if places.idle else Place()
    before = _place.set((place, threading.get_ident()))
    try:
        yield place
    finally:
        _place.reset(before)
        places.idle.append(place)


def enter(place: Place) -> None:
    """Have what runs in this context, in this thread, be there from now on."""
    _place.set((place, threading.get_ident()))


def close_all() -> None:
    """Close what this process has made and does not use: it ends."""
    for there in list(_everybodys.values()):
        places = there()
        if places is not None:
            places.close()


def has_greenlets() -> bool:
    """Whether threads are greenlets here."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _places() -> _Places:
    global _of_process
    if has_greenlets():
        if _of_process is None:
            _of_process = _Places()
        return _of_process
    places: _Places | None = getattr(_of_thread, "places", None)
    if places is None:
        places = _of_thread.places = _Places()
    return places


def _close_later(closing: Coroutine[Any, Any, object]) -> None:
    """Close what is closed by a coroutine, on the loop that runs here. Raises RuntimeError where there is none."""
    try:
        task = asyncio.get_running_loop().create_task(_closed(closing))
    except RuntimeError:
        closing.close()
        raise
    _closing.add(task)
    task.add_done_callback(_closing.discard)


async def _closed(closing: Coroutine[Any, Any, object]) -> None:
    try:
        await closing
    except Exception as error:  # nobody waits for it
        _log.warning("a resource could not be closed: %s: %s", type(error).__name__, error)


def _leave_to_parent() -> None:
    global _of_process, _of_thread, _everybodys
    _inherited.extend((_of_thread, _of_process, *(there() for there in _everybodys.values())))
    _of_thread, _of_process, _everybodys = threading.local(), None, {}


os.register_at_fork(after_in_child=_leave_to_parent)
atexit.register(close_all)
