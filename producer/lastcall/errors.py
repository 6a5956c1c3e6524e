"""Every error that lastcall raises, one shallow tree under LastcallError.

A message says what was expected, what came and what to do; the evidence is in the fields.
All of them pickle: they travel from workers to clients.
"""

import queue as _queue
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pickle import PicklingError
from typing import Any

if sys.version_info >= (3, 13):
    from queue import ShutDown
else:

    class ShutDown(Exception):
        """queue.ShutDown, which Python has from 3.13 on: the queue was shut down, or has ended."""


_ENDED = {
    "SEALED": "it is sealed: its producers have all left, or it was shut down",
    "DRAINED": "it is drained",
    "INCOMPLETE": "it ended incomplete",
    "CANCELLED": "it was cancelled",
}


def rebuild(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Make an exception from its class, args and __dict__, without calling its __init__.

    BaseException's own pickling calls `kind(*args)`, which fails, or says things twice, where
    __init__ takes other arguments than it hands to BaseException.
    """
    error: BaseException = kind.__new__(kind, *args)
    error.args = args  # OSError.__new__ leaves this to an __init__ that is not called
    error.__dict__.update(state)
    return error


class LastcallError(Exception):
    """Anything that lastcall itself raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self), self.args, self.__dict__)


# Settings and the server


class ConfigError(LastcallError, ValueError):
    """A setting or an argument has a value that cannot be used.

    name: of the setting or argument; expected: in words; got: in words (never a secret);
    hint: what to do, may be empty.
    """

    def __init__(self, name: str, expected: str, got: str, hint: str = "") -> None:
        self.name, self.expected, self.got, self.hint = name, expected, got, hint
        super().__init__(f"{name} must be {expected}, got {got}" + (f": {hint}" if hint else ""))


class ServerUnreachable(LastcallError, ConnectionError):
    """Nothing answers at the server's address, or at that of Celery's broker. url: without its password."""

    def __init__(self, url: str, reason: str) -> None:
        self.url, self.reason = url, reason
        scheme, there, _ = url.partition("://")
        other = there and not scheme.startswith(("redis", "unix"))
        what = "Celery's broker" if other else "a Redis or Valkey server"
        super().__init__(
            f"expected {what} at {url}, but it cannot be reached ({reason}): "
            f"start it, or point {'LASTCALL_BROKER_URL' if other else 'LASTCALL_URL'} at one that runs"
        )


class ServerTooOld(LastcallError):
    """The server lacks commands that the ledger uses. found, needed: such as "Redis 6.2.14"."""

    def __init__(self, found: str, needed: str) -> None:
        self.found, self.needed = found, needed
        super().__init__(f"lastcall needs {needed}, the server is {found}: upgrade the server")


class WrongPassword(LastcallError):
    """The server wants another password or user, or wants one at all. url: without its password."""

    def __init__(self, url: str, reason: str = "") -> None:
        self.url, self.reason = url, reason
        super().__init__(
            f"the server at {url} refused the user or password"
            + (f" ({reason})" if reason else "")
            + ": put the right one into LASTCALL_URL (redis://:password@host:6379/0) "
            "or into the file that LASTCALL_PASSWORD_FILE names"
        )


class ServerReadOnly(LastcallError):
    """The server takes no writes: it is a replica, or was made one while it was used. url: without its password."""

    def __init__(self, url: str, reason: str) -> None:
        self.url, self.reason = url, reason
        super().__init__(
            f"the server at {url} takes no writes ({reason}): point LASTCALL_URL at the master, or make this server "
            "one with REPLICAOF NO ONE"
        )


class ServerOutOfMemory(LastcallError):
    """The server's memory is full: it takes nothing more, and has what it accepted. url: without its password."""

    def __init__(self, url: str, reason: str) -> None:
        self.url, self.reason = url, reason
        super().__init__(
            f"the server at {url} has no memory left ({reason}), what was not accepted was not put: bound queues with "
            "maxsize or maxbytes, let workers catch up, or raise the server's maxmemory"
        )


class ClientClosed(LastcallError, ValueError):
    """A client, or a queue of its private server, was used after the client was closed."""

    def __init__(self) -> None:
        super().__init__("this client is closed: use it, and what it gave, inside its `with` block, or make another")


# What travels


