"""Starter: what a pool, or an executor, asks of each process (thread) that works for it.

It travels in the envelope of the function of its queues; lastcall_worker/starters.py does what it says.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from lastcall import functions
from lastcall.errors import ItemTooLarge, NotSerializable
from lastcall.waiting import AWAY

if TYPE_CHECKING:
    from lastcall.connection import Connection


class Starter(NamedTuple):
    """owner: whose it is; initializer: the wire of a function, or None; initargs: its arguments, by sealer.dump();
    most_chunks: that a process runs for the owner before another takes its place, 0: any number.
    """

    owner: str
    initializer: tuple[Any, ...] | None
    initargs: bytes
    most_chunks: int


def starter(
    connection: Connection, workers: str, initializer: Callable[..., object] | None, initargs: Iterable[Any],
    most_chunks: int | None, said: str,
) -> Starter | None:  # fmt: skip
    """None where nothing is asked for. said: what most_chunks is called where it was given; warns, for the caller of
    its caller's caller, where a live worker of that Celery queue has no processes that can be replaced.

    Raises NotSerializable, ItemTooLarge, FunctionNotAllowed for an initializer that cannot be sent.
    """
    if initializer is None and most_chunks is None:
        return None
    sealer, limit = connection.sealer, connection.settings.max_item_bytes
    wire, dumped = None, b""
    if initializer is not None:
        wire = functions.dump(initializer, sealer.keyed).wire
        try:
            dumped = sealer.dump(tuple(initargs))
        except NotSerializable as error:
            raise NotSerializable("initargs", None, error.type_name, error.reason) from error
        if len(dumped) > limit:
            raise ItemTooLarge(len(dumped), limit)
    if most_chunks is not None:
        _warn_of_threads(connection, workers, f"{said}={most_chunks}")
    return Starter(uuid.uuid4().hex, wire, dumped, most_chunks or 0)


def _warn_of_threads(connection: Connection, workers: str, said: str) -> None:
    connection.ensure_workers(workers)
    others = set()
    with suppress(*AWAY):  # the work will say so
        others = {info.pool for info in connection.registry.known() if workers in info.queues} - {"prefork"}
    if others:
        warnings.warn(
            f"{said} is of no effect on workers of the Celery queue {workers!r} whose pool is "
            f"{', '.join(sorted(others))}: only a prefork worker has processes to replace, start one with: "
            f"lastcall worker -P prefork -Q {workers}",
            stacklevel=5,
        )
