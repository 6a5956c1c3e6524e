"""Event: threading.Event, between machines."""

from __future__ import annotations

from typing import ClassVar

from lastcall.announced import Changed, block
from lastcall.shared.thing import Thing
from lastcall.state.scripts import script
from lastcall.waiting import reaching


class Event(Thing):
    """threading.Event."""

    kind: ClassVar[str] = "event"

    @reaching
    def is_set(self) -> bool:
        """Whether it is set."""
        return bool(self._redis.hget(self._key("meta"), "set") == b"1")

    @reaching
    def set(self) -> None:
        """Set it, and wake all who wait."""
        self._run(script("mark"), 1)

    @reaching
    def clear(self) -> None:
        """Who waits from now on waits until it is set again."""
        self._run(script("mark"), 0)

    @reaching
    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is set; False at the timeout, in seconds. A worker's function runs other work meanwhile."""
        return block(self._until_set(), timeout)

    def _until_set(self) -> Changed:
        redis, key = self._connection.asking, self._key("meta")
        return Changed(self, lambda: bool(redis.hget(key, "set") == b"1"), twin="await client.twin(event).wait()")