class BadEnvelope(LastcallError):
    """A message is not from someone who holds this side's key, or is not meant for this place.

    It was not opened: nothing in it was unpickled. context: what it was expected to be bound to.
    """

    def __init__(self, reason: str, context: tuple[str, ...] = ()) -> None:
        self.reason, self.context = reason, context
        where = f" for {'/'.join(context)}" if context else ""
        super().__init__(f"refused an envelope{where}: {reason}")


_SHARED = "multiprocessing's own are one machine's, lastcall.Manager() and lastcall.Queue() make such that travel"


class NotSerializable(LastcallError, TypeError, PicklingError):
    """A value cannot be sent. index: of the item in its chunk, None where there is just one.

    The TypeError, and the PicklingError, that programs know pickle by.
    """

    def __init__(self, what: str, index: int | None, type_name: str, reason: str) -> None:
        self.what, self.index, self.type_name, self.reason = what, index, type_name, reason
        which = what if index is None else f"{what} {index}"
        # What multiprocessing says of its own locks, queues and values.
        instead = f": {_SHARED}" if "through inheritance" in reason else ""
        super().__init__(f"cannot send {which} (a {type_name}): {reason}{instead}")


class NotDeserializable(LastcallError):
    """A genuine message holds a value that cannot be rebuilt here, mostly for want of a module.

    module: the one that is missing, or "".
    """

    def __init__(self, reason: str, module: str = "") -> None:
        self.reason, self.module = reason, module
        do = f"install the module {module} here" if module else "run the same code on both sides"
        if "AuthenticationError" in reason:  # a proxy of multiprocessing.Manager's, whose key no worker has
            do = _SHARED
        super().__init__(f"a value arrived intact but cannot be rebuilt here ({reason}): {do}")


class AsideLost(NotDeserializable):
    """A large argument of a call, which lies beside it on the server, is not there. The call was not run.

    job: of the call; why: it is not.
    """

    def __init__(self, job: str, why: str) -> None:
        self.job, self.why, self.reason, self.module = job, why, why, ""
        LastcallError.__init__(
            self,
            f"a large argument of a call of job {job} cannot be had ({why}): submit the call again, which puts it "
            "there anew, or make the queue anew whose function it belongs to",
        )


class ItemTooLarge(LastcallError, ValueError):
    """An item is over the limit. size_bytes, limit_bytes; index: of the item, if there are more."""

    def __init__(self, size_bytes: int, limit_bytes: int, index: int | None = None) -> None:
        self.size_bytes, self.limit_bytes, self.index = size_bytes, limit_bytes, index
        which = "an item" if index is None else f"item {index}"
        super().__init__(
            f"{which} has {size_bytes:,} bytes, the limit is {limit_bytes:,}: "
            "raise LASTCALL_MAX_ITEM_BYTES, or put the data where workers can read it and send "
            "its path"
        )


class FunctionNotImportable(LastcallError):
    """A worker cannot import a function. module: the one that fails; hint: why, what to do."""

    def __init__(
        self,
        module: str,
        worker: str,
        hint: str = "install it there, or put its folder on the worker's PYTHONPATH",
    ) -> None:
        self.module, self.worker, self.hint = module, worker, hint
        super().__init__(f"worker {worker} cannot import {module}: {hint}")


class FunctionNotAllowed(LastcallError):
    """A side without a key takes only functions that are registered with @task."""

    def __init__(self, function: str, reason: str) -> None:
        self.function, self.reason = function, reason
        super().__init__(f"function {function} is not allowed: {reason}")


class FunctionMismatch(LastcallError):
    """Two different functions under one queue name. expected: the queue's; got: the new one."""

    def __init__(self, queue: str, expected: str, got: str) -> None:
        self.queue, self.expected, self.got = queue, expected, got
        super().__init__(
            f"queue {queue} runs its items through {expected}, got {got}: use another queue name or the same function "
            "(one that travels by value is another when its code has changed), or, where the queue has ended, begin it "
            "anew with reopen=True"
        )


# Queues


class QueueFinished(LastcallError, ShutDown):
    """Nothing can be put into, or got from, a queue that has ended. state: such as "DRAINED"."""

    def __init__(self, queue: str, state: str, *, reading: bool = False) -> None:
        self.queue, self.state = queue, state
        if reading:
            super().__init__(
                f"queue {queue} has no more items, {_ENDED.get(state, f'its state is {state}')}: "
                "take this for the end (or ask a StatusableQueue's finished() before, or iterate over it), "
                "or make it anew with reopen=True"
            )
            return
        super().__init__(
            f"queue {queue} takes no more items, {_ENDED.get(state, f'its state is {state}')}: "
            "put before the last producer leaves, use a new queue name, or make it anew with reopen=True"
        )


