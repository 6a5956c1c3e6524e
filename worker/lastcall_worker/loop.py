"""The event loop of a slot's process: one, in a thread of its own, made when the first coroutine comes and kept until
the process ends, so that what coroutines open (sessions, pools of connections) lasts from one chunk to the next.

In a thread of its own, so that slots can complete and claim while coroutines run; one for all slots of a process, so
that what a module keeps for a loop is right wherever the next coroutine runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from celery import signals

T = TypeVar("T")

_END_S: Final = 5.0  # that coroutines have when they are cancelled at the end


class _Loop:
    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop: asyncio.AbstractEventLoop
        self.begun, self.ended = threading.Event(), threading.Event()
        _start(self._run)
        self.begun.wait()

    def _run(self) -> None:
        # Made in its thread: gevent's selectors belong to one.
        loop = self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.call_soon(self.begun.set)
        try:
            loop.run_forever()
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left, timeout=_END_S))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
        finally:
            self.ended.set()


_here: _Loop | None = None
_lock = threading.Lock()


def loop() -> asyncio.AbstractEventLoop:
    """This process's, started where it is not."""
    global _here
    with _lock:
        if _here is None or _here.pid != os.getpid():
            _here = _Loop()
        return _here.loop


def is_here() -> bool:
    """Whether this is a loop's thread, which must not wait."""
    return asyncio._get_running_loop() is not None


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop, in the caller's context, and wait for it."""
    future = asyncio.run_coroutine_threadsafe(coroutine, loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()  # where it is this wait that was ended, by a time limit's alarm
        raise


def end(**_: Any) -> None:
    """Cancel what runs, and let the loop end."""
    global _here
    here, _here = _here, None
    if here is not None and here.pid == os.getpid():
        with contextlib.suppress(RuntimeError):  # it is closed
            here.loop.call_soon_threadsafe(here.loop.stop)
        here.ended.wait(2 * _END_S)


signals.worker_process_shutdown.connect(end)
signals.worker_shutdown.connect(end)


def _start(target: Callable[[], None]) -> None:
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        # A thread of the system: greenlets of one share what asyncio takes for the running loop.
        monkey.get_original("_thread", "start_new_thread")(target, ())
    else:
        threading.Thread(target=target, name="lastcall-loop", daemon=True).start()


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
