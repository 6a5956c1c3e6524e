"""Waiting at the server on the event loop. A wait holds a connection, no thread.

Nothing here raises when the server is away: a wait is then over early, and the look that follows it finds out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from lastcall.settings import Settings

_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 5.0  # more than any wait here
_AGAIN_S: Final = 0.2
_ENTRIES: Final = 100


@contextmanager
def heeding_cancel() -> Iterator[None]:
    """Raise a cancellation that comes within, also one that redis-py takes for a timeout of its own, or loses."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    except Exception as error:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


class Bells:
    """One server's. Waits are in seconds, below five."""

    def __init__(self, settings: Settings) -> None:
        assert settings.url is not None  # there is a connection to it
        self._redis: Any = redis.asyncio.Redis.from_url(
            settings.url, decode_responses=False, protocol=2, socket_connect_timeout=_CONNECT_S,
            socket_timeout=_ANSWER_S, retry=Retry(NoBackoff(), 0),
        )  # fmt: skip

    async def rung(self, key: bytes, wait_s: float) -> bool:
        """Whether somebody rang."""
        try:
            with heeding_cancel():
                return bool(await self._redis.blpop([key], timeout=max(wait_s, 0.001)))
        except (RedisError, OSError):
            await asyncio.sleep(min(wait_s, _AGAIN_S))
            return False

    async def entries(self, key: bytes, after: str, wait_s: float) -> list[Any]:
        """What was added to a stream, as redis-py gives it."""
        try:
            with heeding_cancel():
                reply: Any = await self._redis.xread({key: after}, count=_ENTRIES, block=max(1, int(wait_s * 1000)))
        except (RedisError, OSError):
            await asyncio.sleep(min(wait_s, _AGAIN_S))
            return []
        return list(reply or ())

    @asynccontextmanager
    async def announcements(self, channels: Sequence[bytes]) -> AsyncIterator[Announcements]:
        """What is published there, from now on."""
        listening = Announcements(self._redis, channels)
        await listening.listen()
        try:
            yield listening
        finally:
            await listening.close()

    async def close(self) -> None:
        await self._redis.aclose()


class Announcements:
    def __init__(self, redis: Any, channels: Sequence[bytes]) -> None:
        self._redis, self._channels = redis, channels
        self._pubsub: Any = None

    async def listen(self) -> None:
        """Subscribe, where that is lost."""
        if self._pubsub is not None:
            return
        pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
        try:
            with heeding_cancel():
                await pubsub.subscribe(*self._channels)
        except (RedisError, OSError):
            await pubsub.aclose()
        except BaseException:
            await pubsub.aclose()
            raise
        else:
            self._pubsub = pubsub

    async def heard(self, wait_s: float) -> bool:
        """Wait for something; whether it came."""
        try:
            if self._pubsub is not None:
                with heeding_cancel():
                    return await self._pubsub.get_message(timeout=max(wait_s, 0.001)) is not None
        except (RedisError, OSError):
            await self.close()
        await asyncio.sleep(min(wait_s, _AGAIN_S))
        await self.listen()
        return False

    async def close(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            with heeding_cancel():
                await pubsub.aclose()