class QueueHasFunction(LastcallError):
    """A consumer cannot read a queue whose items are run through a function by workers."""

    def __init__(self, queue: str, function: str) -> None:
        self.queue, self.function = queue, function
        super().__init__(
            f"queue {queue} has no items to read, workers run them through {function}: "
            "read its results instead, or make the queue without a function"
        )


class QueueMismatch(LastcallError):
    """A queue exists with another value for an option than the one that was asked for."""

    def __init__(self, queue: str, option: str, expected: str, got: str) -> None:
        self.queue, self.option, self.expected, self.got = queue, option, expected, got
        super().__init__(
            f"queue {queue} exists with {option}={expected}, got {option}={got}: "
            "leave the option out, give the same, or use another queue name"
        )


class QueueCancelled(LastcallError, ShutDown):
    """The queue was cancelled before its work was done."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        super().__init__(f"queue {queue} was cancelled before its work was done")


class Withdrawn(LastcallError):
    """An item was taken out of its queue while it waited there: its call's future was cancelled."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        super().__init__(f"an item of queue {queue} was taken out while it waited: its call was cancelled")


class UnknownJob(LastcallError):
    """No job of this name: never started, or ended so long ago that it has expired."""

    def __init__(self, job: str) -> None:
        self.job = job
        super().__init__(
            f"no job or queue {job!r} on this server: `lastcall status` shows those that have not ended, "
            "`lastcall status JOB` the queues of one; what has ended is kept for LASTCALL_TTL_S seconds"
        )


# Producers


class UnknownLetter(LastcallError, LookupError):
    """A queue has no such dead letter. item: that was asked for."""

    def __init__(self, queue: str, item: str) -> None:
        self.queue, self.item = queue, item
        super().__init__(
            f"queue {queue} has no dead letter {item!r}: it was retried or dropped, or it is not one; "
            f"those that there are: lastcall dead list {queue}"
        )


class NotRecorded(LastcallError):
    """A job is there, and nothing of what happens to its items is recorded."""

    def __init__(self, job: str) -> None:
        self.job = job
        super().__init__(
            f"job {job} is not recorded: flows are, unless record= says otherwise, and queues that are made with "
            'client.queue(..., record="all", "times" or "failures"); maps, calls, pools and the mode serial are not'
        )


class UnknownItem(LastcallError, LookupError):
    """Nothing is recorded of an item. item: that was asked for."""

    def __init__(self, job: str, item: str) -> None:
        self.job, self.item = job, item
        super().__init__(
            f"nothing is recorded of item {item} of job {job}: it was not put, or its events were the oldest and have "
            'gone, or the job ran with record="failures" and it did not fail; an item of several sources, or of a '
            "queue that is no flow's, has no number: name it by its id, chunk#number, such as 1-17#3"
        )


class LeaseLost(LastcallError):
    """This producer was given up, since its lease ran out before it was renewed."""

    def __init__(self, queue: str, producer: str) -> None:
        self.queue, self.producer = queue, producer
        super().__init__(
            f"producer {producer} lost its lease on queue {queue}, or another took its name: "
            "what it had put before counts, this item was not put; "
            "take a new lease with queue.producer()"
        )


class HoldLost(LeaseLost):
    """A lock, or a permit of a semaphore, is another's by now: its holder was silent for longer than its lease.

    thing: its kind; name; token: the fencing token that it was held with.
    """

    def __init__(self, thing: str, name: str, token: int) -> None:
        self.thing, self.name, self.token = thing, name, token
        LastcallError.__init__(
            self,
            f"{thing} {name}, held with token {token}, was lost: its process was silent for longer than its lease, and "
            "another may have it: undo or repeat what was done under it, and have what it guards refuse old tokens",
        )


class NotHeld(LastcallError, RuntimeError, ValueError):
    """A lock was to be released, or asked for its token, where it is not held: by this process (an RLock: thread)."""

    def __init__(self, thing: str, name: str) -> None:
        self.thing, self.name = thing, name
        super().__init__(f"{thing} {name} is not held here: acquire() it before, in the process that releases it")


class ProducerLeft(LastcallError):
    """A producer that has left its queue cannot put into it."""

    def __init__(self, queue: str, producer: str) -> None:
        self.queue, self.producer = queue, producer
        super().__init__(
            f"producer {producer} has left queue {queue}, the item was not put: "
            "put inside its `with` block, or take a new lease with queue.producer()"
        )


