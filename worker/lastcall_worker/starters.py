"""What pools and executors ask of the processes that work for them (lastcall/starter.py): an initializer, run once in
each process, or thread, before its first item; and that a process is replaced which has run many chunks.

Greenlets come and go with each ticket: where there are some, the process counts.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lastcall import functions
from lastcall.errors import InitializerFailed
from lastcall.mainspace import Mainspace
from lastcall.outcome import pack_error
from lastcall.place import has_greenlets
from lastcall_worker.limits import is_child

if TYPE_CHECKING:
    from lastcall.envelope import Sealer
    from lastcall.outcome import PackedError
    from lastcall.starter import Starter

_MOST = 1000  # pools that a thread remembers
_ANY = 1 << 30  # chunks


class Worn(SystemExit):
    """Raised by a slot's task when it is over, in a process that has run as many chunks as it may for one pool:
    billiard tells the worker's main process, ends this one and starts another.
    """


@dataclass(slots=True)
class _Known:
    """A pool that was worked for. error: why nothing of it can run here."""

    error: PackedError | None
    chunks: int = 0


class _Process:
    def __init__(self) -> None:
        self.pools: dict[str, _Known] = {}  # those that it has worked for, the oldest first
        self.worn = False


class _Thread(_Process, threading.local):
    pass


_spaces: dict[str, Mainspace] = {}  # of pools whose initializer came by value, the oldest first
_here = _Process() if has_greenlets() else _Thread()
_apart: AbstractContextManager[None] = nullcontext()
_turn: AbstractContextManager[object] = threading.Lock() if has_greenlets() else nullcontext()


def ready(starter: Starter, node: str, sealer: Sealer) -> PackedError | None:
    """Before a chunk: run its pool's initializer, if this thread has not; None, or why nothing of that pool can run
    here.

    One that raised is not tried again: another try at each item would take the pool's work for as long as it fails.
    """
    pool = starter.owner
    if pool not in _here.pools:
        with _turn:
            if pool not in _here.pools:
                error = _run(starter, node, sealer)
                while len(_here.pools) >= _MOST:
                    del _here.pools[next(iter(_here.pools))]
                _here.pools[pool] = _Known(error)
    known = _here.pools[pool]
    known.chunks += 1
    _here.worn = _here.worn or not left(starter)
    return known.error


def left(starter: Starter | None) -> int:
    """How many chunks of its pool this process may yet run."""
    if starter is None or not starter.most_chunks or not is_child():
        return _ANY
    known = _here.pools.get(starter.owner)
    return max(0, starter.most_chunks - (known.chunks if known is not None else 0))


def count_anew(starter: Starter | None) -> None:
    """Nobody else can run what there is to run: the process stays."""
    if starter is not None and starter.owner in _here.pools:
        _here.pools[starter.owner].chunks = 0
        _here.worn = False


def check_worn() -> None:
    """At the end of a slot. Raises Worn where its process is to be replaced."""
    if _here.worn:
        raise Worn


def space_of(starter: Starter | None) -> Mainspace | None:
    """Where a pool's functions that come by value find what its initializer, which did so, has set."""
    if starter is None or starter.initializer is None or starter.initializer[0] != "value":
        return None
    space = _spaces.get(starter.owner)
    if space is None:
        space = _spaces.setdefault(starter.owner, Mainspace())
        while len(_spaces) > _MOST:
            _spaces.pop(next(iter(_spaces)), None)
    return space


def loading(starter: Starter | None) -> AbstractContextManager[None]:
    """For what is unpickled for a pool."""
    space = space_of(starter)
    return _apart if space is None else space.loading()


def _run(starter: Starter, node: str, sealer: Sealer) -> PackedError | None:
    wire = starter.initializer
    if wire is None:
        return None
    space = space_of(starter) or Mainspace()
    try:
        with space.loading(initializer=True):
            initializer, initargs = functions.load(wire, node, sealer.keyed), sealer.load(starter.initargs)
        with space.initializing():
            initializer(*initargs)
    except (SystemExit, KeyboardInterrupt):
        if threading.current_thread() is threading.main_thread():
            raise  # the process is told to end: what is in hand comes back to the queue
        cause: BaseException = RuntimeError("the initializer ended its thread")
    except BaseException as raised:  # whatever it raises, the items' callers are told
        cause = raised
    else:
        return None
    _, type_name, message, *_ = pack_error(cause, sealer.keyed)
    error = InitializerFailed(wire[1], node, type_name.removeprefix("builtins."), message)
    error.__cause__ = cause
    return pack_error(error, sealer.keyed)
