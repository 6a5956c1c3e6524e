"""How long until work that a killed process was at runs again: from the items' log and the storm's faults."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.storm import CHILD_KILLED, NODE_KILLED, Storm

Key = tuple[str, str, str]  # job, stage, number


@dataclass
class Recovery:
    """Seconds from a kill to the moment when an item that it hit began again; `alone`: of kills that no other fault of
    a node, the server or the network came near.
    """

    all_s: list[float] = field(default_factory=list)
    alone_s: list[float] = field(default_factory=list)


@dataclass
class Runs:
    """What the log says. begins: of each item, by time; again: runs more than one for an item."""

    begins: dict[Key, list[tuple[float, int]]]
    ends: dict[tuple[Key, int], list[float]]

    @classmethod
    def read(cls, path: Path) -> Runs:
        begins: dict[Key, list[tuple[float, int]]] = defaultdict(list)
        ends: dict[tuple[Key, int], list[float]] = defaultdict(list)
        with path.open() as log:
            for line in log:
                what, at, pid, job, stage, number = line.split()
                key = (job, stage, number)
                if what == "begins":
                    begins[key].append((float(at), int(pid)))
                else:
                    ends[key, int(pid)].append(float(at))
        return cls(begins, ends)

    @property
    def again(self) -> int:
        return sum(len(runs) - 1 for runs in self.begins.values())


def measure(runs: Runs, storm: Storm) -> dict[str, Recovery]:
    """For processes of slots, and for whole nodes."""
    by_pid: dict[int, list[tuple[float, Key]]] = defaultdict(list)
    for key, begun in runs.begins.items():
        for at, pid in begun:
            by_pid[pid].append((at, key))
    found = {CHILD_KILLED: Recovery(), NODE_KILLED: Recovery()}
    for fault in storm.faults:
        if fault.kind not in found:
            continue
        for key in _at(fault.began, fault.pids, by_pid, runs):
            again = min(
                (at for at, pid in runs.begins[key] if at > fault.began and pid not in fault.pids), default=None
            )
            if again is None:
                continue  # its job had ended otherwise, such as by another item's error
            found[fault.kind].all_s.append(again - fault.began)
            if not storm.disturbed(fault, again):
                found[fault.kind].alone_s.append(again - fault.began)
    return found


def _at(
    moment: float, pids: Iterable[int], by_pid: dict[int, list[tuple[float, Key]]], runs: Runs
) -> Iterable[Key]:  # fmt: skip
    """The items that these processes had begun and not ended by then."""
    for pid in pids:
        for at, key in by_pid[pid]:
            if at <= moment and not any(at <= end <= moment for end in runs.ends.get((key, pid), ())):
                yield key