class ProducerLost(LastcallError):
    """Producers fell silent before they left; what they had put was processed, the rest never came.

    producers: (name, seconds of silence) of each.
    """

    def __init__(self, queue: str, producers: tuple[tuple[str, float], ...]) -> None:
        self.queue, self.producers = queue, producers
        lost = ", ".join(
            f"{name} (that queue ended incomplete or was cancelled: ask it why)"
            if name.startswith("stage:")
            else f"{name} (it failed, or was silent for {silent_s:.1f} s)"
            for name, silent_s in producers
        )
        super().__init__(
            f"queue {queue} ended incomplete, producers that were lost: {lost}; what they had put "
            "was processed, the rest never came: run them again, or make the queue with "
            'on_lost="ignore"'
        )


# Workers


class NoWorker(LastcallError):
    """Work is ready, but no live worker serves the Celery queue that it waits in, or gets the tickets for it.

    astray: in words, to which of Celery's brokers the tickets go and from which the workers take theirs; "" where there
    are no workers.
    """

    def __init__(self, queue: str, celery_queue: str, waited_s: float, astray: str = "") -> None:
        self.queue, self.celery_queue, self.waited_s, self.astray = queue, celery_queue, waited_s, astray
        none = f'no worker serves the Celery queue "{celery_queue}": start one with: lastcall worker -Q {celery_queue}'
        super().__init__(f"queue {queue} has waited for {waited_s:.1f} s, {astray or none}")


class WorkerLost(LastcallError, BrokenProcessPool):
    """An item was given up, since the slot that ran it died each time.

    A BrokenProcessPool where a process pool's program looks for that; the pool is whole, and runs others.

    item: its number in the input of a map, else its id; last: how the slot died the last time.
    """

    def __init__(self, queue: str, item: int | str, attempts: int, last: str = "") -> None:
        self.queue, self.item, self.attempts, self.last = queue, item, attempts, last
        super().__init__(
            f"item {item} of queue {queue} was given up after {attempts} attempts, the process "
            "that ran it died each time"
            + (f" (the last time: {last})" if last else "")
            + ": look for a crash, an exit or too little memory in the worker's log"
        )


class NotificationRefused(LastcallError, ValueError):
    """No worker may tell this URL. origin: where it leads to; allowed: where workers may; redirect: where it sends."""

    def __init__(self, origin: str, allowed: Sequence[str], redirect: str = "") -> None:
        self.origin, self.allowed, self.redirect = origin, tuple(allowed), redirect
        super().__init__(
            f"expected a URL that workers may tell ({', '.join(allowed) or 'none'}), got one of {origin}"
            + (
                f", which sends them to {redirect}: give that, if it is where you want to be told"
                if redirect
                else ": name it in their LASTCALL_NOTIFY_HOSTS"
            )
        )


class NotificationFailed(LastcallError):
    """Whoever was to be told did not accept it. origin: who; status: of the answer, None where there was none."""

    def __init__(self, origin: str, identity: str, reason: str, status: int | None = None) -> None:
        self.origin, self.identity, self.reason, self.status = origin, identity, reason, status
        super().__init__(f"{origin} did not accept notification {identity}: {reason}")


class NotificationGone(LastcallError):
    """Whoever was to be told wants to be told no more: it answered with status 410."""

    def __init__(self, origin: str, identity: str) -> None:
        self.origin, self.identity = origin, identity
        super().__init__(f"{origin} wants no notifications any more (status 410), {identity} is not sent again")


