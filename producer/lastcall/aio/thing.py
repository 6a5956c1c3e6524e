"""AsyncThing: what machines share by name, awaited; the base of all its kinds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NoReturn, ParamSpec, TypeVar

from lastcall.aio.misuse import Awaited
from lastcall.checks import plain_name
from lastcall.shared.thing import Thing

if TYPE_CHECKING:
    from lastcall.aio.link import Link
    from lastcall.connection import Connection

H = TypeVar("H", bound=Thing)
R = TypeVar("R")
P = ParamSpec("P")

Opened = Callable[[], Awaitable["Link"]]


class AsyncThing(Awaited, Generic[H]):
    """What is shared under a name; made by an AsyncClient or AsyncManager. Each method is awaited, and is otherwise as
    that of the thing for programs without an event loop.

    What only asks is left where it is cancelled; what changes something is over before the cancellation is raised.
    """

    def __init__(self, opened: Opened, name: str, make: Callable[[Connection], H]) -> None:
        # make: reaches the server, where the thing has a first value.
        plain_name("name", name)
        self.name = name
        self._opened, self._make = opened, make
        self._there: tuple[Link, H] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} belongs to its event loop, and does not travel: hand over `await thing()`, of which a "
            "coroutine on a worker has a twin by a client of its own: client.twin(thing)"
        )

    async def thing(self) -> H:
        """The same for programs without an event loop, and for functions on workers; it pickles."""
        return (await self._at())[1]

    async def _at(self) -> tuple[Link, H]:
        if self._there is None:
            link = await self._opened()
            self._there = link, await link.threads.take(self._make, link.connection)
        return self._there

    async def _ask(self, method: Callable[Concatenate[H, P], R], *args: P.args, **named: P.kwargs) -> R:
        """Run what changes nothing."""
        link, thing = await self._at()
        return await link.threads.ask(partial(method, thing, *args, **named))

    async def _do(self, method: Callable[Concatenate[H, P], R], *args: P.args, **named: P.kwargs) -> R:
        """Run what changes it."""
        return await self._take(None, method, *args, **named)

    async def _take(
        self, undo: Callable[[H, R], Any] | None, method: Callable[Concatenate[H, P], R], *args: P.args,
        **named: P.kwargs,
    ) -> R:  # fmt: skip
        """Run what takes something. undo: puts it back where who asked for it is cancelled."""
        link, thing = await self._at()
        back = None if undo is None else partial(undo, thing)
        return await link.threads.take(partial(method, thing, *args, **named), undo=back)
