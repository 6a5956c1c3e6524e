"""Waiting for the end of queues; waiting.wait_for_end(), awaited."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lastcall.aio.helping import Waiting
from lastcall.errors import WaitTimeout
from lastcall.waiting import AWAY, Deadline, Outage, Patience, describe

if TYPE_CHECKING:
    from lastcall.aio.link import Link
    from lastcall.state.ledger import Ledger
    from lastcall.state.records import Status

_LOOK_S = 1.0


async def wait_for_end(link: Link, ledgers: Sequence[Ledger], timeout_s: float | None = None) -> list[Status]:
    """Until every one of these queues has ended. Raises WaitTimeout, NoWorker, UnknownJob, ServerUnreachable."""
    connection = link.connection
    deadline, outage = Deadline(timeout_s), Outage(connection)
    patience = {ledger.address: Patience(connection) for ledger in ledgers}
    ended: dict[str, Status] = {}
    asked = [connection.asked(ledger) for ledger in ledgers]

    def look() -> list[Status] | None:
        """Those that have not ended; None if the server is away."""
        left = []
        try:
            for ledger in asked:
                if ledger.address not in ended:
                    status = ledger.status()
                    if status.ended:
                        ended[ledger.address] = status
                    else:
                        patience[ledger.address].look(status)
                        left.append(status)
        except AWAY as error:
            outage.bear(error, deadline.left(_LOOK_S))
            return None
        outage.over()
        return left

    def what(left: list[Status] | None) -> str:
        if left is None:
            return f"queue {', '.join(ledger.shown for ledger in asked)}: {outage}"
        return "; ".join(describe(connection, status) for status in left)

    with ExitStack() as stack:
        for ledger in ledgers:
            stack.enter_context(connection.heart.watching(ledger))
        waits = [stack.enter_context(Waiting(ledger)) for ledger in ledgers]
        # First subscribed, then looked: an end is either announced or seen.
        async with link.bells.announcements([ledger.results_key for ledger in ledgers]) as announced:
            while (left := await link.threads.ask(look)) or left is None:
                if deadline.passed:
                    raise WaitTimeout(await link.threads.ask(what, left), deadline.waited_s)
                await announced.heard(min(wait.most(deadline.left(_LOOK_S)) for wait in waits))
                for wait in waits:
                    wait.help()
    return [ended[ledger.address] for ledger in ledgers]