class BadNotification(LastcallError, ValueError):
    """A request is not a notification of lastcall's workers, or not one of now."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"this is not a notification to believe: {reason}")


class ItemTimeout(LastcallError, TimeoutError):
    """An item ran for longer than its timeout.

    item: its number in the input of a map, else its id; timeout_s: seconds it had; attempts: how often.
    """

    def __init__(self, queue: str, item: int | str, timeout_s: float, attempts: int) -> None:
        self.queue, self.item, self.timeout_s, self.attempts = queue, item, timeout_s, attempts
        super().__init__(
            f"item {item} of queue {queue} ran for longer than its timeout of {timeout_s:g} s"
            + (f", {attempts} times" if attempts > 1 else "")
            + ": give it more time (timeout= of a queue or a @task, item_timeout= of a map), or look what it waits for"
        )


class NotRunning(LastcallError, RuntimeError):
    """lastcall.current was asked outside of a function that a worker runs."""

    def __init__(self) -> None:
        super().__init__(
            "lastcall.current tells of the item that a worker's function runs for, and no such function runs here: "
            "ask it there, in the function's own thread (if current: tells whether one runs)"
        )


class InitializerFailed(LastcallError, BrokenProcessPool):
    """The initializer of a pool, or executor, raised in a slot, which runs nothing for that one since. type_name,
    message: of what it raised.
    """

    def __init__(self, initializer: str, worker: str, type_name: str, message: str) -> None:
        self.initializer, self.worker, self.type_name, self.message = initializer, worker, type_name, message
        super().__init__(
            f"the pool's initializer {initializer} raised {type_name}: {message} on worker {worker}, and this was not "
            "run: mend it, and make another pool"
        )


class DeadLetters(LastcallError):
    """A queue is drained, but items of it were given up on. dead: how many; put: of how many."""

    def __init__(self, queue: str, dead: int, put: int) -> None:
        self.queue, self.dead, self.put = queue, dead, put
        super().__init__(
            f"queue {queue} is drained, but {dead} of {put} items failed and are dead letters: "
            f"look at them with queue.dead_letters(), or: lastcall dead list {queue}"
        )


# Waits


class MergeMismatch(LastcallError, ValueError):
    """A branch of a fan-out with merge= gave no value, or several, for an item. branch: from 1; gave: how many."""

    def __init__(self, stage: str, branch: int, gave: int) -> None:
        self.stage, self.branch, self.gave = stage, branch, gave
        super().__init__(
            f"branch {branch} of {stage} must give exactly one value for each item, since they are merged, got {gave}: "
            "leave merge= out, or have no filter and no generator in it"
        )


class NothingToReduce(LastcallError, TypeError):
    """A reduce() without an initial value was given no item at all. stage: its name."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        super().__init__(f"{stage} must be given at least one item, got none: give it a value to begin with, initial=")


class ResultsUnread(LastcallError):
    """A job cannot go on: as many results as its window holds are there, and nobody reads them. unread: how many."""

    def __init__(self, job: str, unread: int) -> None:
        self.job, self.unread = job, unread
        super().__init__(
            f"job {job} waits for its {unread:,} results to be read, as many as its window holds, and nobody does: "
            'iterate over job.results(), or run it with results="discard", or with job="an id", which keeps them'
        )


class WaitTimeout(LastcallError, TimeoutError):
    """The caller's timeout passed. what: what was waited for."""

    def __init__(self, what: str, waited_s: float) -> None:
        self.what, self.waited_s = what, waited_s
        super().__init__(f"waited {waited_s:.1f} s for {what}")


class Full(LastcallError, _queue.Full):
    """The queue has no room, and none came in time."""

    def __init__(self, queue: str, maxsize: int, waited_s: float = 0.0) -> None:
        self.queue, self.maxsize, self.waited_s = queue, maxsize, waited_s
        bound = f"maxsize {maxsize}" if maxsize else "by bytes"
        super().__init__(f"queue {queue} is full ({bound}), waited {waited_s:.1f} s for room")


class Empty(LastcallError, _queue.Empty):
    """The queue has no item ready, and none came in time; it may get more. what: it waits for, in words."""

    def __init__(self, queue: str, waited_s: float = 0.0, what: str = "") -> None:
        self.queue, self.waited_s, self.what = queue, waited_s, what
        super().__init__(f"queue {queue} is empty, waited {waited_s:.1f} s for an item" + (f": {what}" if what else ""))


class BlocksLoop(LastcallError):
    """A coroutine on a worker waits by a call that blocks its event loop, and with it all that run beside it.

    what: it waits for; twin: how that is awaited.
    """

    def __init__(self, what: str, twin: str = "") -> None:
        self.what, self.twin = what, twin
        super().__init__(
            f"a coroutine waits for {what} by a call that blocks its event loop: use AsyncClient"
            + (f", {twin}" if twin else "")
        )


# Errors of the user's functions


class RemoteError(LastcallError):
    """A function raised an exception that cannot itself be brought here.

    type_name: of the exception there; message: its str().
    """

    def __init__(self, type_name: str, message: str) -> None:
        self.type_name, self.message = type_name, message
        super().__init__(f"{type_name}: {message}" if message else type_name)


class RemoteTraceback(LastcallError):
    """The cause of an exception that a worker sent: str() is the traceback there."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)

    def __str__(self) -> str:
        # Printed after "lastcall.errors.RemoteTraceback: ", so it starts on a line of its own.
        return f'\n"""\n{self.text}"""'
