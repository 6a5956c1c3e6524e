"""The ledger's scripts: loaded from lua/, their includes put in, run by their SHA-1.

A file is a transition; a file whose name begins with an underscore is a part that scripts include with a line
`--@include _name`. Every script may be sent again when its reply was lost on the wire.
"""

from __future__ import annotations

import hashlib
import re
from enum import IntEnum
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

_INCLUDE = re.compile(r"^--@include (\w+)$", re.MULTILINE)


class Code(IntEnum):
    """The first element of every script's reply."""

    OK = 1
    NOTHING = 0
    LOST = -1
    ENDED = -2
    UNKNOWN = -3
    FULL = -4
    MISMATCH = -5


class Script:
    """One transition of the ledger."""

    __slots__ = ("name", "sha", "source")

    def __init__(self, name: str) -> None:
        folder = files(__package__) / "lua"

        def read(part: str) -> str:
            return (folder / f"{part}.lua").read_text(encoding="utf-8")

        self.name = name
        self.source = _INCLUDE.sub(lambda found: read(found[1]), read(name))
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def load(self, redis: Redis) -> None:
        """Have the server know it: where an argument is so large that it had better not be sent in vain."""
        redis.script_load(self.source)

    def __call__(self, redis: Redis, keys: Sequence[bytes], *args: Any) -> list[Any]:
        """Run it; loads it first where the server does not have it yet."""
        execute: Any = redis.execute_command
        try:
            reply: list[Any] = execute("EVALSHA", self.sha, len(keys), *keys, *args)
        except NoScriptError:
            reply = execute("EVAL", self.source, len(keys), *keys, *args)
        return reply

    def after_bell(
        self, redis: Redis, bell: bytes, wait_s: float, keys: Sequence[bytes], *args: Any
    ) -> tuple[bool, list[Any]]:
        """Run it as soon as the bell rings, or `wait_s` are over; gives whether it rang, and the reply.

        Both commands are sent at once, so that the server goes on with the second where the first one was blocked, and
        who waits needs no round trip to look.
        """
        pipeline: Any = redis.pipeline(transaction=False)
        pipeline.execute_command("BLPOP", bell, wait_s)
        pipeline.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
        rang, reply = pipeline.execute(raise_on_error=False)
        if isinstance(reply, Exception):
            reply = self(redis, keys, *args)
        return bool(rang), reply


@cache
def script(name: str) -> Script:
    """The script of that name; read once a process."""
    return Script(name)
