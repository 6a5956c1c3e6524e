"""The jobs: what they start, keep running while their processes are killed, and check when they have ended."""

from __future__ import annotations

import itertools
import json
import random
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from lastcall import Client, StatusableQueue
from lastcall.errors import LastcallError, ProducerLost, ServerUnreachable
from lastcall.state.records import Status
from tests.chaos import items, parts
from tests.chaos.checks import Outcome
from tests.chaos.items import Item
from tests.chaos.parts import steady
from tests.chaos.processes import Part
from tests.chaos.stand import Stand
from tests.chaos.storm import CUT, SERVER_FROZEN, SERVER_KILLED, Storm

HANG_S = 60.0  # without anything moving
_LOOK_S = 0.1
_TOKEN_LEASE_S = 10.0
_ENDED = ("DRAINED", "INCOMPLETE", "CANCELLED")


class Hung(Exception):
    """Nothing has moved for a minute."""


class Job:
    """One job. kind: for people; began: by time.time()."""

    kind = ""
    # How many processes of each role may be killed.
    may_kill: dict[str, int]

    def __init__(self, stand: Stand, client: Client, rng: random.Random, number: int) -> None:
        self.stand = stand
        self.client = client
        self.rng = rng
        self.name = f"{type(self).__name__.lower()}{number}"
        self.began = time.time()
        self.parts: list[Part] = []
        self.may_kill = {}
        self.outcome = Outcome(self.kind, self.name)
        self.storm: Storm | None = None
        self._numbers = itertools.count(1)

    def run(self, storm: Storm) -> Outcome:
        """Play it, check it; whatever happens, none of its processes is left."""
        self.storm = storm
        self.began = time.time()
        try:
            self.play()
        except Hung as error:
            self.outcome.hung = True
            self.outcome.wrong.append(f"nothing has moved for {HANG_S:g} s:\n{error}")
        except Exception:  # whatever a job's own code does is a violation to be shown, not the end of the run
            self.outcome.wrong.append(traceback.format_exc())
        finally:
            for part in self.parts:
                if part.kill(fault=False) and not self.outcome.wrong:
                    self.outcome.wrong.append(f"{part.name} has not ended")
        self.outcome.took_s = time.time() - self.began
        if self.outcome.bad:
            journals = {part.name: [*part.events()][-3:] for part in self.parts}
            self.outcome.wrong.append(f"journals end with {json.dumps(journals)[-3000:]}")
            self.outcome.wrong += [f"{part.name} wrote:\n{part.log[-1500:]}" for part in self.parts if part.log]
        return self.outcome

    def play(self) -> None:
        raise NotImplementedError  # each kind of job has its own

    def victims(self) -> list[Part]:
        """Those of its processes that the storm may kill now."""
        killed = Counter(part.role for part in self.parts if part.killed_at is not None)
        return [
            part for part in list(self.parts)
            if part.killed_at is None and killed[part.role] < self.may_kill.get(part.role, 0)
        ]  # fmt: skip

    def start(self, role: str, function: Callable[..., None], *args: Any) -> Part:
        name = f"{self.name}-{role}{next(self._numbers)}"
        part = Part(role, name, self.stand.folder, function, self.stand.settings, *args)
        self.parts.append(part)
        return part

    def hits(self) -> int:
        """Faults that may have cost a slot or a consumer what it held."""
        assert self.storm is not None
        return len(self.storm.since(self.began))

    def wait(self, done: Callable[[], bool], *queues: StatusableQueue[Any]) -> None:
        """Look until it is done. Raises Hung where neither the queues nor the parts have moved for a minute."""
        seen: Any = None
        moved = time.monotonic()
        while not done():
            statuses = [steady(queue.status) for queue in queues]
            now = [
                [(s.state, s.put, s.ready, s.leased, s.done, s.dead) for s in statuses],
                [(part.running, part._path.stat().st_size if part._path.exists() else 0) for part in self.parts],
            ]
            if now != seen:
                seen, moved = now, time.monotonic()
            elif time.monotonic() - moved > HANG_S:
                raise Hung("\n".join([*map(str, statuses), *(f"{p.name}: {p.running=}" for p in self.parts)]))
            time.sleep(_LOOK_S)  # a connection that would tell of changes is cut by the storm

    def ended_well(self, part: Part) -> None:
        """A process that was not killed ends by itself, without an error of its own."""
        if part.killed_at is None:
            self.outcome.expect(part.exit_code == 0, f"{part.name} ended with {part.exit_code}:\n{part.log[-3000:]}")


