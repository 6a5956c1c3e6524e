"""StatusableQueue: a queue that knows its live producers, and so when it is finished.

Start here. A queue with a function is worked off by workers and has results; one without is read by consumers, on any
machine, that stop by themselves. How it ends is decided in Redis: state/lua/_settle.lua.
"""

from __future__ import annotations

import re
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from lastcall import celerytask, functions, handle
from lastcall import notify as notifications
from lastcall.announced import wait_for_end
from lastcall.aside import parcel, put
from lastcall.checks import bound, one_of, plain_name, positive, seconds
from lastcall.connection import Connection
from lastcall.consumer import Consumer
from lastcall.coroutine import check_concurrency
from lastcall.defaultclient import connection_of
from lastcall.errors import ConfigError, FunctionMismatch, QueueFinished, QueueHasFunction, QueueMismatch, UnknownLetter
from lastcall.flowoptions import MANY, FlowOptions
from lastcall.letters import DeadLetter, read_letter
from lastcall.payload import CALL, ITEM, STARTED
from lastcall.policy import Told, told_of
from lastcall.producer import Producer
from lastcall.putget import PutGet, items_bound
from lastcall.results import Results
from lastcall.state import keys
from lastcall.state.ledger import Ledger
from lastcall.state.records import (
    ENDED,
    OFF,
    ON_ERROR,
    ON_LOST,
    RECORD,
    RESULTS,
    Spec,
    Status,
    shown,
)
from lastcall.waiting import AWAY, raise_for, reaching, unreachable

if TYPE_CHECKING:
    from lastcall.client import Client
    from lastcall.settings import Settings
    from lastcall.starter import Starter

T = TypeVar("T")

_CURSOR = re.compile(r"\d+-\d+")
# Options as client.queue() calls them, where the ledger has another word.
_SAID = {"celery": "workers", "expected": "producers", "down": "into", "backoff": "backoff_s (in ms)",
         "timeout": "timeout (in ms)"}  # fmt: skip


