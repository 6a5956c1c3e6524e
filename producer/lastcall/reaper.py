"""Looking for what fell silent: producers, tickets; and for tickets that are lacking.

Every worker does so in turn (lastcall_worker/bootsteps.py), and so do clients while they wait.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from lastcall.errors import LastcallError, UnknownJob
from lastcall.state import keys
from lastcall.state.ledger import Ledger
from lastcall.state.records import ENDED, split

if TYPE_CHECKING:
    from redis import Redis

    from lastcall.registry import Registry
    from lastcall.tickets import TicketSender


@dataclass(slots=True)
class Sweep:
    """What one look at all queues came to. Queues are given by address."""

    queues: int = 0
    tickets: int = 0  # sent
    lost: list[tuple[str, str]] = field(default_factory=list)  # queue, producer
    ended: list[str] = field(default_factory=list)
    failed: list[tuple[str, Exception]] = field(default_factory=list)


def reap_queue(
    ledger: Ledger, celery_queue: str, registry: Registry, sender: TicketSender, *, idle: bool | None = None
) -> tuple[list[str], int, bool]:
    """Reap one queue and send the tickets that it lacks.

    celery_queue: that its tickets travel through, "" if consumers read it. idle: whether no message waits there;
    None looks. Gives the producers that were lost, the number of tickets sent, and whether the queue has ended.
    Raises ServerUnreachable where the tickets' broker is away; redis-py's errors.
    """
    cap = registry.slots(celery_queue) if celery_queue else 0
    if idle is None:
        idle = celery_queue != "" and sender.waiting(celery_queue) == 0
    tickets, lost, ended = ledger.reap(cap, nothing_under_way=idle)
    sender.send(celery_queue, ledger.address, tickets)
    return lost, len(tickets), ended


def reap_once(
    redis: Redis,
    registry: Registry,
    sender: TicketSender,
    *,
    celery_queues: Collection[str] | None = None,
    tell: Callable[[Ledger], bool] = lambda _: True,
) -> Sweep:
    """Reap every queue that has not ended, once; forget those that have.

    celery_queues: only the queues whose tickets travel through one of these. tell: hands over what is to be told of a
    queue's ends; False where that is not possible now, and is tried at the next look.
    An error in one queue is kept in the result and does not stop the others; redis-py's
    ConnectionError and TimeoutError do: they concern all.
    """
    sweep = Sweep()
    idle: dict[str, bool] = {}  # Celery queues: looked at once a sweep, however many queues they serve
    registered: Any = redis.hgetall(keys.QUEUES)
    for raw_address, raw_celery_queue in registered.items():
        queue, celery_queue = raw_address.decode(), raw_celery_queue.decode()
        if celery_queues is not None and celery_queue not in celery_queues:
            continue
        sweep.queues += 1
        try:
            ledger = Ledger.open(redis, *split(queue))
            if celery_queue and celery_queue not in idle:
                idle[celery_queue] = sender.waiting(celery_queue) == 0
            lost, sent, ended = reap_queue(ledger, celery_queue, registry, sender, idle=idle.get(celery_queue, False))
            sweep.lost += [(queue, producer) for producer in lost]
            sweep.tickets += sent
            all_told = tell(ledger)  # an end before this epoch, too: it may have been reopened before anybody looked
            if ended and not all_told:
                continue
        except UnknownJob:
            ended = True
        except (LastcallError, ResponseError) as error:
            sweep.failed.append((queue, error))
            continue
        if ended and _forget(redis, queue, celery_queue):
            sweep.ended.append(queue)
    return sweep


def _forget(redis: Redis, queue: str, celery_queue: str) -> bool:
    """Take an ended queue from the list; False if it was opened again meanwhile."""
    redis.hdel(keys.QUEUES, queue)
    job, name = split(queue)
    state: Any = redis.hget(keys.of_queue(job, name, "meta"), "state")
    if state is None or state.decode() in ENDED:
        return True
    # Listed by whoever opened it just before it was removed here.
    redis.hsetnx(keys.QUEUES, queue, celery_queue)
    return False
