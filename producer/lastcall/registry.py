"""Registry: the worker nodes that live, which Celery queues each serves and with how many slots.

Workers say that they are there every third of their lease; one that falls silent is dropped by
whoever looks next, by the Redis clock.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from lastcall.state import keys
from lastcall.state.scripts import script

if TYPE_CHECKING:
    from redis import Redis

CACHE_S = 1.0


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker node. node: as Celery names it, such as cpu@box; pool: prefork, threads, ...; broker: where it takes
    tickets from, as Settings.broker_shown."""

    node: str
    queues: tuple[str, ...]
    slots: int
    pool: str
    host: str
    pid: int
    version: str
    started_ms: int
    broker: str = ""


class Registry:
    """Who serves which Celery queue. One may be shared by threads, and used after a fork."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._keys: Final = [keys.WORKERS.encode(), keys.WORKERS_SEEN.encode()]
        # One value, replaced as a whole, so that threads need no lock: (when it was asked, answer).
        self._seen: tuple[float, list[WorkerInfo]] = (float("-inf"), [])

    def register(self, info: WorkerInfo, lease_s: float) -> list[WorkerInfo]:
        """Say that a worker is there, for another `lease_s` seconds. Gives all that are."""
        return self._attend(info.node, json.dumps(asdict(info)), round(lease_s * 1000))

    def forget(self, node: str) -> None:
        """A worker has left."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hdel(keys.WORKERS, node)
        pipeline.zrem(keys.WORKERS_SEEN, node)
        pipeline.execute()
        self._seen = (float("-inf"), [])

    def live(self) -> list[WorkerInfo]:
        """The workers that are there now, by name."""
        return self._attend()

    def slots(self, celery_queue: str, *, refresh: bool = False) -> int:
        """Slots of live workers that serve a Celery queue; known for a second unless `refresh`."""
        workers = self.live() if refresh else self.known()
        return sum(worker.slots for worker in workers if celery_queue in worker.queues)

    def known(self) -> list[WorkerInfo]:
        """As live(); known for a second."""
        asked, workers = self._seen
        return workers if time.monotonic() - asked < CACHE_S else self._attend()

    def seen(self) -> list[WorkerInfo]:
        """As live(), by reads alone, which a replica answers, too."""
        now: Any = self._redis.time()
        nodes: Any = self._redis.zrangebyscore(keys.WORKERS_SEEN, f"({now[0] * 1000 + now[1] // 1000}", "+inf")
        texts: Any = self._redis.hmget(keys.WORKERS, nodes) if nodes else []
        return sorted((_info(text) for text in texts if text is not None), key=lambda worker: worker.node)

    def _attend(self, node: str = "", info: str = "", lease_ms: int = 0) -> list[WorkerInfo]:
        asked = time.monotonic()
        reply = script("attend")(self._redis, self._keys, node, info, lease_ms)
        workers = sorted((_info(text) for text in reply[1:]), key=lambda worker: worker.node)
        self._seen = (asked, workers)
        return workers


def _info(text: bytes) -> WorkerInfo:
    fields = json.loads(text)
    fields["queues"] = tuple(fields["queues"])
    return WorkerInfo(**fields)
