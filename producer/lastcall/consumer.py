"""A consumer: reads a queue that has no function, and stops by itself when the queue has ended.

It holds a ticket of its own, as a slot does; a chunk is done when the consumer asks for what comes after it, and comes
back to the queue when the consumer dies before that.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from lastcall.errors import Empty, LeaseLost
from lastcall.payload import open_items
from lastcall.state.ledger import Completion
from lastcall.waiting import Deadline, raise_for

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.state.ledger import Chunk, Ledger

T = TypeVar("T")

_BELL_S = 1.0  # how long to wait for the bell before looking again


class Consumer(Generic[T]):
    """Iterates over a queue's items until the queue has ended; made by queue.consumer().

    As a context manager it gives back what it has not done when the block is left: the item in hand too, if by an
    exception. Ends quietly when the queue is drained; raises ProducerLost if it ended incomplete, QueueCancelled.
    """

    def __init__(self, connection: Connection, ledger: Ledger) -> None:
        self._connection = connection
        self._ledger = ledger
        self._ticket = f"consumer-{uuid.uuid4().hex}"
        self._nonce = uuid.uuid4().hex
        self._chunk: Chunk | None = None
        self._items: list[T] = []
        self._at = 0  # items of the chunk that were handed out
        self._enrolled = False
        self._closed = False
        self._lost = False
        self._waited = False

    def __enter__(self) -> Consumer[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is not None and self._at:
            self._at -= 1
        self.close()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """The next item; blocks until there is one. Marks the one before as done."""
        return self.get()

    def get(self, timeout: float | None = None) -> T:
        """The next item. timeout: seconds; None waits for as long as the queue may get more.

        Raises Empty at the timeout, StopIteration when the queue is drained, ProducerLost, QueueCancelled, LeaseLost
        if this consumer fell silent for so long that its items were given to others.
        """
        if self._at < len(self._items):
            self._check()
            self._at += 1
            return self._items[self._at - 1]
        deadline = Deadline(timeout)
        while True:
            self._claim()
            if self._items:
                self._at = 1
                return self._items[0]
            if deadline.passed:
                raise Empty(self._ledger.shown, deadline.waited_s)
            wait_s = deadline.left(_BELL_S)
            self._waited = not self._connection.redis.blpop(
                [self._ledger.bell_key], timeout=max(wait_s, 0.001)
            )

    def close(self) -> None:
        """Give back what was not handed out, and let go of the ticket. May be called again."""
        if self._closed:
            return
        self._closed = True
        if self._enrolled:
            self._connection.heart.drop_ticket(self._ledger, self._ticket)
            self._ledger.release(self._ticket, processed=self._at if self._chunk else 0)

    def _claim(self) -> None:
        self._check()
        ended = ""
        if not self._enrolled:
            ended = self._ledger.enroll(self._ticket, self._nonce, self._connection.lease_ms)
            if not ended:
                self._enrolled = True
                self._connection.heart.hold_ticket(self._ledger, self._ticket, self._on_lost)
        if not ended:
            done = [Completion(self._chunk.id, self._chunk.items)] if self._chunk else []
            claim = self._ledger.next(
                self._ticket, self._nonce, self._connection.lease_ms, 1,
                completions=done, waited=self._waited,
            )  # fmt: skip
            self._chunk, self._items, self._at, self._waited = None, [], 0, False
            if claim.lost:
                self._on_lost()
                self._check()
            ended = claim.ended
            if claim.chunks:
                (chunk,) = claim.chunks
                self._items = open_items(
                    self._connection.sealer, self._ledger.job, self._ledger.name, chunk
                )
                self._chunk = chunk
        if ended:
            self.close()
            if ended != "DRAINED":
                raise_for(self._ledger.status())
            raise StopIteration

    def _on_lost(self) -> None:
        self._lost = True

    def _check(self) -> None:
        if self._lost:
            self.close()
            raise LeaseLost(self._ledger.shown, self._ticket)
        if self._closed:
            raise StopIteration
