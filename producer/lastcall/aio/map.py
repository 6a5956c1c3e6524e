"""AsyncMapResults: map, `async for`, over iterables and async iterables, lazily at both ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any

from lastcall.aio.helping import Waiting
from lastcall.aio.misuse import Awaited
from lastcall.aio.raising import raisable
from lastcall.aio.results import FedReader
from lastcall.aio.turn import Turn
from lastcall.errors import ConfigError, QueueCancelled, WaitTimeout
from lastcall.feed import NotYet
from lastcall.map import _Map
from lastcall.waiting import Deadline, raise_for, status_of

if TYPE_CHECKING:
    from lastcall.aio.link import Link
    from lastcall.connection import Connection
    from lastcall.state.ledger import Ledger

_LOOK_S = 1.0
_AHEAD = 64  # items that are read ahead of what is put, at least


class _Feed(Iterator[Any]):
    """What was read of the input on the loop, for a thread that puts it."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self.closed = False
        self.error: BaseException | None = None

    def __next__(self) -> Any:
        closed = self.closed  # before it is looked what is there
        try:
            return self.items.popleft()
        except IndexError:
            if not closed:
                raise NotYet from None
            if self.error is not None:
                error, self.error = self.error, None
                raise error from None
            raise StopIteration from None


class _Steps(_Map):
    """A map's work, a step at a time: in a thread, which does not wait."""

    def reader(self, connection: Connection, ledger: Ledger, *, once: bool) -> FedReader:
        self.fed_reader = FedReader(connection, ledger, once=once)
        return self.fed_reader

    def expect(self, items: int | None) -> None:
        """The input's length, if it is known."""
        self._sizes.remaining = items

    def step(self, reply: list[Any]) -> tuple[list[Any], bool, BaseException | None]:
        """Put what is needed, take in what was read. Gives values, whether all is handed out, and what is to be raised
        behind the values."""
        values: list[Any] = []
        try:
            self.filled = self._fill()
            entries = self.fed_reader.feed(reply) if reply else []
            for entry in entries:
                self._take_in(entry)
            if entries:
                self.fed_reader.ack(sum(entry.outcome.settled for entry in entries))
                self.filled = self._fill()
            values.extend(self._ready())
            over = self._feed.exhausted and not self._under_way and not self._parts
            if over and self._feed.ended_without:
                raise_for(status_of(self._connection, self._ledger))
            if over and self._feed.error is not None:
                raise self._feed.error
            if not over and not entries and self.fed_reader.ended:
                raise_for(status_of(self._connection, self._ledger))
                raise QueueCancelled(self._ledger.shown)
        except BaseException as error:
            self.finish(cancel=True)
            return values, True, error
        if over:
            self.finish(cancel=False)
        return values, over, None

    def look(self) -> None:
        """Nothing has come for a while: see what is the matter. Raises NoWorker, ServerUnreachable."""
        self.fed_reader.look()

    @property
    def wanted(self) -> int:
        """Items that are to be read ahead."""
        return max(_AHEAD, 2 * self._sizes.size)

    @property
    def starved(self) -> bool:
        return self._feed.starved


