"""Store: large arguments that this process was sent, kept for the next call that has them (lastcall.aside)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final


class Store:
    """Bytes by their digest, those that were used last, up to a number of bytes. Safe for threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        self._turns = threading.Lock()

    def get(self, digest: bytes, most: int, fetch: Callable[[], bytes]) -> bytes:
        """What has this digest; `fetch` gives what is not here yet. most: bytes to keep."""
        found = self._find(digest)
        if found is not None:
            return found
        with self._turns:  # else threads that have the same argument would all fetch it
            found = self._find(digest)
            if found is None:
                found = fetch()
                self._keep(digest, found, most)
        return found

    @property
    def size(self) -> int:
        return self._size

    def _find(self, digest: bytes) -> bytes | None:
        with self._lock:
            found = self._kept.get(digest)
            if found is not None:
                self._kept.move_to_end(digest)
            return found

    def _keep(self, digest: bytes, data: bytes, most: int) -> None:
        if len(data) > most:
            return
        with self._lock:
            self._kept[digest] = data
            self._size += len(data)
            while self._size > most:
                _, gone = self._kept.popitem(last=False)
                self._size -= len(gone)


STORE: Final = Store()  # of this process
