"""Ahead: an input that a thread of its own reads, so that what has come goes on while it keeps that thread waiting."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from lastcall.feed import NotYet

_SOON_S: Final = 0.005  # how long an item is waited for behind others
_IDLE_S: Final = 0.2  # where the last one did not come
_END: Final = object()


class Ahead(Iterator[Any]):
    """The items, read up to `most` ahead. Raises NotYet where the next one has not come in a moment."""

    def __init__(self, items: Iterator[Any], most: int, name: str) -> None:
        self._items = items
        self._most = most
        self._ready: deque[Any] = deque()  # its ends are each one thread's, so that it needs no lock
        self._error: Exception | None = None
        self._came = threading.Event()
        self._room = threading.Event()
        self._wait_s = _SOON_S
        self._closed = False
        self.thread = threading.Thread(target=self._read, name=name, daemon=True)
        self.thread.start()

    def __next__(self) -> Any:
        if not self._ready:
            self._came.clear()
            if not self._ready:  # nor did any come before that
                self._came.wait(self._wait_s)
        try:
            item = self._ready.popleft()
        except IndexError:
            self._wait_s = _IDLE_S
            raise NotYet from None
        self._wait_s = _SOON_S
        if item is _END:
            self._ready.append(_END)
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            raise StopIteration
        self._room.set()
        return item

    def close(self) -> None:
        """Read no more."""
        self._closed = True
        self._room.set()

    def _read(self) -> None:
        ready, came = self._ready, self._came
        try:
            for item in self._items:
                ready.append(item)
                if not came.is_set():
                    came.set()
                while len(ready) >= self._most and not self._closed:
                    self._room.clear()
                    if len(ready) >= self._most:
                        self._room.wait(1.0)  # close() may have come in between
                if self._closed:
                    return
        except Exception as error:  # whatever the input raises comes behind what it gave before
            self._error = error
        ready.append(_END)
        came.set()
