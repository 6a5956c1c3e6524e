"""Station: everything that a slot needs of its process, as many as slots have run at the same time."""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redis.exceptions import RedisError

from lastcall import functions
from lastcall.celerytask import KIND
from lastcall.connect import connect
from lastcall.coroutine import CONCURRENCY, is_async
from lastcall.envelope import Sealer
from lastcall.errors import AsideLost, BadEnvelope, LastcallError, UnknownJob
from lastcall.flowoptions import BATCH, MANY
from lastcall.outcome import PackedError, pack_error
from lastcall.parcel import Part, fetching
from lastcall.payload import CALL, STARTED
from lastcall.place import taken as taken_place
from lastcall.policy import Policy
from lastcall.registry import Registry
from lastcall.starter import Starter
from lastcall.state import keys
from lastcall.state.ledger import Ledger
from lastcall.state.records import MADE, split
from lastcall.tickets import TicketSender
from lastcall.waiting import AWAY
from lastcall_worker import celerytask, limits, starters
from lastcall_worker.events import TaskEvents
from lastcall_worker.store import STORE

if TYPE_CHECKING:
    from lastcall.settings import Settings

T = TypeVar("T")

_log = logging.getLogger(__name__)

_AWAY_S: Final = 60.0  # how long a slot bears that the server is away
_AGAIN_S: Final = 0.2
_MOST_KEPT: Final = 1000  # functions
_LARGE_BYTES: Final = 256 * 1024


class TicketOver(BaseException):
    """The worker has ended a slot's ticket, since an item was late: the rest of the chunk is others' by now."""


@dataclass(slots=True)
class Work:
    """One queue's work, as a slot needs it."""

    ledger: Ledger
    made: tuple[bytes, ...]  # when the queue was made, its epoch and function: tells it from one of the same name
    style: str
    celery: str  # Celery queue of its tickets
    name: str  # of the function, for people
    function: Callable[..., Any] | None
    error: PackedError | None  # why there is no function
    results: str
    on_error: str
    down_index: str
    down_celery: str
    policy: Policy
    max_workers: int
    starter: Starter | None  # what a process or thread does before its first item
    concurrency: int  # of coroutines, in a slot; 0 where the function is none
    size: int  # bytes that the function came in
    flow: bool = False  # whether it is a flow's, which these are for
    gather: str = ""
    fold: Callable[[Any, Any], Any] | None = None
    record: str = ""  # what is written into the job's history
    between: bool = False  # stages of one flow: those before or behind it may have need of this slot
    head: str = ""  # the first one of these
    flow_ledger: Ledger | None = None  # of that, once it was needed


