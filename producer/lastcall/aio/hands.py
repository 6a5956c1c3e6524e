"""AsyncHands: what the tasks of a loop have of a queue through one handle; hands.py, with tasks in place of threads."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from lastcall.aio.consumer import AsyncConsumer
from lastcall.aio.helping import Waiting
from lastcall.errors import Full, LastcallError, LeaseLost, QueueFinished
from lastcall.waiting import AWAY, Deadline, Patience, unreachable

if TYPE_CHECKING:
    from lastcall.aio.link import Link
    from lastcall.putget import PutGet

_ROOM_S = 1.0  # how long to wait for the room bell before looking again
_IDLE = 8  # consumers that are kept for the next get()


class AsyncHands:
    """A lease to put, taken out by the first put, and the items that were got and are not done: one a task, which is
    done when its task asks for the next or ends; or, where task_done() says that, any number."""

    def __init__(self, link: Link, queue: PutGet[Any]) -> None:
        self._link, self._ledger, self._maxsize = link, queue._ledger, queue.maxsize
        self._explicit, self._served = queue._explicit, bool(queue.workers)
        self._putting = queue._make_hands(direct=True)
        self._of_tasks: dict[asyncio.Task[Any], AsyncConsumer[Any]] = {}
        self._idle: list[AsyncConsumer[Any]] = []
        self._got: deque[tuple[asyncio.Task[Any], AsyncConsumer[Any]]] = deque()  # by which task
        link.hands.add(self)

    async def put(self, item: object, timeout_s: float | None) -> None:
        """Raises what Hands.put() does."""
        link, deadline, patience = self._link, Deadline(timeout_s), Patience(self._link.connection)
        dumped = self._putting.dump(item)
        with Waiting(self._ledger, beside=not self._served) as waiting:
            while not await link.threads.take(self._offer, dumped, deadline):
                if deadline.passed:
                    raise Full(self._ledger.shown, self._maxsize, deadline.waited_s)
                with link.connection.heart.watching(self._ledger):  # somebody who was to make room may have died
                    wait_s = waiting.most(deadline.left(_ROOM_S))
                    if not await link.bells.rung(self._ledger.room_key, wait_s):
                        await link.threads.ask(self._look, patience)
                        waiting.help()

    async def get(self, timeout_s: float | None, *, take: bool = True) -> Any:
        """The next item; without `take` it is only in this task's hand. Raises what Hands.get() does."""
        deadline, task = Deadline(timeout_s), _task()
        while True:
            consumer, kept = self._consumer(task), False
            try:
                await consumer._have(None if timeout_s is None else deadline.left(timeout_s))
                kept = True
            except LeaseLost:
                continue  # what it had went to others, as if it had died
            except StopAsyncIteration:
                raise QueueFinished(self._ledger.shown, "DRAINED", reading=True) from None
            except asyncio.CancelledError:
                self._drop(consumer, task)  # lest it keeps from others what it has claimed
                raise
            finally:
                if self._explicit and not (kept and take):
                    self._put_aside(consumer)
            if not take:
                return None
            if self._explicit:
                self._got.append((task, consumer))
            return consumer._consumer.pop()

    async def done(self) -> bool:
        """Mark as done the item that this task got first of those that are not, else any; False if there is none."""
        task = _task()
        if not self._explicit:
            consumer = self._of_tasks.get(task)
            if consumer is None or not consumer._consumer.has_one:
                return False
            await consumer.done()
            return True
        if not self._got:
            return False
        entry = next((entry for entry in self._got if entry[0] is task), self._got[0])
        self._got.remove(entry)
        try:
            await entry[1].done()
        except Exception:
            self._got.appendleft(entry)
            raise
        self._put_aside(entry[1])
        return True

    async def leave(self) -> None:
        """Give back the lease to put; what this task has got is done, if nobody has to say so."""
        if not self._explicit:
            await self.done()
        await self._link.threads.give(self._putting.leave)

    def end(self) -> None:
        """Nothing is put any more: the queue was shut down."""
        self._putting.end()

    async def aclose(self) -> None:
        """Give everything back."""
        await self._link.threads.give(self.let_go)

    def let_go(self) -> None:
        """aclose(), in a thread: the handle is gone."""
        for consumer in (*self._of_tasks.values(), *tuple(self._idle), *(consumer for _, consumer in tuple(self._got))):
            with contextlib.suppress(LastcallError):  # its lease runs out
                consumer._close()
        self._putting.let_go()

    def _offer(self, dumped: bytes, deadline: Deadline) -> bool:
        try:
            return self._putting.offer(dumped, deadline)
        except AWAY as error:
            raise unreachable(self._link.connection, error) from error

    def _look(self, patience: Patience) -> None:
        with contextlib.suppress(*AWAY):  # the next put bears it
            patience.look(self._link.connection.asked(self._ledger).status())

    def _held(self) -> int:
        """Items that were got here and are not done."""
        consumers = [*self._of_tasks.values(), *(consumer for _, consumer in tuple(self._got))]  # from a thread
        return sum(consumer._consumer.holds for consumer in consumers)

    def _consumer(self, task: asyncio.Task[Any]) -> AsyncConsumer[Any]:
        if self._explicit:
            return self._idle.pop() if self._idle else self._new()
        consumer = self._of_tasks.get(task)
        if consumer is None or consumer._over:
            consumer = self._of_tasks[task] = self._new()
            task.add_done_callback(self._ended)
        return consumer

    def _new(self) -> AsyncConsumer[Any]:
        return AsyncConsumer(self._link, self._ledger, beside=self._held, explicit=self._explicit)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        consumer = self._of_tasks.get(task)
        if consumer is not None:
            if task.cancelled() or task.exception() is not None:
                consumer._consumer.undo()  # what it was at is not done
            self._drop(consumer, task)

    def _drop(self, consumer: AsyncConsumer[Any], task: asyncio.Task[Any]) -> None:
        if self._of_tasks.get(task) is consumer:
            del self._of_tasks[task]
        consumer._let_go()

    def _put_aside(self, consumer: AsyncConsumer[Any]) -> None:
        if not consumer._over and len(self._idle) < _IDLE:
            self._idle.append(consumer)
        else:
            consumer._let_go()


def _task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # coroutines run in tasks
    return task