class Map(Job):
    """client.map() in a process of its own, which may be killed."""

    kind = "map"

    def play(self) -> None:
        rng, outcome = self.rng, self.outcome
        ordered, raising, doomed = rng.random() < 0.6, rng.random() < 0.2, rng.random() < 0.3
        made = items.make(rng, self.name, rng.randint(300, 700), ("last",) if raising else ("",))
        if not raising:
            made = [item._replace(mood="") for item in made]
        outcome.items = len(made)
        if doomed:
            self.may_kill = {"client": 1}
        part = self.start("client", parts.map_items, made, ordered)
        self.wait(lambda: not part.running)
        values = [event["value"] for event in part.events("value")]
        errors = [*part.events("raised")]
        ended = [*part.events("end")]
        job = next((event["job"] for event in part.events("job")), "")
        bad = {item.number for item in made if item.mood}
        if part.killed_at is not None and not ended:
            self._until_ended(job)
            expected = [items.answer(item) for item in made if item.number not in bad]
            self._some_of(values, expected, ordered)
            return
        self.ended_well(part)
        status = self._until_ended(job)
        if not errors:
            due = [items.answer(item) for item in made]
            outcome.expect(not bad, f"nothing was raised for the items {sorted(bad)}")
            outcome.compare("results", values, due)
            if ordered and not outcome.bad:
                outcome.expect(values == due, "the results are not in the order of the input")
            if status is not None and status.state == "INCOMPLETE" and self._server_was_hit():
                outcome.notes.append("a map whose results all came ended INCOMPLETE, for its client could not leave")
            elif status is not None:
                outcome.expect(status.state == "DRAINED", f"expected DRAINED: {status}")
            return
        (error,) = errors
        self._some_of(values, [items.answer(item) for item in made if not item.mood], ordered)
        if error["type"] == "WorkerLost":
            outcome.given_up += 1
            outcome.expect(self.hits() >= 3, f"WorkerLost after {self.hits()} faults: {error}")
        else:
            outcome.expect(error["type"] == "ValueError", f"expected an item's ValueError, got {error}")
            if error["type"] == "ValueError":
                number = int(error["args"][1])
                outcome.expect(number in bad, f"item {number} raised")
                if ordered:
                    outcome.expect(number == min(bad), f"item {number} raised before {min(bad)}")
                    outcome.compare("results before the error", values, [items.answer(i) for i in made[:number]])

    def _some_of(self, values: list[int], expected: list[int], ordered: bool) -> None:
        """No result twice, none that there is not; in order from the first on."""
        doubled = Counter(values) - Counter(expected)
        if doubled:
            self.outcome.compare("results", values, set(values) & set(expected))
        if ordered:
            due = expected[: len(values)]
            self.outcome.expect(values == due, f"results out of order: {values[:20]}")

    def _until_ended(self, job: str) -> Status | None:
        """The map's queue ends by itself, and adds up."""
        if not job:  # killed before it could tell: the run's end sees that nothing is left open
            return None
        found: list[Status] = []
        deadline = time.monotonic() + HANG_S

        while True:
            found = steady(self.client.job(job).status)
            if all(status.ended for status in found):
                break
            if time.monotonic() > deadline:
                raise Hung(f"the job of a map: {found}")
            time.sleep(_LOOK_S)  # as above
        for status in found:
            self.outcome.adds_up(status)
        return found[0]

    def _server_was_hit(self) -> bool:
        assert self.storm is not None
        return any(f.kind in (SERVER_KILLED, SERVER_FROZEN, CUT) for f in self.storm.since(self.began))


