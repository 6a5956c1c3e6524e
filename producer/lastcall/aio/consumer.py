"""AsyncConsumer: reads a queue that has no function, `async for`, and stops by itself when the queue has ended."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from lastcall.aio.helping import Waiting
from lastcall.aio.misuse import Awaited
from lastcall.consumer import Consumer
from lastcall.errors import Empty
from lastcall.waiting import AWAY, Deadline

if TYPE_CHECKING:
    from lastcall.aio.link import Link
    from lastcall.state.ledger import Ledger

T = TypeVar("T")

_BELL_S = 1.0


class _Claiming(Consumer[T]):
    """A consumer whose waits are another's. claim() is called in a thread; the rest, while nobody claims, anywhere."""

    def claim(self, most_s: float) -> bool:
        """Complete what is in hand, take what is ready. False if the queue has ended. Raises what get() raises."""
        try:
            self._claim()
            if not self._items:
                self._check_beside()
        except StopIteration:
            return False
        except AWAY as error:
            self._outage.bear(error, most_s)
        else:
            self._outage.over()
        return True

    @property
    def has_next(self) -> bool:
        """Whether there is an item in hand that was not handed out."""
        return self._at < len(self._items) and not self._lost and not self._closed

    def pop(self) -> T:
        """The next item in hand."""
        self._at += 1
        return self._items[self._at - 1]

    def undo(self) -> None:
        """The last item that was popped is not done."""
        if self._at:
            self._at -= 1

    def describe(self) -> str:
        return self._outage.describe(self._ledger)


class AsyncConsumer(Awaited, Generic[T]):
    """A queue's items, shared with the other consumers, until the queue has ended; made by queue.consumer(), or by a
    loop over the queue.

    As an async context manager it gives back what it has not done when the block is left: the item in hand too, if by
    an exception, a cancellation among them. Of one task.
    """

    def __init__(
        self, link: Link, ledger: Ledger, *, of_loop: bool = False, beside: Callable[[], int] | None = None,
        explicit: bool = False,
    ) -> None:  # fmt: skip
        # explicit: what was handed out is done when done() says so alone.
        self._explicit = explicit
        self._link, self._ledger, self._of_loop = link, ledger, of_loop
        self._consumer: _Claiming[T] = _Claiming(link.connection, ledger, beside=beside)
        self._closed = False

    def __aiter__(self) -> AsyncConsumer[T]:
        return self

    async def __anext__(self) -> T:
        """The next item. Marks the one before as done."""
        try:
            return await self.get()
        except StopAsyncIteration:
            raise
        except BaseException:
            if self._of_loop:  # nobody has it to go on with; and the traceback may keep it for long
                await self.aclose()
            raise

    async def get(self, timeout: float | None = None) -> T:
        """The next item. timeout: seconds. Raises Empty at the timeout, StopAsyncIteration when the queue is drained,
        and what a Consumer's get() does.

        Where it is cancelled nothing is lost: what was claimed meanwhile is what the next get() gives, or goes back
        when the consumer is closed.
        """
        await self._have(timeout)
        return self._consumer.pop()

    async def _have(self, timeout: float | None) -> None:
        """Have the next item in hand. Raises what get() does."""
        consumer, link, deadline = self._consumer, self._link, Deadline(timeout)
        if consumer.has_next:
            return
        with Waiting(self._ledger, beside=True) as waiting:  # what another function puts, say
            while not self._closed:
                if not await link.threads.take(consumer.claim, deadline.left(_BELL_S)):
                    break
                if consumer.has_next:
                    return
                if deadline.passed:
                    what = await link.threads.ask(consumer.describe)
                    raise Empty(self._ledger.shown, deadline.waited_s, what)
                waiting.help()
                await link.bells.rung(self._ledger.bell_key, waiting.most(deadline.left(_BELL_S)))
        raise StopAsyncIteration

    async def done(self) -> None:
        """Mark as done what was handed out, now: see Consumer.done()."""
        await self._link.threads.take(self._consumer.done)

    async def aclose(self) -> None:
        """Give back what was not handed out, and let go of the ticket. May be called again."""
        if not self._closed:
            self._closed = True
            await self._link.threads.give(self._close)

    def _let_go(self) -> None:
        """aclose(), which nobody waits for."""
        if not self._closed:
            self._closed = True
            self._link.drop(self._close)

    def _close(self) -> None:
        self._closed = True
        self._consumer.close(failed=self._explicit)

    @property
    def _over(self) -> bool:
        """Whether it was closed, or has come to the queue's end, or lost its ticket."""
        return self._closed or self._consumer.closed

    async def __aenter__(self) -> AsyncConsumer[T]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is not None:
            self._consumer.undo()
        await self.aclose()

    def __del__(self) -> None:
        # A loop that was left, or cancelled. Half made, it holds nothing.
        if not getattr(self, "_closed", True):
            self._let_go()
