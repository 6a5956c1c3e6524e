"""Queues as they are shown: those of a job together, in the order in which work goes through them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lastcall.state.records import Status

_STAGE = "stage:"  # a queue is a producer of the one downstream, by this name


def in_order(statuses: Iterable[Status], key: Callable[[Sequence[Status]], Any]) -> list[Status]:
    """Jobs in the order of a key of all their queues; in each, upstream first."""
    jobs: defaultdict[str, list[Status]] = defaultdict(list)
    for status in statuses:
        jobs[status.job].append(status)
    return [status for job in sorted(jobs.values(), key=key) for status in _upstream_first(job)]


def _upstream_first(statuses: Sequence[Status]) -> list[Status]:
    feeding = {
        status.name: [one.name.removeprefix(_STAGE) for one in status.producers if one.name.startswith(_STAGE)]
        for status in statuses
    }

    def stages_before(name: str) -> int:
        return max((1 + stages_before(other) for other in feeding.get(name, ())), default=0)

    return sorted(statuses, key=lambda status: (stages_before(status.name), status.name))
