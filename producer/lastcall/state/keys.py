"""Every Redis key that lastcall uses, with its type and what it holds.

The keys of one job share a hash tag, so that one script may touch all of them. A queue's sixteen keys
always travel in the order of `queue()`; a script that may end a queue gets those of each queue downstream
of it as well, in the same order (`chain()`). The number in the prefix is the version of the ledger's format:
two versions never read each other's keys.
"""

from __future__ import annotations

from collections.abc import Sequence

PREFIX = "lastcall:2"

PARTS = (
    "meta",  # HASH    options, state, epoch and counters (items): see docs/states.md
    "chunks",  # HASH    chunk id -> header (items, first item, tries, order) and sealed payload
    "ready",  # LIST    chunk ids that may be claimed, oldest left
    "delayed",  # ZSET    chunk id -> when it becomes ready (ms)
    "tickets",  # ZSET    ticket -> its deadline (ms)
    "held",  # HASH    ticket that has started -> its slot's nonce and the chunk ids in hand
    "producers",  # HASH    producer -> index, epoch, last sequence number, items put, state
    "leases",  # ZSET    producer that is live, or waited for -> its deadline (ms); stages have none
    "results",  # STREAM  chunk id -> outcome; the last entry is "end" -> state
    "dead",  # HASH    item -> dead letter
    "gate",  # HASH    what came before its turn: a place in the order -> a chunk's id, or a result
    "bell",  # LIST    one token a waiting slot or consumer that shall look again
    "room",  # LIST    (of the job) one token a blocked producer that shall try again
    "job",  # HASH    (of the job) its queues, how many are open, blocked producers; ends to be told; what lies aside
    "events",  # STREAM  (of the job) what happened: history.py; the oldest go first, beyond 10,000 or some 64 MB
    "failures",  # STREAM  (of the job) what failed, was tried again, given up or returned: all of it
)
_OF_THE_JOB = {"room", "job", "events", "failures"}


def of_job(job: str, part: str) -> str:
    """A key that a job has once."""
    return f"{PREFIX}:{{{job}}}:{part}"


def of_queue(job: str, name: str, part: str) -> str:
    """A key that each queue of a job has."""
    return of_job(job, part) if part in _OF_THE_JOB else f"{PREFIX}:{{{job}}}:{name}:{part}"


def queue(job: str, name: str) -> list[str]:
    """The keys of one queue, in the scripts' order."""
    return [of_queue(job, name, part) for part in PARTS]


def chain(job: str, names: Sequence[str]) -> list[str]:
    """The keys of a queue and of all that lie downstream of it."""
    return [key for name in names for key in queue(job, name)]


def aside(digest: bytes) -> str:
    """The field of a job's key in which a large part of an argument lies; state/lua/aside.lua writes it."""
    return f"aside:{digest.hex()}"


# Of a thing that is shared (a lock, a dict, ...); its keys always travel in this order.
SHARED_PARTS = (
    "meta",  # HASH    its kind and options, and its numbers
    "done",  # HASH    who changed it -> number of the last change, and the reply; "passed:" party of a barrier
    "holders",  # ZSET    holder of a permit, or party that waits at a barrier -> its deadline (ms)
    "who",  # HASH    holder -> fencing token, and who it is in words
    "bell",  # LIST    one token a waiter that shall look again
    "fields",  # HASH    key of a dict, normalized -> sealed key and value
    "order",  # ZSET    key of a dict, normalized -> the how-manieth it was to come
    "items",  # LIST    a list's sealed values
)


def shared(name: str) -> list[str]:
    """The keys of a shared thing, in the scripts' order."""
    return [f"{PREFIX}:{{shared:{name}}}:{part}" for part in SHARED_PARTS]


QUEUES = f"{PREFIX}:queues"  # HASH  address of a queue that has not ended -> the Celery queue that serves it
WORKERS = f"{PREFIX}:workers"  # HASH  worker node -> what it serves (JSON)
WORKERS_SEEN = f"{PREFIX}:workers:seen"  # ZSET  worker node -> its deadline (ms)
REAPER = f"{PREFIX}:reaper"  # STRING  the worker that reaps in this period
REFUSED = f"{PREFIX}:refused"  # HASH  worker node or client -> envelopes it refused
