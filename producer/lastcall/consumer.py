"""A consumer: reads a queue that has no function, and stops by itself when the queue has ended.

It holds a ticket of its own, as a slot does; a chunk is done when the consumer asks for what comes after it, and comes
back to the queue when the consumer dies before that.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from lastcall.current import HELP_S, help_at, running
from lastcall.errors import BadEnvelope, ConfigError, Empty, LeaseLost, QueueFinished
from lastcall.payload import open_items
from lastcall.state.records import Completion
from lastcall.waiting import AWAY, Deadline, Outage, describe, raise_for, unreachable, warn_of_loop

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.state.ledger import Ledger
    from lastcall.state.records import Chunk

T = TypeVar("T")

_BELL_S = 1.0  # how long to wait for the bell before looking again


class Consumer(Generic[T]):
    """Iterates over a queue's items until the queue has ended; made by queue.consumer().

    As a context manager it gives back what it has not done when the block is left: the item in hand too, if by an
    exception. Ends quietly when the queue is drained; raises ProducerLost if it ended incomplete, QueueCancelled.
    Of one thread; others, and forks, have their own.
    """

    def __init__(self, connection: Connection, ledger: Ledger, *, beside: Callable[[], int] | None = None) -> None:
        # beside: items that this process has got otherwise and not done: they do not come back while it waits here.
        self._connection = connection
        self._ledger = connection.asked(ledger)
        self._pid = os.getpid()
        self._ticket = f"consumer-{uuid.uuid4().hex}"
        self._nonce = uuid.uuid4().hex
        self._chunk: Chunk | None = None
        self._items: list[T] = []
        self._at = 0  # items of the chunk that were handed out
        self._claimed = 0.0  # when
        self._enrolled = False
        self._closed = False
        self._lost = False
        self._waited = False
        self._beside = beside
        self._outage = Outage(connection)

    def __enter__(self) -> Consumer[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close(failed=kind is not None)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """The next item; blocks until there is one. Marks the one before as done."""
        return self.get()

    def get(self, timeout: float | None = None) -> T:
        """The next item. timeout: seconds; None waits for as long as the queue may get more.

        Raises Empty at the timeout, StopIteration when the queue is drained, ProducerLost, QueueCancelled, LeaseLost
        if this consumer fell silent for so long that its items were given to others, BadEnvelope if the next item was
        signed with another key (it stays in the queue), NotDeserializable (likewise), ServerUnreachable,
        ServerReadOnly.
        """
        self.have(timeout)
        self._at += 1
        return self._items[self._at - 1]

    def have(self, timeout: float | None = None) -> None:
        """Have the next item in hand, for get(). Raises what that does."""
        if self._at < len(self._items) and not self._lost and not self._closed:
            return
        if os.getpid() != self._pid:
            raise ConfigError("a consumer", "used in the process that made it", "a fork of it", "make one there")
        warn_of_loop(f"an item of queue {self._ledger.shown}", "async for item in queue")
        deadline = Deadline(timeout)
        wait_s = 0.0
        while True:
            try:
                self._claim(wait_s)
                self._outage.over()
                if self._items:
                    return
                self._check_beside()
                if not deadline.passed:
                    helped = help_at(self._ledger, deadline.waited_s)  # a worker's function waits for what workers put
                    wait_s = 0.0 if helped else max(deadline.left(HELP_S if running.get() else _BELL_S), 0.001)
                    continue
                what = describe(self._connection, self._ledger.status())
            except AWAY as error:
                self._outage.bear(error, deadline.left(_BELL_S))
                wait_s = 0.0
                if not deadline.passed:
                    continue
                what = f"queue {self._ledger.shown}: {self._outage}"
            raise Empty(self._ledger.shown, deadline.waited_s, what)

    @property
    def holds(self) -> int:
        """Items that it has got and not done, those that it has not handed out included."""
        chunk = self._chunk
        return chunk.items if chunk else 0

    @property
    def has_one(self) -> bool:
        """Whether an item was handed out that is not done yet."""
        return self._at > 0 and self._chunk is not None

    @property
    def closed(self) -> bool:
        """Whether it was closed, or has come to the queue's end, or lost its ticket."""
        return self._closed

    def done(self) -> None:
        """Mark as done what was handed out, now; without it, that is done when the next is asked for.

        Where items of its chunk are still to be handed out, they are done together.
        """
        chunk = self._chunk
        if chunk is None or self._at < len(self._items) or self._lost or self._closed:
            return
        outage = Outage(self._connection)
        busy_us = int((time.monotonic() - self._claimed) * 1e6)
        while True:
            try:
                self._ledger.next(
                    self._ticket, self._nonce, self._connection.lease_ms, 0, stay=True,
                    completions=[Completion(chunk.id, chunk.items)], busy_us=busy_us,
                )  # fmt: skip
                break
            except AWAY as error:
                outage.bear(error)
        self._chunk, self._items, self._at = None, [], 0

    def close(self, *, failed: bool = False) -> None:
        """Give back what was not handed out, and let go of the ticket. May be called again.

        failed: the item handed out last is given back, too.
        """
        if self._closed or os.getpid() != self._pid:
            return
        if failed and self._at:
            self._at -= 1
        self._let_go()
        if self._enrolled:
            try:
                self._ledger.release(self._ticket, processed=self._at if self._chunk else 0)
            except AWAY as error:
                # What it held comes back when its lease has run out, the items that it has handed out as well.
                raise unreachable(self._connection, error) from error

    def _let_go(self) -> None:
        """Its ticket is renewed no longer."""
        self._closed = True
        if self._enrolled:
            heart = self._connection.heart
            heart.drop_ticket(self._ledger, self._ticket)
            heart.unwatch(self._ledger)

    def _check_beside(self) -> None:
        """Nothing more is put, and this very process has all that is left: to wait for that is to wait for ever."""
        if self._beside is None or not self._beside():
            return
        status = self._ledger.status()
        if status.state == "SEALED" and not status.ready + status.delayed and status.leased <= self._beside():
            raise QueueFinished(self._ledger.shown, "SEALED", reading=True)

    def _claim(self, wait_s: float = 0.0) -> None:
        """Complete the chunk in hand and take the next, if one is ready, or is within so many seconds."""
        if self._closed:
            raise StopIteration
        connection, ledger = self._connection, self._ledger
        ended = "" if self._enrolled else self._enroll()
        if not ended:
            done, busy_us = [], 0
            # What it held when its lease was lost is not its own to complete. What the queue says counts: it may
            # have ended.
            if self._chunk and not self._lost:
                done = [Completion(self._chunk.id, self._chunk.items)]
                busy_us = int((time.monotonic() - self._claimed) * 1e6)
            claim = ledger.next(
                self._ticket, self._nonce, connection.lease_ms, 1,
                completions=done, waited=self._waited, busy_us=busy_us, wait_s=wait_s,
            )  # fmt: skip
            self._chunk, self._items, self._at, self._waited = None, [], 0, not claim.chunks
            if claim.lost:
                self._let_go()
                raise LeaseLost(ledger.shown, self._ticket)
            ended = claim.ended
            if claim.chunks:
                (chunk,) = claim.chunks
                try:
                    self._items = open_items(connection.sealer, ledger.job, ledger.name, chunk)
                except BadEnvelope:
                    connection.refused()
                    raise
                self._chunk, self._claimed = chunk, time.monotonic()
        if ended:
            # Asked for before it is closed: a server that is away then is asked again, and nothing passes for drained.
            status = ledger.status() if ended != "DRAINED" else None
            self._let_go()  # there is nothing to give back
            if status is not None:
                raise_for(status)
            raise StopIteration

    def _enroll(self) -> str:
        connection, ledger = self._connection, self._ledger
        ended = ledger.enroll(self._ticket, self._nonce, connection.lease_ms)
        if not ended:
            self._enrolled = True
            connection.heart.hold_ticket(ledger, self._ticket, self._on_lost)
            # So that a producer that falls silent is noticed where no worker is.
            connection.heart.watch(ledger)
        return ended

    def _on_lost(self) -> None:
        self._lost = True