class Queue(Job):
    """A queue with a function and several producers; its results are read by a process that may be killed."""

    kind = "queue"
    stages = 1

    def play(self) -> None:
        self.choose()
        source, last = self.set_up()
        self.feed(source)
        reader = _Reading(self, last)
        both = [source] if source is last else [source, last]

        def done() -> bool:
            fed = self.keep_feeding(source)
            read = reader.keep_reading()
            return fed and read and all(steady(queue.status).ended for queue in both)

        self.wait(done, *both)
        self.check(source, last, reader)

    def choose(self) -> None:
        rng = self.rng
        self.on_lost = rng.choice(["wait", "wait", "fail"])
        self.by_token = rng.random() < 0.4
        self.on_error = "dead" if self.stages == 2 else rng.choice(["dead", "dead", "return"])
        self.maxsize = rng.choice([None, None, 60])
        moods = ("first", "last") if self.stages == 2 else ("last",)
        count = rng.randint(2, 4)
        made = items.make(rng, self.name, rng.randint(200, 500), moods)
        self.items = [made[at::count] for at in range(count)]
        self.outcome.items = len(made)
        self.chunk_items = rng.choice([1, 3, 8, 20])
        self.pause_s = rng.choice([0.0, 0.005, 0.02])
        self.may_kill = {"producer": 3 if self.on_lost == "wait" else 1, "client": 2}
        self.producers: dict[str, Part] = {}
        self.lives: dict[str, list[Part]] = defaultdict(list)
        self.due: dict[str, float] = {}  # producer that was killed -> when it comes back

    def set_up(self) -> tuple[StatusableQueue[Any], StatusableQueue[Any]]:
        """The queue that is fed and the one whose results are read; the producers' names or tokens."""
        for attempt in itertools.count():
            made: list[StatusableQueue[Any]] = []
            try:
                self.make(f"{self.name}-{attempt}", made)
                count = len(self.items)
                if self.by_token:
                    self.names = [made[-1].producer_token(lease_s=_TOKEN_LEASE_S) for _ in range(count)]
                else:
                    self.names = [f"producer-{at}" for at in range(count)]
                return made[-1], made[0]
            except ServerUnreachable:  # a token that is not known is nobody's: another queue
                for queue in made:
                    steady(queue.cancel)
                if attempt > 100:
                    raise
                time.sleep(0.2)  # nothing tells when the server is back
        raise AssertionError

    def make(self, job: str, made: list[StatusableQueue[Any]]) -> None:
        expected = None if self.by_token else len(self.items)
        if self.stages == 2:
            made.append(self.client.queue("second", items.last, job=job))
            made.append(
                self.client.queue(
                    "first", items.first, job=job, into=made[0], producers=expected, on_lost=self.on_lost,
                    maxsize=self.maxsize,
                )
            )  # fmt: skip
        else:
            made.append(
                self.client.queue(
                    job, items.last, producers=expected, on_lost=self.on_lost, on_error=self.on_error,
                    maxsize=self.maxsize,
                )
            )  # fmt: skip

    def feed(self, queue: StatusableQueue[Any]) -> None:
        for at, name in enumerate(self.names):
            self._start_producer(queue, at, name)

    def _start_producer(self, queue: StatusableQueue[Any], at: int, name: str) -> None:
        part = self.start(
            "producer", parts.produce, queue.job, queue.name, name, self.items[at], self.pause_s, self.chunk_items,
            self.on_lost == "wait",
        )  # fmt: skip
        self.producers[name] = part
        self.lives[name].append(part)

    def keep_feeding(self, queue: StatusableQueue[Any]) -> bool:
        """Start again what was killed and is waited for. True if no producer runs any more, or will."""
        over = True
        for at, name in enumerate(self.names):
            part = self.producers[name]
            if part.running:
                over = False
                continue
            if part.killed_at is None:
                self.ended_well(part)
                if self.outcome.wrong:
                    raise RuntimeError(f"producer {name} failed")
                continue
            if self.on_lost == "fail":
                known = {producer.name for producer in steady(queue.status).producers}
                if name in known:
                    continue  # it counts as lost
                # It never came, and the queue waits for as many as it was told.
            over = False
            due = self.due.setdefault(part.name, time.monotonic() + self.rng.uniform(0, 1.5))
            if time.monotonic() >= due:
                self._start_producer(queue, at, name)
        return over

    def accepted(self, status: Status) -> list[Item]:
        """The items that the queue took, by its own word, checked against what the producers say."""
        outcome, found = self.outcome, {producer.name: producer for producer in status.producers}
        outcome.expect(sorted(found) == sorted(self.names), f"producers {sorted(found)}, expected {sorted(self.names)}")
        taken: list[Item] = []
        for at, name in enumerate(self.names):
            producer = found.get(name)
            if producer is None:
                continue
            lives, own = self.lives[name], self.items[at]
            told = max((e["position"] for part in lives for e in part.events("flushed")), default=0)
            said_left = any(True for part in lives for _ in part.events("left"))
            outcome.expect(producer.position >= told, f"{name}: {told} items acknowledged, {producer.position} there")
            if producer.state == "left":
                outcome.expect(producer.position == len(own), f"{name} left with {producer.position} of {len(own)}")
            elif producer.state == "lost" and self.on_lost == "fail":
                killed = any(part.killed_at for part in lives)
                outcome.expect(not said_left, f"{name} has left and counts as lost")
                if not killed:
                    why = [e["event"] for part in lives for e in part.events()][-2:]
                    outcome.expect(
                        "lease lost" in why or "server away" in why or "finished" in why,
                        f"{name} counts as lost, and was not killed: {why}",
                    )
                    outcome.notes.append(f"a producer that was not killed lost its lease ({', '.join(why)})")
            else:
                outcome.wrong.append(f"{name} is {producer.state} after the end, on_lost={self.on_lost}")
            taken += own[: producer.position]
        lost = any(producer.state == "lost" for producer in status.producers)
        due = "INCOMPLETE" if lost else "DRAINED"
        outcome.expect(status.state == due, f"expected {due}: {status}")
        outcome.expect(status.put == len(taken), f"{status.put} put, of producers {len(taken)}: {status}")
        return taken

    def check(self, source: StatusableQueue[Any], last: StatusableQueue[Any], reader: _Reading) -> None:
        outcome = self.outcome
        status = steady(source.status)
        outcome.adds_up(status)
        left = self.accepted(status)
        if source is not last:
            bad = {item.number for item in left if item.mood == "first"}
            gone = bad | outcome.letters("first", self.read_letters(source), bad, self.hits())
            left = [item for item in left if item.number not in gone]
            down = steady(last.status)
            outcome.adds_up(down)
            outcome.expect(down.put == len(left), f"{down.put} items in the second stage, expected {len(left)}")
            outcome.expect(down.state == status.state, f"stages ended as {status.state} and {down.state}")
        bad = {item.number for item in left if item.mood == "last"}
        returned = self.on_error == "return"
        given_up = outcome.letters("last", self.read_letters(last), set() if returned else bad, self.hits())
        due = [items.answer(item) for item in left if item.number not in bad | given_up]
        raised = bad - given_up if returned else set()
        end = steady(last.status).state
        for what, (values, errors, ended) in (("results", self.read_results(last)), ("results read", reader.all())):
            outcome.compare(what, values, due)
            outcome.compare(f"{what}: errors", errors, raised)
            outcome.expect(ended == end.lower(), f"{what}: ended as {ended or 'not at all'}, the queue is {end}")

    def read_letters(self, queue: StatusableQueue[Any]) -> list[Any]:
        return steady(lambda: list(queue.dead_letters()))

    def read_results(self, queue: StatusableQueue[Any]) -> tuple[list[int], list[int], str]:
        """All results, from the start: values, numbers of the items that raised, how it ended."""
        values: list[int] = []
        raised: list[int] = []
        results = steady(lambda: queue.results(timeout=HANG_S))
        while True:
            try:
                values.append(next(results))
            except StopIteration:
                return values, raised, "drained"
            except ProducerLost:
                return values, raised, "incomplete"
            except ValueError as error:
                raised.append(error.args[1])
            except LastcallError as error:
                if type(error).__name__ != "WorkerLost":
                    raise


