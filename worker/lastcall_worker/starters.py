"""Initializers of pools: run once in each process, or thread, that works for a pool, before its first item.

Greenlets come and go with each ticket: where there are some, the process counts.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from lastcall import functions
from lastcall.errors import InitializerFailed
from lastcall.outcome import pack_error
from lastcall.place import has_greenlets

if TYPE_CHECKING:
    from lastcall.envelope import Sealer
    from lastcall.outcome import PackedError
    from lastcall.queue import Starter

_MOST = 1000  # pools that a thread remembers


class _Process:
    def __init__(self) -> None:
        self.pools: dict[str, PackedError | None] = {}  # those that it has worked for, the oldest first


class _Thread(_Process, threading.local):
    pass


_here = _Process() if has_greenlets() else _Thread()
_turn: AbstractContextManager[object] = threading.Lock() if has_greenlets() else nullcontext()


def ready(starter: Starter, node: str, sealer: Sealer) -> PackedError | None:
    """Run a pool's initializer, if this thread has not; None, or why nothing of that pool can run here.

    One that raised is not tried again: another try at each item would take the pool's work for as long as it fails.
    """
    pool = starter[0]
    if pool not in _here.pools:
        with _turn:
            if pool not in _here.pools:
                error = _run(starter, node, sealer)
                while len(_here.pools) >= _MOST:
                    del _here.pools[next(iter(_here.pools))]
                _here.pools[pool] = error
    return _here.pools[pool]


def _run(starter: Starter, node: str, sealer: Sealer) -> PackedError | None:
    _, wire, dumped = starter
    try:
        functions.load(wire, node, sealer.keyed)(*sealer.load(dumped))
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
