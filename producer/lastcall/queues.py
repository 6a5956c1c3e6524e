"""Queue, JoinableQueue, SimpleQueue: multiprocessing's queues, between machines.

from lastcall import Queue  # instead of: from multiprocessing import Queue
"""

from __future__ import annotations

import contextlib
import uuid
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import RedisError

from lastcall.announced import wait_until_idle
from lastcall.connection import Connection
from lastcall.defaultclient import connection_of
from lastcall.errors import LastcallError
from lastcall.putget import PutGet, items_bound
from lastcall.queue import make
from lastcall.state.records import ENDLESS
from lastcall.waiting import AWAY, unreachable

if TYPE_CHECKING:
    from lastcall.client import Client

T = TypeVar("T")

_AT_EXIT = -10  # after children were joined, and everything was put

# It does not end because nobody puts at the moment, nor because somebody died. No item is given up, however many
# consumers die with it; and none waits until it is the only one, since a consumer may keep what it got last for long.
_KIND = {"expected": ENDLESS, "on_lost": "ignore", "bounds": "waiting", "crash_limit": 1 << 16}


class Queue(PutGet[T]):
    """multiprocessing.Queue, between machines: give it to processes, pass it to functions on workers, put it into
    queues.

    maxsize: items that wait in it before put() blocks; 0 or less for no bound.
    name: shared by all who make a queue of this name on the same server. It is there until somebody shuts it down
    (reopen: begin it anew then). None: the queue is this process's and whom it gives it to, and is gone with it.
    client: whose server to use. None: LASTCALL_URL's, or a private one, which all queues of a program share.

    A consumer that dies gives back the item that it got last: that is done when its thread asks for the next, or ends,
    or the process ends in order. Raises ServerUnreachable, WrongPassword, ConfigError, QueueMismatch; TypeError.
    """

    def __init__(
        self, maxsize: int = 0, *, name: str | None = None, client: Client | None = None, reopen: bool = False
    ) -> None:
        bound = items_bound(maxsize)
        connection = connection_of(client)
        try:
            if name is None:
                # This process feeds it from the first: a queue whose maker, and all who put, are gone ends.
                job, maker = f"queue-{uuid.uuid4().hex}", "maker"
                made = make(connection, job, job, maxsize=bound, more={**_KIND, "expected": 1}, founder=maker)
            else:
                made = make(connection, name, name, maxsize=bound or None, more=_KIND, reopen=reopen)
            self._hold(connection, made._ledger)
            if name is None:
                hands = self._own_hands = self._make_hands(keeps=True)
                hands.join(maker)
                Finalize(None, _end, (connection, hands), exitpriority=_AT_EXIT)
        except AWAY as error:
            raise unreachable(connection, error) from error


class JoinableQueue(Queue[T]):
    """multiprocessing.JoinableQueue, between machines: a Queue whose items are done when task_done() says so.

    A consumer that dies gives back all that it has got and not marked as done, and so does one that ends.
    """

    _explicit = True
    _direct = True  # it is counted before join() looks

    def task_done(self) -> None:
        """The item that this thread got first, of those that are not done yet, is done; if it has none, of those that
        this process got. Raises ValueError if there is none."""
        if not self._hands.done():
            raise ValueError("task_done() called too many times: this process has got no item that is not done")

    def join(self, timeout: float | None = None) -> None:
        """Block until every item that was put is done.

        timeout: seconds; multiprocessing's has none. Raises WaitTimeout, ServerUnreachable.
        """
        self._flush()
        wait_until_idle(self._connection, self._ledger, timeout)


class SimpleQueue(Queue[T]):
    """multiprocessing.SimpleQueue, between machines: a Queue without a bound whose items are in it when put() returns.

    name, client, reopen: as for a Queue, whose other methods it has, too.
    """

    _direct = True

    def __init__(self, *, name: str | None = None, client: Client | None = None, reopen: bool = False) -> None:
        super().__init__(name=name, client=client, reopen=reopen)


def _end(connection: Connection, hands: Any) -> None:
    """The maker ends, and its children have: as multiprocessing's, the queue is gone with it."""
    if connection.is_gone():
        return
    # Else it ends when the lease has run out, and what is left was read.
    with contextlib.suppress(RedisError, LastcallError):
        hands.ledger.cancel()