class AsyncMapResults(Awaited, AsyncIterator[Any]):
    """The results of a map, in order or as they come; made by client.map().

    Begins when it is first asked for a result. What is left is cancelled when it is left, cancelled, closed, or no
    longer referred to. `job` is the id of the map's job.
    """

    def __init__(
        self, link: Callable[[], Any], make: Callable[[Link, Iterator[Any], bool], _Steps],
        iterables: Sequence[Iterable[Any] | AsyncIterable[Any]], job: str, timeout: float | None,
    ) -> None:  # fmt: skip
        if not iterables:
            raise ConfigError("iterables", "at least one", "none", "client.map(function, items)")
        for at, iterable in enumerate(iterables):
            if not isinstance(iterable, Iterable | AsyncIterable):
                raise ConfigError(f"iterable {at}", "iterable, or async iterable", type(iterable).__name__)
        self.job = job
        self._open, self._make = link, make
        self._iterables, self._timeout = iterables, timeout
        self._values: deque[Any] = deque()
        self._error: BaseException | None = None
        self._over = False
        self._link: Link | None = None
        self._steps: _Steps | None = None
        self._feed = _Feed()
        self._feeder: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[list[Any]] | None = None
        self._fed, self._hungry = asyncio.Event(), asyncio.Event()

    def __aiter__(self) -> AsyncMapResults:
        return self

    async def __anext__(self) -> Any:
        """The next result. Raises the function's first error, with the remote traceback as its cause; WaitTimeout."""
        if not self._values and not self._over:
            try:
                await self._more()
            except BaseException:
                await self.aclose()
                raise
        if self._values:
            return self._values.popleft()
        if self._error is not None:
            error, self._error = self._error, None
            raise raisable(error)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Cancel what is left."""
        self._over = True
        self._values.clear()
        self._stop()
        steps, self._steps = self._steps, None
        if steps is not None and self._link is not None:
            await self._link.threads.give(lambda: steps.finish(cancel=True))

    def __del__(self) -> None:
        steps, self._steps = getattr(self, "_steps", None), None
        if steps is not None and self._link is not None:
            self._link.drop(lambda: steps.finish(cancel=True))
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._link.loop.call_soon_threadsafe(_cancel, self._feeder, self._reading)

    async def _begin(self) -> tuple[Link, _Steps]:
        if self._link is None or self._steps is None:
            link: Link = await self._open()
            self._link = link
            several = len(self._iterables) > 1
            self._steps = await link.threads.take(
                self._make, link, self._feed, several, undo=lambda steps: steps.finish(cancel=True)
            )
            sizes = [len(one) for one in self._iterables if isinstance(one, Sized)]
            self._steps.expect(min(sizes) if sizes else None)
            self._feeder = asyncio.create_task(_read(self._iterables, self._feed, self._fed, self._hungry, self._steps))
        return self._link, self._steps

    async def _more(self) -> None:
        link, steps = await self._begin()
        deadline = Deadline(self._timeout)
        with link.connection.heart.watching(steps.ledger), Waiting(steps.ledger) as waiting:
            while True:
                reply: list[Any] = []
                if self._reading is not None and self._reading.done():
                    reply, self._reading = self._reading.result(), None
                self._fed.clear()
                values, over, error = await link.threads.take(steps.step, reply)
                self._values.extend(values)
                self._hungry.set()
                if over:
                    self._over, self._error, self._steps = True, error, None
                    self._stop()
                if self._values or over:
                    return
                if deadline.passed:
                    what = await link.threads.ask(steps.fed_reader.describe)
                    raise WaitTimeout(f"results of {what}", deadline.waited_s)
                if reply or (not steps.filled and not steps.starved) or (steps.starved and self._fed.is_set()):
                    continue
                if not await self._news(link, steps, waiting.most(deadline.left(_LOOK_S))):
                    waiting.help()
                    await link.threads.ask(steps.look)

    async def _news(self, link: Link, steps: _Steps, wait_s: float) -> bool:
        """Wait for results, or, where the input had nothing, for that."""
        if self._reading is None:
            reader = steps.fed_reader
            self._reading = asyncio.create_task(link.bells.entries(reader.key, reader.read_to, _LOOK_S))
        waits: set[asyncio.Task[Any]] = {self._reading}
        fed = asyncio.create_task(self._fed.wait()) if steps.starved else None
        if fed is not None:
            waits.add(fed)
        try:
            await asyncio.wait(waits, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if fed is not None:
                fed.cancel()
        return self._fed.is_set() or (self._reading.done() and bool(self._reading.result()))

    def _stop(self) -> None:
        _cancel(self._feeder, self._reading)
        self._feeder = self._reading = None


def _cancel(*tasks: asyncio.Task[Any] | None) -> None:
    for task in tasks:
        if task is not None:
            task.cancel()


# Not a method: the task would hold on to the map, which then were not cancelled as soon as nobody refers to it.
async def _read(
    iterables: Sequence[Iterable[Any] | AsyncIterable[Any]], feed: _Feed, fed: asyncio.Event, hungry: asyncio.Event,
    steps: _Steps,
) -> None:  # fmt: skip
    """Read the input, a little ahead of what is put."""
    turn = Turn()
    try:
        async with contextlib.aclosing(_side_by_side(iterables)) as source:
            async for item in source:
                feed.items.append(item)
                fed.set()
                while len(feed.items) >= steps.wanted:
                    hungry.clear()
                    await hungry.wait()
                await turn.take()
    except asyncio.CancelledError as error:
        feed.error = raisable(error, "the input")  # as its own: where it is the map that ends, nobody reads it
        raise
    except Exception as error:  # whatever the input raises comes when the results of what came before it are read
        feed.error = error
    finally:
        feed.closed = True
        fed.set()


async def _side_by_side(iterables: Sequence[Iterable[Any] | AsyncIterable[Any]]) -> AsyncGenerator[Any, None]:
    if len(iterables) == 1:
        (only,) = iterables
        if isinstance(only, AsyncIterable):
            async for item in only:
                yield item
        else:
            for item in only:
                yield item
        return
    iterators = [aiter(one) if isinstance(one, AsyncIterable) else iter(one) for one in iterables]
    while True:
        row = []
        for iterator in iterators:
            try:
                row.append(await anext(iterator) if isinstance(iterator, AsyncIterator) else next(iterator))
            except (StopIteration, StopAsyncIteration):
                return
        yield tuple(row)