class Stages(Queue):
    """Two linked queues with a function each."""

    kind = "two stages"
    stages = 2


class Consumers(Queue):
    """A queue that consumers read, in processes that may be killed."""

    kind = "consumers"

    def choose(self) -> None:
        super().choose()
        self.by_token = self.rng.random() < 0.4
        self.items = [[item._replace(mood="", ms=min(item.ms, 40)) for item in own] for own in self.items]
        self.may_kill["consumer"] = 2
        self.consumers: list[Part] = []

    def make(self, job: str, made: list[StatusableQueue[Any]]) -> None:
        expected = None if self.by_token else len(self.items)
        made.append(self.client.queue(job, producers=expected, on_lost=self.on_lost, maxsize=self.maxsize))

    def play(self) -> None:
        self.choose()
        queue, _ = self.set_up()
        self.feed(queue)
        self.consumers = [self._start_consumer(queue) for _ in range(self.rng.randint(2, 4))]

        def done() -> bool:
            fed = self.keep_feeding(queue)
            read = True
            for at, part in enumerate(self.consumers):
                if part.running:
                    read = False
                elif part.killed_at is not None and not steady(queue.status).ended:
                    self.consumers[at] = self._start_consumer(queue)
                    read = False
            return fed and read and steady(queue.status).ended

        self.wait(done, queue)
        self._check(queue)

    def _start_consumer(self, queue: StatusableQueue[Any]) -> Part:
        return self.start("consumer", parts.consume, queue.job, queue.name)

    def _check(self, queue: StatusableQueue[Any]) -> None:
        """Every item is read; of its readers one at most went on behind it. What is promised to a consumer: its items
        come to another only where it was killed, or lost its lease, with them in hand, which is its last chunk.
        """
        outcome, status = self.outcome, steady(queue.status)
        outcome.adds_up(status)
        accepted = {item.number for item in self.accepted(status)}
        given_up = outcome.letters("queue", self.read_letters(queue), set(), self.hits())
        outcome.expect(status.dead == len(given_up), f"{status.dead} dead, {len(given_up)} letters")
        readers: Counter[int] = Counter()  # number -> readings by consumers that lived to mark it as done
        seen: set[int] = set()
        for part in self.parts:
            if part.role != "consumer":
                continue
            self.ended_well(part)
            for reads, lost in _lives(part):
                seen.update(reads)
                open_ended = lost or part.killed_at is not None
                sure = reads[: max(0, len(reads) - self.chunk_items)] if open_ended else reads
                readers.update(sure)
        outcome.compare("items read", seen - given_up, accepted - given_up)
        twice = {number: count for number, count in readers.items() if count > 1}
        if twice:
            outcome.doubled += len(twice)
            outcome.wrong.append(f"read again though they were done: {dict(sorted(twice.items()))}")
        self._measure_ends(status)

    def _measure_ends(self, status: Status) -> None:
        assert self.storm is not None
        assert status.ended_ms is not None
        ended = status.ended_ms / 1000
        found = []
        for part in self.consumers:
            events = [*part.events()]
            reads = [event["at"] for event in events if event["event"] == "got"]
            began = [event["at"] for event in events if event["event"] == "begins"]
            over = [event["at"] for event in events if event["event"] in ("drained", "incomplete")]
            if over and began and began[-1] < ended - 0.1:
                found.append((max(reads, default=0.0), over[0]))
        # The one that read last completed it, and did not wait.
        waited = sorted(found)[:-1]
        for _, over_at in waited:
            quiet = not any(
                fault.kind in (SERVER_KILLED, SERVER_FROZEN, CUT) and fault.began <= over_at
                for fault in self.storm.since(ended - 1.5)
            )
            if quiet:
                self.outcome.ends_ms.append((over_at - ended) * 1000)


