"""The faults: which there are, and a thread that lets one after the other happen, at random, to whatever is there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from redis.exceptions import RedisError

from tests.chaos.processes import Part
from tests.chaos.stand import LEASE_S, Node, Stand

CHILD_KILLED, CHILD_FROZEN = "slot's process killed", "slot's process frozen"
NODE_KILLED, NODE_FROZEN, NODE_TOLD = "node killed", "node frozen past its lease", "node told to end (SIGTERM)"
MAIN_KILLED = "node's main process killed"  # whose slots' processes must end by themselves
PRODUCER_KILLED, CONSUMER_KILLED, CLIENT_KILLED = "producer killed", "consumer killed", "client killed"
SERVER_KILLED, SERVER_FROZEN, CUT = "server killed and restarted", "server frozen", "all connections cut"

# How often each is chosen, where it is possible.
WEIGHTS = {
    CHILD_KILLED: 24, CHILD_FROZEN: 12, NODE_KILLED: 10, MAIN_KILLED: 4, NODE_FROZEN: 8, NODE_TOLD: 5,
    PRODUCER_KILLED: 16, CONSUMER_KILLED: 12, CLIENT_KILLED: 8, SERVER_KILLED: 3, SERVER_FROZEN: 3, CUT: 5,
}  # fmt: skip
_OF_NODES = {NODE_KILLED, MAIN_KILLED, NODE_FROZEN}
_OF_SERVER = {SERVER_KILLED, SERVER_FROZEN, CUT}
_DISTURBING = {*_OF_NODES, *_OF_SERVER, NODE_TOLD}
_MOST_NODE_FAULTS = 2  # in the life of one job: an item that is hit three times is given up
_LEAVE_S = 60.0  # billiard lets a process that was replaced linger for 30 s in a warm shutdown


@dataclass(slots=True)
class Fault:
    """kind; pids: the processes that were killed, if any; from when to when it lasted, by time.time()."""

    kind: str
    pids: frozenset[int]
    began: float
    ended: float


class Target(Protocol):
    """A job, as the storm sees it. victims: its processes that may be killed now."""

    began: float

    def victims(self) -> Iterable[Part]: ...


class Storm:
    """Lets faults happen until it is stopped. rate: a second; jobs: those that run now."""

    def __init__(
        self, stand: Stand, rng: random.Random, jobs: Callable[[], list[Target]], *, rate: float, kinds: Iterable[str]
    ) -> None:
        self.faults: list[Fault] = []
        self._stand = stand
        self._rng = rng
        self._jobs = jobs
        self._rate = rate
        self._kinds = [kind for kind in WEIGHTS if kind in set(kinds)]
        self._stopped = threading.Event()
        self._server_hit = threading.Lock()
        self._under_way: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._blow, name="chaos-storm", daemon=True)

    def __enter__(self) -> Storm:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        for thread in self._under_way:
            thread.join()

    @property
    def counts(self) -> Counter[str]:
        return Counter(fault.kind for fault in self.faults)

    def since(self, began: float) -> list[Fault]:
        """The faults that were not over at a moment."""
        return [fault for fault in list(self.faults) if fault.ended >= began]

    def disturbed(self, fault: Fault, until: float) -> bool:
        """Whether another fault of a node, the server or the network came near this one, up to a moment."""
        return any(
            other is not fault and other.kind in _DISTURBING and other.began <= until and other.ended >= fault.began - 3
            for other in list(self.faults)
        )

    def _blow(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due, time.monotonic() - 5 / self._rate) + self._rng.expovariate(self._rate)
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                return
            if self._jobs():
                self._one()

    def _one(self) -> None:
        """Let one fault happen, of a kind that is possible now."""
        kinds = list(self._kinds)
        while kinds:
            (kind,) = self._rng.choices(kinds, [WEIGHTS[kind] for kind in kinds])
            if self._happens(kind):
                return
            kinds.remove(kind)

    def _happens(self, kind: str) -> bool:
        if kind in _OF_SERVER:
            return self._server(kind)
        if kind in (PRODUCER_KILLED, CONSUMER_KILLED, CLIENT_KILLED):
            return self._part(kind)
        if kind in (CHILD_KILLED, CHILD_FROZEN):
            return self._child(kind)
        return self._node(kind)

    def _note(self, kind: str, pids: Iterable[int] = (), began: float = 0.0) -> Fault:
        now = time.time()
        fault = Fault(kind, frozenset(pids), began or now, now)
        self.faults.append(fault)
        return fault

    def _meanwhile(self, do: Callable[[], None]) -> None:
        thread = threading.Thread(target=do, daemon=True)
        self._under_way = [one for one in self._under_way if one.is_alive()] + [thread]
        thread.start()

    # Slots

    def _child(self, kind: str) -> bool:
        children = [pid for node in self._stand.nodes for pid in node.children()]
        if not children:
            return False
        pid = self._rng.choice(sorted(children))
        with suppress(ProcessLookupError):
            if kind == CHILD_KILLED:
                began = time.time()
                os.kill(pid, signal.SIGKILL)
                self._note(kind, [pid], began)
            else:
                frozen_s = self._rng.uniform(0.2, 1.5 * LEASE_S)
                os.kill(pid, signal.SIGSTOP)
                fault = self._note(kind)
                fault.ended += frozen_s

                def thaw() -> None:
                    self._stopped.wait(frozen_s)
                    with suppress(ProcessLookupError):  # its node was killed meanwhile
                        os.kill(pid, signal.SIGCONT)

                self._meanwhile(thaw)
            return True
        return False

    def _node(self, kind: str) -> bool:
        nodes = [node for node in self._stand.nodes if node.well]
        if len(nodes) < 2:  # somebody goes on
            return False
        if kind in _OF_NODES and any(
            sum(fault.kind in _OF_NODES for fault in self.since(job.began)) >= _MOST_NODE_FAULTS for job in self._jobs()
        ):
            return False
        node = self._rng.choice(nodes)
        node.hit = True
        frozen_s = LEASE_S + self._rng.uniform(0.3, 1.0)

        def hit() -> None:
            try:
                self._hit(kind, node, frozen_s)
            finally:
                node.hit = False

        self._meanwhile(hit)
        return True

    def _hit(self, kind: str, node: Node, frozen_s: float) -> None:
        assert node.worker is not None
        process = node.worker.process
        if kind == NODE_KILLED:
            pids, began = node.members(), time.time()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            self._note(kind, pids, began)
            self._stand.replace(node)
        elif kind == MAIN_KILLED:
            pids, began = node.members(), time.time()
            process.kill()
            self._note(kind, pids, began)
            process.wait()
            self._stand.await_gone(process.pid)
            self._stand.replace(node)
        elif kind == NODE_FROZEN:
            process.send_signal(signal.SIGSTOP)
            fault = self._note(kind)
            fault.ended += frozen_s
            self._stopped.wait(frozen_s)
            process.send_signal(signal.SIGCONT)
        else:
            process.send_signal(signal.SIGTERM)
            self._note(kind)
            try:
                process.wait(_LEAVE_S)
            except subprocess.TimeoutExpired:
                self._stand.complaints.append(
                    f"worker {node.worker.node} did not end {_LEAVE_S:g} s after SIGTERM:\n{node.worker.log[-3000:]}"
                )
            self._stand.replace(node)

    # Parts of jobs

    def _part(self, kind: str) -> bool:
        role = kind.partition(" ")[0]
        victims = [part for job in self._jobs() for part in job.victims() if part.role == role]
        self._rng.shuffle(victims)
        for part in victims:
            began = time.time()
            if part.kill():
                self._note(kind, [part.pid], began)
                return True
        return False

    # The server

    def _server(self, kind: str) -> bool:
        if not self._server_hit.acquire(blocking=False):
            return False
        away_s = self._rng.uniform(0.0, 0.7)

        def hit() -> None:
            try:
                self._hit_server(kind, away_s)
            except Exception as error:  # nobody else would tell of it
                self._stand.complaints.append(f"{kind}: {error!r}")
            finally:
                self._server_hit.release()

        self._meanwhile(hit)
        return True

    def _hit_server(self, kind: str, away_s: float) -> None:
        server = self._stand.server
        began = time.time()
        if kind == SERVER_KILLED:
            server.kill()
            self._stopped.wait(away_s)
            server.start()
        elif kind == SERVER_FROZEN:
            with server.paused():
                self._stopped.wait(1.0)
        else:
            try:
                client = server.client()
                for type_ in ("pubsub", "normal"):
                    client.execute_command("CLIENT", "KILL", "TYPE", type_, "SKIPME", "yes")  # type: ignore[no-untyped-call]
                client.close()
            except RedisError as error:
                self._stand.complaints.append(f"connections cannot be cut: {error!r}")
        self._note(kind, (), began)