class StatusableQueue(PutGet[T]):
    """A queue in Redis; made by client.queue(), or as it is. A handle may be pickled and used on any machine, and after
    a fork.

    maxsize: items that wait in it before put() blocks; 0 or less for no bound.
    producers: how many there will be, where that is known; otherwise the last one to leave seals the queue.
    name: None makes one up; with one, reopen and on_lost, as client.queue(). client: whose server to use; None:
    LASTCALL_URL's, or a private one, which all queues of a program share.

    A process that puts is a producer from its first put() on, until close(), until its handle is gone, or until it
    ends; it is lost if it ends by an exception, or is killed. Besides queue.Queue's methods there are leases by hand.

    Whatever asks the server raises ServerUnreachable when it is away, ServerReadOnly or ServerOutOfMemory when it
    refuses, UnknownJob when the queue has expired.
    """

    _closed_to_readers = False
    _beside: tuple[bytes, ...] = ()  # what lies aside for its function, where this made it

    def __init__(
        self, maxsize: int = 0, *, producers: int | None = None, name: str | None = None, client: Client | None = None,
        on_lost: str | None = None, reopen: bool = False,
    ) -> None:  # fmt: skip
        bound_items = items_bound(maxsize)
        connection = connection_of(client)
        name = name or f"queue-{uuid.uuid4().hex}"
        try:
            made = make(
                connection, name, name, maxsize=bound_items, producers=producers, on_lost=on_lost, reopen=reopen,
                more={"bounds": "waiting"},
            )  # fmt: skip
            self._hold(connection, made._ledger)
        except AWAY as error:
            raise unreachable(connection, error) from error

    # Putting

    @reaching
    def producer(
        self, name: str | None = None, *, chunk_items: int | None = None, kind: type[Producer[T]] = Producer
    ) -> Producer[T]:
        """Take out a producer's lease: one live producer more, until its `with` block is left.

        name: the same again for one that comes back, to go on where it was; a token for one that was announced by
        producer_token(); None makes one up. chunk_items: items that travel together; None finds it by measuring.
        kind: for subclasses.
        Raises QueueFinished, ConfigError.
        """
        if name is not None:
            plain_name("name", name)
            if name.startswith("stage:"):
                raise ConfigError("name", 'one that does not start with "stage:"', repr(name))
        if chunk_items is not None:
            positive("chunk_items", chunk_items)
        name = name or f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
        lease = self._ledger.join(name)
        return kind(
            self._connection, self._ledger, self.workers, name, lease,
            maxsize=self.maxsize, maxbytes=self._maxbytes, chunk_items=chunk_items,
        )  # fmt: skip

    @reaching
    def producer_token(self, *, lease_s: float = 60.0) -> str:
        """Take out a lease on behalf of a producer that starts elsewhere, later.

        Give the token there to `queue.producer(token)`. lease_s: seconds within which it must start, or it counts as
        lost. Raises QueueFinished, ConfigError.
        """
        seconds("lease_s", lease_s)
        token = f"token-{uuid.uuid4().hex[:12]}"
        self._ledger.join(token, lease_ms=max(1, int(lease_s * 1000)))
        return token

    @reaching
    def seal(self) -> None:
        """Nothing more is put, whoever is still there: the queue ends when what it has is done."""
        self._ledger.seal()
        self._connection.send_minted(self._ledger)

    # Reading

    def consumer(self) -> Consumer[T]:
        """A consumer of this queue's items. Raises QueueHasFunction."""
        if self.function_name:
            raise QueueHasFunction(self._ledger.shown, self.function_name)
        return Consumer(self._connection, self._ledger)

    def __iter__(self) -> Iterator[T]:
        """The items, shared with the other consumers, until the queue has ended. A loop that is left early gives back
        what it has not got; what it was at counts as done (a consumer() gives that back, too, if it fails).

        Raises ProducerLost if it ended incomplete, QueueCancelled, QueueHasFunction, and what consumer().get() does.
        """
        return _consume(self.consumer())

    def finished(self, timeout: float | None = None) -> bool:
        """Whether this thread will get no item any more; if not, one is in its hand for get().

        `while not queue.finished(): queue.get()` reads it to its end. Blocks until it is known. timeout: seconds. Marks
        the item before as done. Raises Empty at the timeout, ProducerLost, QueueCancelled, QueueHasFunction.
        """
        try:
            self._to_read().have(timeout)
        except QueueFinished:
            return True
        return False

    def task_done(self) -> None:
        """The item that this thread got last is done: other than queue.Queue's, it says so itself when it gets the
        next. Raises ValueError if it has got none since."""
        if not self._hands.done():
            raise ValueError("task_done() called too many times: this thread has got no item that is not done")

    def results(self, *, timeout: float | None = None, cursor: str = "") -> Results:
        """What the function returned, as it comes, until the queue has ended.

        Items that became dead letters are left out here; join() and dead_letters() tell of them. timeout: seconds to
        wait for each. cursor: where to go on, the `cursor` of what this returned before. With results="once" there is
        one reader. Raises an item's exception if the queue was made with on_error="return"; ProducerLost,
        QueueCancelled, NoWorker, WaitTimeout, BadEnvelope; ConfigError if it has no function, keeps
        no results, or puts them into another queue.
        """
        once, returns_errors = self.check_results(cursor)
        return Results(
            self._connection, self._ledger, once=once, returns_errors=returns_errors, timeout=timeout, cursor=cursor
        )

    def check_results(self, cursor: str) -> tuple[bool, bool]:
        """Whether results can be read once only, and whether exceptions are among them. Raises ConfigError."""
        ledger = self._ledger
        if not self.function_name:
            raise ConfigError("results()", "called on a queue with a function", "one without",
                              "iterate over the queue itself")  # fmt: skip
        if self._results == "discard":
            raise ConfigError("results()", "called on a queue that keeps results", 'results="discard"',
                              'make the queue with results="keep" or "once"')  # fmt: skip
        if len(ledger.names) > 1:
            last = shown(ledger.job, ledger.names[-1])
            raise ConfigError("results()", "called on the last queue of a job", f"one whose outputs go to {last}",
                              "read the results of that")  # fmt: skip
        if cursor and not _CURSOR.fullmatch(cursor):
            raise ConfigError("cursor", "the cursor of results that were read before", repr(cursor))
        return self._results == "once", self._on_error == "return"

    # Looking

    @reaching
    def status(self) -> Status:
        """One moment's picture: state, counters, producers."""
        return self._ledger.status()

    def join(self, timeout: float | None = None) -> Status:
        """Block until the queue is drained; other than queue.Queue's, it needs no task_done().

        Who waits for that puts nothing more: the lease of this handle's put() is given back.

        timeout: seconds. Raises what went wrong: ProducerLost, QueueCancelled, DeadLetters; NoWorker; WaitTimeout,
        which says what was waited for.
        """
        self._leave()  # nor does it hold up itself
        (status,) = wait_for_end(self._connection, [self._ledger], timeout)
        raise_for(status)
        return status

    @reaching
    def cancel(self) -> Status:
        """Drop what is waiting and refuse what is running."""
        self._ledger.cancel()
        self._connection.send_minted(self._ledger)
        return self.status()

    @reaching
    def reopen(self) -> None:
        """If the queue has ended, begin a new epoch with the same options: NEW, empty, its old results gone.

        Raises QueueFinished if it feeds a queue that has ended.
        """
        ledger = self._ledger
        state, _ = ledger.reopen()
        if state not in ENDED:
            self._connection.redis.hset(keys.QUEUES, ledger.address, self.workers)

    # Dead letters

    @reaching
    def retry_dead(self, *items: str | DeadLetter) -> int:
        """Run dead letters again, themselves or by their `item`; without any, all. Gives how many.

        They start afresh, with all their retries, and run the function as it was sent: what goes by reference, as the
        workers have it now. If the queue has ended it goes on, in a new epoch and with its results, and so do those
        that it feeds; join() then tells of the new end. Raises UnknownLetter, where nothing is retried; QueueFinished
        if the queue was cancelled.
        """
        connection, ledger = self._connection, self._ledger
        names = self._names(items) if items else self.dead_items()
        self._list()  # before, lest the reaper miss it; and after, lest it forgot what had not begun to go on
        count, tickets = ledger.revive(names, connection.slots(self.workers) if self.workers else 0)
        self._list()
        connection.send(self.workers, ledger.address, tickets)
        return count

    @reaching
    def drop_dead(self, *items: str | DeadLetter) -> int:
        """Forget dead letters, themselves or by their `item`; without any, all. Gives how many.

        They still count as dead. Raises UnknownLetter, where nothing is dropped.
        """
        redis, key = self._connection.redis, keys.of_queue(self.job, self.name, "dead")
        if not items:
            pipeline = redis.pipeline(transaction=True)
            pipeline.hlen(key)
            pipeline.unlink(key)
            return int(pipeline.execute()[0])
        gone: Any = redis.hdel(key, *self._names(items))
        return int(gone)

    @reaching
    def dead_letter(self, item: str) -> DeadLetter:
        """One of the items that were given up on. Raises UnknownLetter, BadEnvelope."""
        (record,) = self._records([item])
        return read_letter(self._connection.sealer, self._ledger, item, record)

    @reaching
    def dead_items(self) -> list[str]:
        """The items that were given up on, by their `item`, in the order in which they were put."""
        names: Any = self._connection.redis.hkeys(keys.of_queue(self.job, self.name, "dead"))
        return sorted((name.decode() for name in names), key=_in_order)

    def dead_letters(self) -> Iterator[DeadLetter]:
        """The items that were given up on, in no order. Raises BadEnvelope."""
        letters = self._connection.redis.hscan_iter(keys.of_queue(self.job, self.name, "dead"))
        seen = set()  # a scan may give one twice while others change
        try:
            for item, record in letters:
                if item not in seen:
                    seen.add(item)
                    yield read_letter(self._connection.sealer, self._ledger, item.decode(), record)
        except AWAY as error:
            raise unreachable(self._connection, error) from error

    def _names(self, items: Sequence[str | DeadLetter]) -> list[str]:
        """Of letters that are there."""
        names = []
        for item in items:
            name: object = item.item if isinstance(item, DeadLetter) else item
            if not isinstance(name, str):
                raise ConfigError("items", "dead letters, or their `item`s, one by one", repr(name), "(*items)")
            names.append(name)
        self._records(names)
        return names

    def _records(self, items: Sequence[str]) -> list[bytes]:
        records: Any = self._connection.redis.hmget(keys.of_queue(self.job, self.name, "dead"), list(items))
        for item, record in zip(items, records, strict=True):
            if record is None:
                raise UnknownLetter(self._ledger.shown, item)
        return list(records)

    def _list(self) -> None:
        """Have the queue, and those that it feeds, looked after by reapers."""
        ledger, redis = self._ledger, self._connection.redis
        for name in ledger.names:
            celery: Any = redis.hget(keys.of_queue(self.job, name, "meta"), "celery")
            if celery is not None:
                redis.hset(keys.QUEUES, Ledger(redis, self.job, [name]).address, celery)


