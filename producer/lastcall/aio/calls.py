"""submit, awaited: the futures of calls, on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from lastcall.aio.helping import Waiting
from lastcall.aio.raising import raisable
from lastcall.current import HELP_S, running
from lastcall.errors import LeaseLost, QueueFinished

if TYPE_CHECKING:
    from lastcall.aio.link import Link
    from lastcall.calls import Answer, Calls
    from lastcall.state.ledger import Ledger

_Call = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class AsyncCalls:
    """An AsyncClient's calls through one Celery queue: of coroutines, or of other functions."""

    def __init__(self, workers: str, coroutines: bool, opened: Callable[[], Any]) -> None:
        self._workers, self._coroutines = workers, coroutines
        self._opened = opened
        self._calls: Calls | None = None
        self._link: Link | None = None
        self._waiting: list[_Call] = []  # until there is a queue, or room, for them
        self._task: asyncio.Task[None] | None = None
        self._dropped: list[Answer] = []  # to be taken back
        self._news: deque[tuple[asyncio.Future[Any], Future[Any]]] = deque()  # to be told on the loop
        self._loop = asyncio.get_running_loop()
        self._out: dict[asyncio.Future[Any], Answer | None] = {}  # None: it is not sent yet

    @property
    def out(self) -> list[asyncio.Future[Any]]:
        """Those that have no answer yet."""
        return list(self._out)

    def submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._out[future] = None
        future.add_done_callback(self._done)
        call = (future, function, args, kwargs)
        if self._task is not None or self._calls is None or not self._send(self._calls, call):
            self._waiting.append(call)
            if self._task is None:
                self._task = asyncio.create_task(self._send_later())
        if running.get() is not None:
            return asyncio.ensure_future(self._helped(future))
        return future

    def _send(self, calls: Calls, call: _Call) -> bool:
        """Send a call, if that can be done at once."""
        future, function, args, kwargs = call
        if future.done():
            return True
        if calls.broken or calls.is_full:
            return False
        try:
            answer = calls.submit(function, args, kwargs)
        except (LeaseLost, QueueFinished):
            return False
        except Exception as error:
            future.set_exception(error)
            return True
        self._follow(answer, future)
        return True

    async def _send_later(self) -> None:
        try:
            while self._waiting:
                client, self._link = await self._opened()
                calls = self._calls
                if calls is None or calls.broken:
                    make: Callable[..., Calls] = client._calls_to
                    calls = self._calls = await self._link.threads.take(make, self._workers, self._coroutines)
                sent = 0
                for call in self._waiting:
                    if not self._send(calls, call):
                        break
                    sent += 1
                del self._waiting[:sent]
                if self._waiting:
                    await asyncio.sleep(HELP_S)  # what is under way makes room
        except BaseException as error:
            for future, *_ in self._waiting:
                if not future.done():
                    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                        future.set_exception(error) if isinstance(error, Exception) else future.cancel()
            self._waiting.clear()
            if not isinstance(error, Exception):
                raise
        finally:
            self._task = None

    def _follow(self, answer: Answer, future: asyncio.Future[Any]) -> None:
        self._out[future] = answer
        answer.add_done_callback(partial(self._settled, future))

    def _settled(self, future: asyncio.Future[Any], answer: Future[Any]) -> None:  # in the thread that has it
        self._news.append((future, answer))
        if len(self._news) == 1:  # one that is behind another goes with it
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        while self._news:
            _settle(*self._news[0])
            # Not removed before it is done: who comes meanwhile knows by it that this goes on.
            self._news.popleft()

    def _done(self, future: asyncio.Future[Any]) -> None:
        answer = self._out.pop(future)
        if future.cancelled() and answer is not None and not answer.done():
            answer.abandoned = True
            self._dropped.append(answer)
            if len(self._dropped) == 1:
                self._loop.call_soon(self._take_back)  # all that are cancelled in one go together

    def _take_back(self) -> None:
        dropped, self._dropped = self._dropped, []
        if self._link is not None:
            by_queue: dict[int, tuple[Calls, list[Answer]]] = {}
            for answer in reversed(dropped):  # the last ones first: that is less to look through
                if answer.calls is not None:
                    by_queue.setdefault(id(answer.calls), (answer.calls, []))[1].append(answer)
            for calls, answers in by_queue.values():
                self._link.threads.aside(calls.cancel, answers)

    async def _helped(self, future: asyncio.Future[Any]) -> Any:
        """Where a worker's coroutine waits: it may be this slot that could run the call."""
        try:
            while not future.done() and self._calls is None:
                await asyncio.wait([future], timeout=HELP_S)
            if self._calls is not None:
                await self._help(future, self._calls.ledger)
            return await future
        finally:
            future.cancel()

    async def _help(self, future: asyncio.Future[Any], ledger: Ledger) -> None:
        with Waiting(ledger) as waiting:
            while not future.done():
                await asyncio.wait([future], timeout=HELP_S)
                waiting.help()


def awaited(answer: Answer, link: Link) -> asyncio.Future[Any]:
    """A call's answer, to be awaited; where that is cancelled, the call is taken back if no slot has it."""
    future: asyncio.Future[Any] = link.loop.create_future()

    def settled(_: Future[Any]) -> None:  # in the thread that has it
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            link.loop.call_soon_threadsafe(_settle, future, answer)

    def done(_: asyncio.Future[Any]) -> None:
        if future.cancelled() and not answer.done():
            answer.abandoned = True
            link.threads.aside(answer.cancel)

    future.add_done_callback(done)
    answer.add_done_callback(settled)
    return future


def _settle(future: asyncio.Future[Any], answer: Future[Any]) -> None:
    if future.done():
        return
    if answer.cancelled():
        future.cancel()
    elif (error := Future.exception(answer)) is None:
        future.set_result(Future.result(answer))
    else:
        future.set_exception(raisable(error))
