"""Hands: what a process has of a queue through one handle: its lease to put, and the items it has got and not done.

A handle that puts for the first time takes out a producer's lease, and gives it back when it is closed, when nobody
refers to it any more, or when the process ends in order. What it gets is held by consumers' tickets: one a thread,
which says with the next get() that the last item is done; or, where task_done() says that, one an item.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import uuid
import weakref
from collections import deque
from collections.abc import Callable
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any, TypeVar

from lastcall.consumer import Consumer
from lastcall.current import running
from lastcall.directproducer import DirectProducer
from lastcall.errors import ItemTooLarge, LastcallError, LeaseLost, QueueFinished
from lastcall.failing import fails, watch
from lastcall.producer import Producer

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.state.ledger import Ledger
    from lastcall.waiting import Deadline

T = TypeVar("T")

_IDLE = 8  # tickets that are kept for the next get()
_AT_EXIT = 10  # before multiprocessing joins children: they may wait for what is held here


class Hands:
    """Of one handle in one process.

    direct: a put is through when the item is in the queue. explicit: an item is done when task_done() says so.
    keeps: the lease to put is the process's until it ends, not only until the handle is closed.
    """

    def __init__(
        self, connection: Connection, ledger: Ledger, *, celery_queue: str, maxsize: int, maxbytes: int,
        direct: bool, explicit: bool, keeps: bool = False,
    ) -> None:  # fmt: skip
        self.connection = connection
        self.ledger = ledger
        self.pid = os.getpid()
        self.flushes_at_exit = True
        self._celery_queue = celery_queue
        self._maxsize, self._maxbytes = maxsize, maxbytes
        self._direct = direct or maxsize > 0 or maxbytes > 0
        self._explicit = explicit
        self._keeps = keeps
        self._lock = threading.RLock()
        self._producer: Producer[Any] | DirectProducer | None = None
        self._name = ""
        self._consumers: weakref.WeakKeyDictionary[threading.Thread, Consumer[Any]] = weakref.WeakKeyDictionary()
        self._left: deque[Consumer[Any]] = deque()  # whose threads have ended
        self._idle: list[Consumer[Any]] = []
        self._got: deque[tuple[int, Consumer[Any]]] = deque()  # not done; the thread that got it
        self._at_exit: Finalize | None = None

    # Putting

    def join(self, name: str | None = None) -> Producer[Any] | DirectProducer:
        """The lease to put, taken out at the first call. Raises QueueFinished."""
        with self._lock:
            if self._producer is None:
                name = self._name = name or self._name or f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
                # A worker's function that has returned has put what it put.
                if self._direct or running.get() is not None:
                    self._producer = DirectProducer(
                        self.connection, self.ledger, self._celery_queue, name, self._maxsize
                    )
                else:
                    self._producer = Producer(
                        self.connection, self.ledger, self._celery_queue, name, self.ledger.join(name),
                        maxsize=self._maxsize, maxbytes=self._maxbytes, chunk_items=1,
                    )  # fmt: skip
                self._hold()
            return self._producer

    def dump(self, item: object) -> bytes:
        """An item as it is put. Raises NotSerializable, ItemTooLarge."""
        dumped = self.connection.sealer.dump(item)
        limit = self.connection.settings.max_item_bytes
        if len(dumped) > limit:
            raise ItemTooLarge(len(dumped), limit)
        return dumped

    def offer(self, dumped: bytes, deadline: Deadline) -> bool:
        """Put an item if there is room; False if there is none. Of hands that are direct. Raises what put() does."""
        producer = self.join()
        assert isinstance(producer, DirectProducer)
        with self._forgetting(producer):
            return producer.offer(dumped, deadline)

    def put(self, item: object, timeout: float | None) -> None:
        """Raises Full, QueueFinished, LeaseLost, NotSerializable, ItemTooLarge, ServerUnreachable."""
        dumped = self.dump(item)
        producer = self.join()
        with self._forgetting(producer):
            producer.put_dumped(dumped, timeout=timeout)

    def flush(self) -> None:
        """What was put is in the queue. Raises why not."""
        producer = self._producer
        if producer is not None:
            with self._forgetting(producer):
                producer.flush()

    def leave(self) -> None:
        """Give back the lease to put."""
        with self._lock:
            if self._keeps:
                self.flush()
                return
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

    def end(self) -> None:
        """Nothing is put any more: the queue was shut down."""
        self._keeps = False
        with contextlib.suppress(QueueFinished, LeaseLost):
            self.leave()

    @contextlib.contextmanager
    def _forgetting(self, producer: Producer[Any] | DirectProducer) -> Any:
        try:
            yield
        except LastcallError as error:
            if isinstance(error, LeaseLost | QueueFinished) or (isinstance(producer, Producer) and producer.broken):
                # Told once: the next put takes out another lease, if it can.
                with self._lock:
                    if self._producer is producer:
                        self._producer = None
                with contextlib.suppress(LastcallError):
                    producer.abandon()
            raise

    # Getting

    def get(self, timeout: float | None) -> Any:
        """The next item. Raises Empty, QueueFinished, ProducerLost, QueueCancelled, ServerUnreachable."""
        return self._ask(lambda consumer: consumer.get(timeout))

    def have(self, timeout: float | None) -> None:
        """Have the next item in this thread's hand, for get(). Raises what that does."""
        self._ask(lambda consumer: consumer.have(timeout))

    def done(self) -> bool:
        """Mark as done, now, the item that this thread got first of those that are not, else this process; False if
        there is none."""
        thread = threading.get_ident()
        if not self._explicit:
            consumer = self._consumers.get(threading.current_thread())
            if consumer is None or not consumer.has_one:
                return False
            consumer.done()
            return True
        with self._lock:
            if not self._got:
                return False
            entry = next((entry for entry in self._got if entry[0] == thread), self._got[0])
            self._got.remove(entry)
        try:
            entry[1].done()
        except BaseException:
            self._got.appendleft(entry)
            raise
        self._put_aside(entry[1])
        return True

    def settle(self) -> None:
        """What this thread has got is done, if nobody has to say so."""
        if not self._explicit:
            self.done()

    def _held(self) -> int:
        """Items that were got here and are not done."""
        with self._lock:
            consumers = (*self._consumers.values(), *self._left, *(consumer for _, consumer in self._got))
            return sum(consumer.holds for consumer in consumers)

    def _ask(self, what: Callable[[Consumer[Any]], Any]) -> Any:
        self.flush()  # lest it misses what it has put itself
        while True:
            consumer, kept = self._consumer(), False
            try:
                answer = what(consumer)
                if self._explicit:
                    with self._lock:
                        self._got.append((threading.get_ident(), consumer))
                        kept = True
                return answer
            except LeaseLost:
                continue  # what it had went to others, as if it had died
            except StopIteration:
                raise QueueFinished(self.ledger.shown, "DRAINED", reading=True) from None
            finally:
                if self._explicit and not kept:
                    self._put_aside(consumer)

    def _consumer(self) -> Consumer[Any]:
        thread = threading.current_thread()
        with self._lock:
            if self._explicit:
                return self._idle.pop() if self._idle else self._new()
            consumer = self._consumers.get(thread)
            if consumer is None or consumer.closed:
                consumer = self._consumers[thread] = self._new()
                weakref.finalize(thread, self._thread_ended, consumer).atexit = False
            return consumer

    def _new(self) -> Consumer[Any]:
        self._hold()
        return Consumer(self.connection, self.ledger, beside=self._held)

    def _put_aside(self, consumer: Consumer[Any]) -> None:
        with self._lock:
            if consumer.closed:
                return
            if len(self._idle) < _IDLE:
                self._idle.append(consumer)
                return
        consumer.close()

    def _thread_ended(self, consumer: Consumer[Any]) -> None:
        self._left.append(consumer)
        self.connection.heart.later(self._close_left)

    def _close_left(self) -> None:
        with contextlib.suppress(LastcallError, IndexError):  # leases run out; another thread closes them
            while True:
                self._left.popleft().close()

    # The end

    def _hold(self) -> None:
        if self._at_exit is None:
            watch()
            self._at_exit = Finalize(None, self._exit, exitpriority=_AT_EXIT)

    def _exit(self) -> None:
        # A server that is away takes everything back when the leases have run out. What was not sent yet is waited for.
        if not self.connection.is_gone() or (self._producer is not None and self._producer.waiting):
            self.let_go(failed=fails())

    def let_go_later(self) -> None:
        """The handle is gone."""
        if self._at_exit is not None and not self._keeps and os.getpid() == self.pid:
            self.connection.heart.later(self._let_go_quietly)

    def _let_go_quietly(self) -> None:
        with contextlib.suppress(LastcallError):  # nobody is there to be told, and leases run out
            self.let_go()

    def let_go(self, *, failed: bool = False) -> None:
        """Give everything back. failed: the process ends by an exception; what it was at is not done, and what it had
        still to put never comes."""
        if os.getpid() != self.pid:
            return
        with self._lock:
            at_exit, self._at_exit = self._at_exit, None
            producer = self._producer
            if not self._keeps:
                self._producer = None
            consumers = [*self._consumers.values(), *self._idle]
            got = [consumer for _, consumer in self._got]
            self._consumers.clear()
            self._idle, self._got = [], deque()
        if at_exit is not None:
            at_exit.cancel()
        if self.connection.closed:
            return
        self._close_left()
        for consumer in consumers:
            with contextlib.suppress(LastcallError):
                consumer.close(failed=failed)
        for consumer in got:
            with contextlib.suppress(LastcallError):
                consumer.close(failed=True)
        if producer is not None and (self.flushes_at_exit or isinstance(producer, DirectProducer)):
            with contextlib.suppress(LeaseLost, QueueFinished):
                if self._keeps:
                    producer.flush()
                elif failed:
                    producer.abandon()
                else:
                    producer.close(patient=False)