def _lives(part: Part) -> Iterable[tuple[list[int], bool]]:
    """What each consumer of a process read, in order, and whether it lost its lease."""
    reads: list[int] = []
    for event in part.events():
        if event["event"] == "got":
            reads.append(event["number"])
        elif event["event"] == "lost":
            yield reads, True
            reads = []
    yield reads, False


class _Reading:
    """A process that reads a queue's results, and the next one, which goes on at its cursor when it was killed."""

    def __init__(self, job: Queue, queue: StatusableQueue[Any]) -> None:
        self._job = job
        self._queue = queue
        self._readers: list[tuple[Part, str]] = []
        self._go_on("")

    def _go_on(self, cursor: str) -> None:
        part = self._job.start("client", parts.read, self._queue.job, self._queue.name, cursor)
        self._readers.append((part, cursor))

    def keep_reading(self) -> bool:
        """True if the reader has come to the end."""
        part, cursor = self._readers[-1]
        if part.running:
            return False
        if part.killed_at is None:
            self._job.ended_well(part)
            return True
        if any(True for _ in part.events("end")):
            return True
        _, cursor = _whole(part, cursor)
        self._go_on(cursor)
        return False

    def all(self) -> tuple[list[int], list[int], str]:
        """What all readers got together: values, numbers of the items that raised, how it ended."""
        events = []
        for part, start in self._readers:
            kept, _ = _whole(part, start)
            events += kept
        last = self._readers[-1][0]
        end = next((event["how"] for event in last.events("end")), "")
        for event in last.events("error"):
            if event["type"] != "WorkerLost":
                end = f"{event['type']}: {event['text']}"
        return (
            [event["value"] for event in events if event["event"] == "value"],
            [event["number"] for event in events if event["event"] == "raised"],
            end,
        )


def _whole(part: Part, start: str) -> tuple[list[dict[str, Any]], str]:
    """What a reader was handed up to where its cursor stands: what it got behind that comes again; and the cursor."""
    kept: list[dict[str, Any]] = []
    pending: list[dict[str, Any]] = []
    cursor = start
    for event in part.events():
        if "cursor" not in event:
            continue
        pending.append(event)
        if event["cursor"] not in (cursor, "0-0"):
            cursor = event["cursor"]
            kept += pending
            pending = []
    return kept, cursor


KINDS: dict[type[Job], int] = {Map: 4, Queue: 3, Stages: 2, Consumers: 3}


def choose(stand: Stand, client: Client, rng: random.Random, number: int) -> Job:
    """A job at random, with a generator of its own."""
    (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
    return kind(stand, client, random.Random(rng.random()), number)
