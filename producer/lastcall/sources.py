"""Producer functions that run on workers: client.run(flow, sources=[read_north, read_south]).

Each is an item of a queue of its own, and, while it runs, one producer of the flow's first queue. If its worker dies,
it runs again, under its own name, and goes on behind what that had put.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from lastcall.current import running
from lastcall.errors import ConfigError, NotRunning
from lastcall.flowoptions import FlowOptions
from lastcall.plan import SOURCES
from lastcall.queue import StatusableQueue, attach, make

if TYPE_CHECKING:
    from lastcall.connection import Connection

_PUTTER: Final = "input"

Source = Callable[..., Iterable[Any]]


def check_sources(sources: object) -> Sequence[Source]:
    """Raises ConfigError where these are no functions."""
    expected = "one or more functions that give items"
    if isinstance(sources, str | bytes) or not isinstance(sources, Sequence) or not sources:
        raise ConfigError("sources", expected, repr(sources), "sources=[read_north, read_south]")
    for source in sources:
        if not callable(source):
            raise ConfigError("sources", expected, repr(source), "sources=[read_north, read_south]")
    return sources


def items_of(source: Source, position: int = 0) -> Iterator[Any]:
    """What a source gives behind the first `position` items; one that takes such an argument begins there itself."""
    if position and "position" in _parameters(source):
        return iter(source(position=position))
    return itertools.islice(source(), position, None)


def _parameters(source: Source) -> Iterable[str]:
    try:
        return inspect.signature(source).parameters
    except (TypeError, ValueError):  # a built-in one does not tell
        return ()


class RunSource:
    """Runs a source, on a worker: puts what it gives into the flow's first queue. address: that queue's."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(self, item: tuple[str, Source]) -> tuple[()]:
        name, source = item
        here = running.get()
        if here is None:
            raise NotRunning
        queue = attach(here.settings, self.address)
        with queue.producer(name) as out:
            out.put_many(items_of(source, out.position))
        return ()  # nothing goes on from here


def put_sources(
    connection: Connection, first: StatusableQueue[Any], sources: Sequence[Source], *, on_error: str
) -> None:  # fmt: skip
    """Have workers run them."""
    queue = make(
        connection, first.job, SOURCES, function=RunSource(f"{first.job}/{first.name}"), into=first,
        workers=first.workers, max_workers=len(sources), founder=_PUTTER,
        on_error="dead" if on_error == "dead" else "return", flow=FlowOptions(many=True),
    )  # fmt: skip
    with queue.producer(_PUTTER, chunk_items=1) as out:
        out.put_many((f"source-{number}", source) for number, source in enumerate(sources, 1))
