"""Aside: large buffers of arguments travel once for each job and worker process, not once for each call.

What has at least Settings.aside_bytes (a numpy array's data, whatever else pickle 5 can give out of band, bytes) is
left out of the envelope, which names it by its keyed digest. It lies with its job on the server, at least until no call
needs it, and in a store of each worker's process (lastcall_worker/store.py), which verifies it before it is used.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from lastcall.connect import Refusal
from lastcall.errors import LastcallError
from lastcall.parcel import Parcel
from lastcall.waiting import AWAY, Outage

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.state.ledger import Ledger


@dataclass(slots=True, eq=False)
class Kept:
    """What a client has put aside. calls: those that need it."""

    digest: bytes
    size: int
    calls: int = 0


class Aside:
    """What a client has aside with one job, for its calls. Safe for threads.

    What no call needs any more stays, for the next that has the same argument, up to Settings.aside_cache_bytes.
    """

    def __init__(self, connection: Connection, ledger: Ledger) -> None:
        self._connection = connection
        self._ledger = ledger
        self._most = connection.settings.aside_cache_bytes
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()  # the one that was needed last is the last
        self._idle = 0  # bytes that no call needs
        self._lock = threading.Lock()

    def parcel(self, *, copied: bool = True) -> Parcel:
        """For one call's arguments."""
        settings = self._connection.settings
        return Parcel(
            self._ledger.job, settings.aside_bytes or sys.maxsize, settings.max_item_bytes, copied=copied,
            known=self._kept.__contains__,
        )  # fmt: skip

    def hold(self, contents: Mapping[bytes, memoryview]) -> tuple[Kept, ...]:
        """A call is to be sent that needs these: put there what is not there. Gives what release() is to be told.

        Raises UnknownJob; ServerUnreachable, ServerReadOnly or ServerOutOfMemory after a minute.
        """
        outage = Outage(self._connection)
        while True:
            try:
                with self._lock:
                    return self._hold(contents)
            except AWAY as error:
                # Not under the lock: a server that is full has room when calls that are done need theirs no more.
                outage.bear(error)

    def _hold(self, contents: Mapping[bytes, memoryview]) -> tuple[Kept, ...]:
        for digest, raw in contents.items():
            if digest not in self._kept:
                self._put(digest, raw, contents)
                self._kept[digest] = Kept(digest, raw.nbytes)
                self._idle += raw.nbytes
        needed = tuple(self._kept[digest] for digest in contents)
        for kept in needed:
            if kept.calls == 0:
                self._idle -= kept.size
            kept.calls += 1
            self._kept.move_to_end(kept.digest)
        return needed

    def _put(self, digest: bytes, raw: memoryview, contents: Container[bytes]) -> None:
        """Put it there; a server that is full gets rid of what no call needs first."""
        try:
            self._ledger.put_aside(digest, raw)
        except Refusal as error:
            if not error.out_of_memory or not self._make_room(0, contents):
                raise
            self._ledger.put_aside(digest, raw)

    def release(self, needed: Iterable[Kept]) -> None:
        """That call needs them no more."""
        with self._lock:
            for kept in needed:
                kept.calls -= 1
                if kept.calls == 0 and self._is_there(kept):
                    self._idle += kept.size
            # Under the lock: else it would take away what another thread has just put there again.
            self._make_room(self._most)

    def _make_room(self, most: int, but: Container[bytes] = ()) -> bool:
        """Remove what no call needs, the oldest first, until that is no more than `most` bytes. Whether any was."""
        gone = []
        for digest, kept in self._kept.items():
            if self._idle <= most:
                break
            if kept.calls == 0 and digest not in but:
                gone.append(digest)
                self._idle -= kept.size
        for digest in gone:
            del self._kept[digest]
        self._drop(gone)
        return bool(gone)

    def lost(self, needed: Iterable[Kept]) -> None:
        """They are not there, or not what they were: put them there anew for the next call that has them."""
        with self._lock:
            for kept in needed:
                if self._is_there(kept):  # not where that was done since
                    del self._kept[kept.digest]
                    self._idle -= 0 if kept.calls else kept.size

    def _is_there(self, kept: Kept) -> bool:
        return self._kept.get(kept.digest) is kept

    def clear(self) -> None:
        """No call needs anything any more."""
        with self._lock:
            gone = list(self._kept)
            self._kept.clear()
            self._idle = 0
            self._drop(gone)

    def _drop(self, digests: list[bytes]) -> None:
        with suppress(RedisError, LastcallError):  # then it goes with the job
            self._ledger.drop_aside(digests)


def parcel(connection: Connection, job: str) -> Parcel:
    """For the function of a queue of this job, which may write into it. The server has a limit of its own."""
    return Parcel(job, connection.settings.aside_bytes or sys.maxsize, sys.maxsize, copied=True)


def put(connection: Connection, ledger: Ledger, digest: bytes, raw: memoryview) -> None:
    """Put a buffer aside; bears a server that is away. Raises as Aside.hold() does."""
    outage = Outage(connection)
    while True:
        try:
            ledger.put_aside(digest, raw)
            return
        except AWAY as error:
            outage.bear(error)
