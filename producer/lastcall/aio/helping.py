"""A coroutine on a worker that waits for lastcall's work: what it waits for is done beside it.

The slot that it holds may be the only one that could do it. So a thread of its own runs ready chunks of what is waited
for, as long as somebody waits; another one is started when the first are busy for a while, since what they run may wait
in its turn.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final

from lastcall.announced import Announced
from lastcall.current import HELP_S, help_at, help_with, running

if TYPE_CHECKING:
    from lastcall.state.ledger import Ledger

_log = logging.getLogger(__name__)

_MOST: Final = 64  # threads of a process


class _Helpers:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.last = 0.0  # when one was started

    def one_more(self) -> bool:
        with self.lock:
            now = time.monotonic()
            if self.count >= _MOST or (self.count and now - self.last < HELP_S):
                return False
            self.count, self.last = self.count + 1, now
            return True

    def one_less(self) -> None:
        with self.lock:
            self.count -= 1


_helpers = _Helpers()


class Waiting:
    """A wait for a queue, or for what is announced, as a context manager. Outside of a worker's function it does
    nothing. beside: what is waited for may be brought about by other work of the slot's own queue, as in help_at()."""

    def __init__(self, awaited: Ledger | Announced, *, beside: bool = False) -> None:
        self._awaited, self._beside = awaited, beside
        self._what = awaited.what if isinstance(awaited, Announced) else f"queue {awaited.shown}"
        self._began = time.monotonic()
        self._over = False
        self._helps = running.get() is not None
        self._helping = False

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over = True

    def most(self, wait_s: float) -> float:
        """Seconds to wait before the next look."""
        return min(wait_s, HELP_S) if self._helps else wait_s

    def help(self) -> None:
        """It has not come: see to it that somebody does it."""
        if self._helps and not self._helping and _helpers.one_more():
            self._helping = True
            context = contextvars.copy_context()
            threading.Thread(target=context.run, args=(self._run,), name="lastcall-help", daemon=True).start()

    def _run(self) -> None:
        try:
            while not self._over and self._help():
                pass
        except Exception as error:  # who waits goes on waiting, and is told what else there is to tell
            _log.warning("%s: a coroutine that waits for it is not helped: %s", self._what, error)
        finally:
            self._helping = False
            _helpers.one_less()

    def _help(self) -> bool:
        waited_s = time.monotonic() - self._began
        if isinstance(self._awaited, Announced):
            return self._awaited.help(waited_s)
        return help_at(self._awaited, waited_s) if self._beside else help_with(self._awaited)
