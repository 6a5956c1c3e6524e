"""announced.py's waits, awaited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lastcall.aio.helping import Waiting
from lastcall.announced import LOOK_S, Announced, Ends, Idle
from lastcall.errors import WaitTimeout
from lastcall.waiting import Deadline

if TYPE_CHECKING:
    from lastcall.aio.link import Link
    from lastcall.state.ledger import Ledger
    from lastcall.state.records import Status


async def wait(link: Link, announced: Announced, timeout_s: float | None) -> bool:
    """Until it is there; False at the timeout, in seconds (None: none). Raises what its looks raise."""
    deadline = Deadline(timeout_s)
    look = link.threads.take if announced.takes else link.threads.ask
    with announced.watching(), Waiting(announced) as waiting:
        if await look(announced.check, deadline, False):
            return True
        if deadline.passed:
            return False
        # First subscribed, then looked: it is either announced or seen.
        async with link.bells.announcements(announced.channels) as subscription:
            told = False
            while not await look(announced.check, deadline, told):
                if deadline.passed:
                    return False
                told = await subscription.heard(waiting.most(deadline.left(LOOK_S)))
                waiting.help()
    return True


async def wait_for_end(link: Link, ledgers: Sequence[Ledger], timeout_s: float | None = None) -> list[Status]:
    """Until every one of these queues has ended. Raises WaitTimeout, NoWorker, UnknownJob, ServerUnreachable."""
    ends = Ends(link.connection, ledgers)
    await _all(link, ends, timeout_s)
    return ends.statuses


async def wait_until_idle(link: Link, ledger: Ledger, timeout_s: float | None = None) -> None:
    """Until all that was put into a queue is done, though more may come. Raises WaitTimeout, UnknownJob,
    ServerUnreachable."""
    await _all(link, Idle(link.connection, ledger), timeout_s)


async def _all(link: Link, announced: Announced, timeout_s: float | None) -> None:
    deadline = Deadline(timeout_s)
    if not await wait(link, announced, timeout_s):
        raise WaitTimeout(await link.threads.ask(announced.describe), deadline.waited_s)