def _in_order(item: str) -> tuple[Any, ...]:
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"[-#]", item))


# Not a method: its frame would hold on to the consumer of a loop that was left.
def _consume(consumer: Consumer[T]) -> Iterator[T]:
    try:
        yield from consumer
    finally:
        consumer.close()


def _as_ledger(options: Told) -> dict[str, Any]:
    """A policy's options by the ledger's names, those that were said."""
    stored = {name.removesuffix("_ms"): value for name, value in options.stored.items()}
    return {name: value for name, value in stored.items() if value is not None}


def attach(settings: Settings, address: str) -> StatusableQueue[Any]:
    """A handle to a queue that exists. Raises UnknownJob, ServerUnreachable."""
    queue: StatusableQueue[Any] = handle.attach(StatusableQueue, settings, address)
    return queue


def make(
    connection: Connection, job: str, name: str, *,
    function: Callable[..., Any] | None = None, style: str = ITEM, into: StatusableQueue[Any] | None = None,
    maxsize: int | None = None, maxbytes: int | None = None, workers: str | None = None,
    max_workers: int | None = None, producers: int | None = None, on_lost: str | None = None,
    results: str | None = None, on_error: str | None = None, policy: Told | None = None, reopen: bool = False,
    founder: str | None = None, starter: Starter | None = None, notify: str | None = None,
    flow: FlowOptions | None = None, record: str | None = None, more: Mapping[str, Any] | None = None,
) -> StatusableQueue[Any]:  # fmt: skip
    """Make a queue, or a handle to the one that is there; what client.queue() says.

    founder: the producer that makes it for itself, and takes out its lease next. flow: of a flow's queue; one that
    makes batches has workers, but no function. record: what of it is written into its job's history. more: fields of
    Spec that client.queue() has no word for.
    """
    for option, value in (("maxsize", maxsize), ("maxbytes", maxbytes)):
        if value is not None:
            bound(option, value)
    for option, value in (("max_workers", max_workers), ("producers", producers)):
        if value is not None:
            positive(option, value)
    for option, choice, choices in (
        ("on_lost", on_lost, ON_LOST), ("results", results, RESULTS), ("on_error", on_error, ON_ERROR),
        ("record", record, RECORD),
    ):  # fmt: skip
        if choice is not None:
            one_of(option, choice, choices)
    plain_name("name", name)
    plain_name("job", job)
    if into is not None and into.job != job:
        raise ConfigError("into", f"a queue of the same job ({job})", f"one of job {into.job}")
    batches = flow is not None and flow.batch is not None
    if batches and function is not None:
        raise ConfigError("batch", "given without a function", functions.dump(function, True).name)
    if into is not None and function is None and not batches:
        raise ConfigError("into", "given with a function, whose outputs go there", "no function")
    if function is None and policy is not None and policy.said:
        raise ConfigError(policy.said[0], "given with a function, whose items it is about", "no function")
    if into is not None and on_error == "return" and flow is None:
        raise ConfigError(
            "on_error", "'dead' where outputs go into another queue", "'return'", "nobody reads results of this one"
        )
    if flow is not None and flow.gather:
        max_workers = 1
    if notify is not None:
        notifications.check(connection, notify)
    sealer = connection.sealer
    identity, sealed, celery, beside = None, None, None, None
    if batches:
        identity, sealed, celery = flow.gather, b"", workers or "cpu"  # type: ignore[union-attr]
    elif function is not None:
        if flow is not None and flow.many:
            style = MANY
        travelling = functions.dump(function, sealer.keyed)
        identity = travelling.identity if style == ITEM else f"{travelling.identity} ({style})"
        wire: tuple[Any, ...] = travelling.wire
        if style == MANY:
            fold = functions.dump(flow.fold, sealer.keyed) if flow is not None and flow.fold is not None else None
            wire = (*wire, fold.wire if fold is not None else None)
            identity += f", folded by {fold.identity}" if fold is not None else ""
        if starter is not None:
            wire, identity = (*wire, tuple(starter)), identity + STARTED
        beside = parcel(connection, job)
        sealed = sealer.seal(wire, job, name, "function", parcel=beside)
        if style != CALL:
            check_concurrency(function, policy or Told())
        celery = workers or celerytask.workers_of(function)
    if celery is not None:
        plain_name("workers", celery)
        connection.ensure_workers(celery)
    elif workers is not None:
        raise ConfigError("workers", "given with a function, which they run", "no function")
    spec = Spec(
        function=sealed, identity=identity, celery=celery if workers is not None else None,
        maxsize=maxsize, maxbytes=maxbytes, max_workers=max_workers, on_lost=on_lost,
        results=results, on_error=on_error, expected=producers, style=style if function else None,
        **(flow.stored if flow is not None else {}), record=None if record in (None, OFF) else record,
        **(policy or Told()).stored, founder=founder,
        notify=None if notify is None else notifications.seal_url(connection, job, name, notify),
        down=into.name if into is not None else "", reopen=reopen,
    )  # fmt: skip
    spec = replace(spec, **(more or {}))
    names = [name, *(into._ledger.names if into is not None else ())]
    ledger = Ledger(connection.redis, job, names)
    try:
        state, _ = ledger.create(
            spec,
            defaults={
                "celery": celery or "",
                "lease": connection.lease_ms,
                "ttl": int(connection.settings.ttl_s * 1000),
                **_as_ledger(told_of(function)),
            },
            slots=connection.slots(celery) if flow is not None and celery else 0,
        )
    except QueueMismatch as error:
        if error.option == "identity":
            none = "no function"
            raise FunctionMismatch(error.queue, error.expected or none, error.got or none) from None
        if error.option == "notify":
            there = "another URL" if error.expected else "nobody who is told"
            raise QueueMismatch(error.queue, "notify", there, "this URL") from None
        said = _SAID.get(error.option, error.option)
        raise QueueMismatch(error.queue, said, error.expected, error.got) from None
    live = state not in ENDED
    meta = ledger.meta(announced=celery if live else None)
    if live and celery is None and meta:
        connection.redis.hset(keys.QUEUES, ledger.address, meta["celery"])
    if into is None and meta.get("down"):
        # It is one that was made with a queue downstream, by another.
        ledger = Ledger.open(connection.redis, job, name)
    contents = {} if beside is None or state in ENDED else beside.contents
    for digest, raw in contents.items():  # before anybody can put: what slots run the items through is whole then
        if not ledger.has_aside(digest):
            put(connection, ledger, digest, raw)
    queue: StatusableQueue[Any] = StatusableQueue.of(connection, ledger, meta)
    queue._beside = tuple(contents)
    if queue.workers:
        connection.ensure_workers(queue.workers)
    return queue
