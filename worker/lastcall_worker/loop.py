"""The event loop of a slot's process: one, in a thread of its own, made when the first coroutine comes and kept until
the process ends, so that what coroutines open (sessions, pools of connections) lasts from one chunk to the next.

In a thread of its own, so that slots can complete and claim while coroutines run; one for all slots of a process, so
that what a module keeps for a loop is right wherever the next coroutine runs. Coroutines have a place of their own
(lastcall/place.py): resources that they make are the loop's, are not mixed with what plain functions make in a slot's
thread, and are closed on it.
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

from lastcall.place import Place, enter

T = TypeVar("T")

_END_S: Final = 5.0  # that coroutines have when they are cancelled at the end


class _Loop:
    def __init__(self) -> None:
        self.pid = os.getpid()
        self.place = Place()
        self.loop: asyncio.AbstractEventLoop
        self.begun, self.ended = threading.Event(), threading.Event()
        self._ends = False
        _start(self._run)
        self.begun.wait()

    def _run(self) -> None:
        # Made in its thread: gevent's selectors belong to one.
        loop = self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.call_soon(self.begun.set)
        try:
            while not self._ends:  # a function that stops it stops what is not its own
                loop.run_forever()
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left, timeout=_END_S))
            loop.run_until_complete(self._close_place())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
        finally:
            self.ended.set()

    async def _close_place(self) -> None:
        before = asyncio.all_tasks()
        self.place.close()
        if closing := asyncio.all_tasks() - before:
            await asyncio.wait(closing, timeout=_END_S)

    def end(self) -> None:
        """Cancel what runs, and wait until the loop has ended."""
        self._ends = True
        with contextlib.suppress(RuntimeError):  # it is closed
            self.loop.call_soon_threadsafe(self.loop.stop)
        self.ended.wait(3 * _END_S)


_here: _Loop | None = None
_lock = threading.Lock()


def loop() -> asyncio.AbstractEventLoop:
    """This process's, started where it is not."""
    global _here
    with _lock:
        if _here is None or _here.pid != os.getpid():
            _here = _Loop()
        return _here.loop


def enter_place() -> None:
    """Have the coroutine that runs here be at its loop's place."""
    here = _here
    if here is not None:
        enter(here.place)


def is_here() -> bool:
    """Whether this is a loop's thread, which must not wait."""
    return asyncio._get_running_loop() is not None


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop, in the caller's context, and wait for it."""

    async def placed() -> T:
        enter_place()
        return await coroutine

    future = asyncio.run_coroutine_threadsafe(placed(), loop())
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
        here.end()


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
