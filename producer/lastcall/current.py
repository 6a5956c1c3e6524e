"""current: what a function that runs on a worker may know of where and for what it runs.

from lastcall import current

def charge(order):
    bank.charge(order, idempotency_key=current.idempotency_key)
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Protocol

from lastcall.errors import NotRunning
from lastcall.state.ledger import Ledger

if TYPE_CHECKING:
    from redis import Redis

    from lastcall.settings import Settings


class Running(Protocol):
    """What a worker tells; lastcall_worker/slot.py. made: when the queue was; settings: its own."""

    job: str
    queue: str
    made: str
    worker: str

    @property
    def settings(self) -> Settings: ...
    @property
    def attempt(self) -> int: ...
    @property
    def item(self) -> str: ...
    def help(self, ledger: Ledger) -> bool: ...
    def check_wait(self, what: str, twin: str) -> None: ...


class Current:
    """The item that runs here, in this thread or coroutine. Outside of a worker's function each raises NotRunning."""

    __slots__ = ()

    @property
    def job(self) -> str:
        """The id of the job."""
        return _here().job

    @property
    def queue(self) -> str:
        """The name of the queue."""
        return _here().queue

    @property
    def item(self) -> str:
        """The item's id in its queue, "chunk#number": the same in every attempt, and in its dead letter."""
        return _here().item

    @property
    def attempt(self) -> int:
        """The how-manieth time this item may be running, from 1; an item that ran beside one that crashed counts that
        as an attempt, too."""
        return _here().attempt

    @property
    def worker(self) -> str:
        """The worker node, such as cpu@box."""
        return _here().worker

    @property
    def idempotency_key(self) -> str:
        """One word for this item: the same in every attempt, another for every other item, ever.

        For what must take effect once though the function may run twice: give it to the service that is called.
        """
        here = _here()
        return f"{here.job}/{here.queue}/{here.made}/{here.item}"

    def __bool__(self) -> bool:
        """Whether a worker's function runs here."""
        return running.get() is not None

    def __repr__(self) -> str:
        return f"<current: item {self.item} of {self.job}/{self.queue}>" if self else "<current: nothing>"


running: ContextVar[Running | None] = ContextVar("lastcall_running", default=None)
current = Current()


_MOST_NESTED: Final = 24  # functions that one slot runs in place of one another: some 20 frames each, of 1,000
_nested: ContextVar[int] = ContextVar("lastcall_nested", default=0)
HELP_S: Final = 0.05  # that a function on a worker waits before it does what it waits for
_BESIDE_S: Final = 0.2  # that one waits at a queue: what is ready beside it, another slot takes by then, if one is free


def help_with(ledger: Ledger) -> bool:
    """Where a worker's function waits here for this queue: run a chunk of it, or of another of its job, which may feed
    it. Whether there was one.

    Else all slots could wait for work that only a slot can do.
    """
    here = running.get()
    if here is None:
        return False
    if here.help(ledger):
        return True
    others = (name for name in ledger.names_of_job() if name != ledger.name)
    return any(here.help(ledger.other(name)) for name in others)


def help_beside(redis: Redis) -> bool:
    """Where a worker's function waits here for what other work of its own queue may bring about: run some of that.
    Whether there was some.

    What it runs may wait in its turn, and be in its way until then: so not without end.
    """
    here = running.get()
    if here is None or _nested.get() >= _MOST_NESTED:
        return False
    before = _nested.set(_nested.get() + 1)
    try:
        return help_with(Ledger(redis, here.job, [here.queue]))
    finally:
        _nested.reset(before)


def help_at(ledger: Ledger, waited_s: float) -> bool:
    """help_with() a queue that no worker serves. What would come into it, or go, may wait for this very slot: where
    nothing has for a while, something beside it is run."""
    return help_with(ledger) or (waited_s >= _BESIDE_S and help_beside(ledger.redis))


def _here() -> Running:
    here = running.get()
    if here is None:
        raise NotRunning
    return here