class Station:
    """What a slot works with: a connection, keys, the functions that were loaded; one slot at a time uses it."""

    def __init__(self, app: Any, settings: Settings, node: str) -> None:
        self.app = app
        self.settings = settings
        self.node = node
        self.pid = os.getpid()
        self.events = TaskEvents(app, node)
        # One connection of its own, without a pool's bookkeeping: a chunk is one round trip.
        self.redis = connect(settings, single_connection_client=True)
        self.sealer = Sealer(settings.key)
        self.registry = Registry(self.redis)
        broker = settings.broker
        assert broker is not None  # connect() has refused settings without a server
        self.tickets = TicketSender(broker)
        self.lease_ms = settings.ticket_lease_ms
        self.row = limits.take_row()  # in the table of time limits
        self._works: OrderedDict[str, Work] = OrderedDict()  # the one that was needed last is the last
        self._works_size = 0
        self._fetched = 0  # bytes
        self._functions: dict[Any, Callable[..., Any]] = {}

    def work(self, address: str) -> Work | None:
        """What there is to do for a queue; None if it is gone."""
        known = self._works.get(address)
        if known is not None and known.error is None and known.ledger.is_as_made(known.made):
            self._works.move_to_end(address)
            return known
        try:
            ledger = Ledger.open(self.redis, *split(address))
        except UnknownJob:
            return None
        meta = ledger.meta()
        if not meta:
            return None
        made = tuple(meta[field] for field in MADE)
        function, error, starter, fold = None, None, None, None
        gather = meta.get("gather", b"").decode()
        fetched = self._fetched
        name, style = meta["identity"].decode(), meta["style"].decode()
        try:
            if gather.startswith(BATCH):
                name = BATCH  # which has none
            elif style != CALL or name.endswith(STARTED):
                wire = self.sealer.open(meta["function"], ledger.job, ledger.name, "function")
                if name.endswith(STARTED):
                    *wire, asked = wire
                    starter = Starter(*asked)
                if style == MANY:
                    *wire, folds = wire
                    fold = functions.load(folds, self.node, self.sealer.keyed) if folds is not None else None
                if style != CALL:  # each call brings its own
                    function = self._load(wire, starter)
                name = wire[1]
        except LastcallError as why:
            if isinstance(why, BadEnvelope):
                self.refused()
            error = pack_error(why, self.sealer.keyed)
        policy = Policy.stored(meta)
        concurrency = policy.concurrency  # of a queue of calls, which are coroutines where it says so
        if style != CALL:
            concurrency = (concurrency or CONCURRENCY) if function is not None and is_async(function) else 0
        work = Work(
            ledger, made, style, meta["celery"].decode(), name, function, error,
            meta["results"].decode(), meta["on_error"].decode(),
            meta.get("down_index", b"").decode(), meta.get("down_celery", b"").decode(), policy,
            int(meta["max_workers"]), starter, concurrency,
            len(meta["function"]) + self._fetched - fetched, "flow" in meta, gather, fold,
            meta.get("record", b"").decode(),
            between="flow" in meta and (len(ledger.names) > 1 or int(meta["stages"]) > 0),
            head=meta.get("head", b"").decode(),
        )  # fmt: skip
        self._keep(address, work)
        return work

    def _keep(self, address: str, work: Work) -> None:
        """Remember it, and forget others where their functions, with all that these hold, are too much."""
        before = self._works.pop(address, None)
        self._works_size += work.size - (before.size if before is not None else 0)
        self._works[address] = work
        most = self.settings.aside_cache_bytes
        while len(self._works) > 1 and (self._works_size > most or len(self._works) > _MOST_KEPT):
            _, gone = self._works.popitem(last=False)
            self._works_size -= gone.size

    def load(self, wire: Sequence[Any], starter: Starter | None = None) -> Callable[..., Any]:
        """A call's function. Raises FunctionNotImportable, FunctionNotAllowed."""
        if len(wire[2]) > _LARGE_BYTES:  # it holds much: to be let go of, and no other call's to write into
            return self._load(wire, starter)
        key = (starters.space_of(starter), *wire)
        function = self._functions.get(key)
        if function is None:
            function = self._load(wire, starter)
            if len(self._functions) > _MOST_KEPT:
                self._functions.clear()
            self._functions[key] = function
        return function

    def fetch(self, job: str, part: Part) -> bytes:
        """What lies aside for a call, from the server if this process has not had it lately.

        Raises AsideLost, BadEnvelope.
        """
        self._fetched += part.size
        return STORE.get(part.digest, self.settings.aside_cache_bytes, lambda: self._ask_for(job, part))

    def _ask_for(self, job: str, part: Part) -> bytes:
        ledger = Ledger(self.redis, job, [job])
        try:
            data = bear(lambda: ledger.aside(part.digest))
        except AWAY as error:
            raise AsideLost(job, f"the server has been away for {_AWAY_S:.0f} s: {error}") from error
        if data is None:
            raise AsideLost(job, "it is not on the server: its job has expired, or was removed")
        if not compare_digest(self.sealer.digest(data), part.digest):
            raise BadEnvelope("a large argument that lies beside it is not what was put there: it was changed", (job,))
        return data

    def _load(self, wire: Sequence[Any], starter: Starter | None) -> Callable[..., Any]:
        if wire[0] == KIND:
            return celerytask.load(self.app, wire, self.node, self.sealer.keyed)
        with starters.loading(starter):
            return functions.load(wire, self.node, self.sealer.keyed)

    def served(self) -> Sequence[str]:
        """The Celery queues that this worker serves."""
        return next((info.queues for info in self.registry.known() if info.node == self.node), ())

    def refused(self) -> None:
        """Count an envelope that was not genuine, for `lastcall status`."""
        with suppress(RedisError):  # the error that is kept for it matters more
            self.redis.hincrby(keys.REFUSED, self.node, 1)


def bear(ask: Callable[[], T]) -> T:
    """What the server says, as soon as it is there; of what may be asked again.

    Raises redis-py's errors after a minute.
    """
    until = time.monotonic() + _AWAY_S
    while True:
        try:
            return ask()
        except AWAY as error:
            if time.monotonic() >= until:
                raise
            _log.debug("a slot waits for the server: %s", error)
            time.sleep(_AGAIN_S)  # nothing tells when it is back


_idle: list[Station] = []  # of this process: threads and greenlets come and go, stations stay


def _take_idle() -> Station | None:
    while True:
        try:
            station = _idle.pop()
        except IndexError:  # not asked for first: another thread may take the last one in between
            return None
        if station.pid == os.getpid():  # not the parent's, inherited by a fork
            return station


@contextmanager
def station(app: Any, settings: Settings, node: str) -> Iterator[Station]:
    """One that nobody uses, for the block; and a place for what its functions keep."""
    taken = _take_idle() or Station(app, settings, node)
    before = fetching.set(taken.fetch)
    try:
        with taken_place():
            yield taken
    except BaseException:
        # Not to be used again: a reply may be left unread on its connection.
        limits.give_row(taken.row)
        raise
    finally:
        fetching.reset(before)
    _idle.append(taken)
