"""submit: single calls, each a chunk of its own, each with a Future.

All calls of a client through one Celery queue share one queue in the ledger: an item is a call (function, args,
kwargs). Calls that are made while a put is under way travel together; one thread reads the outcomes.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from lastcall import functions
from lastcall.errors import ItemTooLarge, LastcallError, NotSerializable, QueueCancelled
from lastcall.outcome import unpack_error
from lastcall.payload import CALL
from lastcall.queue import make
from lastcall.results import Reader
from lastcall.waiting import raise_for

if TYPE_CHECKING:
    from lastcall.connection import Connection
    from lastcall.functions import FunctionSpec

_log = logging.getLogger(__name__)
_BLOCK_S = 1.0
_ACK_ITEMS = 1_000


def run_call(item: tuple[Any, ...]) -> Any:
    """Stands as the function of a queue of calls; slots take such items apart themselves."""
    raise TypeError(f"a call must be run by a slot, got {item!r}")


class Calls:
    """A client's calls through one Celery queue."""

    def __init__(self, connection: Connection, celery_queue: str) -> None:
        self.job = f"calls-{uuid.uuid4().hex}"
        self._connection = connection
        self._queue = make(
            connection, self.job, "calls", function=run_call, style=CALL, workers=celery_queue,
            results="once", on_error="return",
        )  # fmt: skip
        self._producer = self._queue.producer("client", chunk_items=1)
        self._futures: dict[int, Future[Any]] = {}
        self._some = threading.Event()
        self._closed = False
        self._specs: dict[Callable[..., Any], FunctionSpec] = {}
        self._error: BaseException | None = None
        self._reader = threading.Thread(target=self._read, name="lastcall-calls", daemon=True)
        self._reader.start()

    def submit(self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Future[Any]:
        """Send a call. Raises NotSerializable, ItemTooLarge, and what stopped the reader."""
        if self._error is not None:
            raise self._error
        try:
            spec = self._specs.get(function)
        except TypeError:  # not hashable
            spec = functions.dump(function, self._connection.sealer.keyed)
        else:
            if spec is None:
                spec = functions.dump(function, self._connection.sealer.keyed)
                if spec.kind != "value":  # what goes by value may change between two calls
                    self._specs[function] = spec
        try:
            dumped = self._producer.dump((spec.wire, args, kwargs))
        except NotSerializable as error:
            raise self._which(error, args, kwargs) from error
        except ItemTooLarge as error:
            raise ItemTooLarge(error.size_bytes, error.limit_bytes) from None
        future: Future[Any] = Future()
        # Once sent a call cannot be taken back, and cancel() says so.
        future.set_running_or_notify_cancel()

        def register(number: int) -> None:
            self._futures[number] = future

        self._producer.put_dumped(dumped, registered=register)
        self._some.set()
        return future

    def close(self, *, wait: bool = True) -> None:
        """Take no more calls; wait for those that are out, or cancel them."""
        if self._closed:
            return
        if wait and self._error is None:
            self._producer.close()
        else:
            self._queue.cancel()
            self._producer.abandon()
        self._closed = True
        self._some.set()
        if threading.current_thread() is not self._reader:
            self._reader.join()

    def _which(self, error: NotSerializable, args: Any, kwargs: dict[str, Any]) -> NotSerializable:
        """The same error, naming the argument."""
        for name, value in [*enumerate(args), *kwargs.items()]:
            try:
                self._connection.sealer.dump(value)
            except NotSerializable as cause:
                return NotSerializable(f"argument {name!r}", None, cause.type_name, cause.reason)
        return error

    def _read(self) -> None:
        ledger = self._queue._ledger
        reader = Reader(self._connection, ledger, self._queue.workers)
        unacked = 0
        try:
            with self._connection.heart.watching(ledger, self._queue.workers):
                while not reader.ended:
                    if not self._futures and not self._closed:
                        self._some.wait()
                        self._some.clear()
                    entries = self._patiently(reader)
                    for entry in entries:
                        future = self._futures.pop(entry.number)
                        unacked += 1
                        if entry.outcome.errors:
                            keyed = self._connection.sealer.keyed
                            future.set_exception(unpack_error(entry.outcome.errors[0], keyed))
                        else:
                            future.set_result(entry.outcome.values[0])
                    if unacked and (not self._futures or unacked >= _ACK_ITEMS):
                        reader.ack()
                        unacked = 0
            status = self._queue.status()
            if self._futures:
                raise_for(status)
                raise QueueCancelled(ledger.shown)
        except BaseException as error:  # whatever it is, nobody may wait for these futures for ever
            self._error = error
            for number in list(self._futures):
                future = self._futures.pop(number)
                if not future.done():
                    future.set_exception(error)

    def _patiently(self, reader: Reader) -> list[Any]:
        try:
            return reader.read(_BLOCK_S)
        except LastcallError:
            raise
        except RedisError as error:
            _log.warning("results cannot be read now, trying again: %s", error)
            self._connection.redis.ping()
            return []
