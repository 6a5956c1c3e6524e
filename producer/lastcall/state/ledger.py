"""One queue's ledger: each method is one transition, one script, one round trip.

What a queue is made with is a `Spec`; what it is at a moment, a `Status`. Chunks go in by `put`, are claimed and
completed by `next`, and come back by `release` or, when their ticket falls silent, by `reap`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from lastcall.errors import LeaseLost, QueueFinished, QueueMismatch, UnknownJob
from lastcall.state import keys
from lastcall.state.records import (
    ENDED,
    FIELDS,
    MADE,
    Chunk,
    Claim,
    Completion,
    Emitted,
    Lease,
    Minted,
    Output,
    ProducerStatus,
    Put,
    Spec,
    Status,
    address,
    shown,
)
from lastcall.state.scripts import Code, script

if TYPE_CHECKING:
    from redis import Redis


class Ledger:
    """A queue in Redis. `names` are the queue and all that lie downstream of it."""

    __slots__ = ("_keys", "_own", "_unsent", "job", "name", "names", "redis")

    def __init__(self, redis: Redis, job: str, names: Sequence[str]) -> None:
        self.redis = redis
        self.job = job
        self.name = names[0]
        self.names = tuple(names)
        self._keys = [key.encode() for key in keys.chain(job, names)]
        self._own = self._keys[: len(keys.PARTS)]
        self._unsent: list[Minted] = []

    @classmethod
    def open(cls, redis: Redis, job: str, name: str) -> Ledger:
        """The ledger of a queue that exists, with its chain downstream. Raises UnknownJob.

        A queue downstream that has expired, since it ended long ago, and those behind it are left out.
        """
        names = [name]
        while True:
            down: Any = redis.hget(keys.of_queue(job, names[-1], "meta"), "down")
            if down is None:
                names.pop()
            if not names:
                raise UnknownJob(shown(job, name))
            if not down:
                return cls(redis, job, names)
            names.append(down.decode())

    def names_of_job(self) -> list[str]:
        """The queues of its job, in no order; none if it has expired."""
        fields: Any = self.redis.hkeys(keys.of_job(self.job, "job"))
        return [f.decode().removeprefix("queue:") for f in fields if f.startswith(b"queue:")]

    def other(self, name: str) -> Ledger:
        """Another queue of its job, to be named."""
        return Ledger(self.redis, self.job, [name])

    @property
    def address(self) -> str:
        return address(self.job, self.name)

    @property
    def shown(self) -> str:
        return shown(self.job, self.name)

    @property
    def results_key(self) -> bytes:
        return self._own[keys.PARTS.index("results")]

    @property
    def bell_key(self) -> bytes:
        return self._own[keys.PARTS.index("bell")]

    @property
    def room_key(self) -> bytes:
        return self._own[keys.PARTS.index("room")]

    def meta(self, *, announced: str | None = None) -> dict[str, bytes]:
        """The queue's options and counters as they are stored; empty if there is no such queue.

        announced: the Celery queue that serves it; from now on reapers look after the queue.
        """
        stored: Any
        if announced is None:
            stored = self.redis.hgetall(self._own[0])
        else:
            pipeline = self.redis.pipeline(transaction=False)
            pipeline.hset(keys.QUEUES, self.address, announced)
            pipeline.hgetall(self._own[0])
            _, stored = pipeline.execute()
        return {name.decode(): value for name, value in stored.items()}

    def is_as_made(self, made: Sequence[bytes]) -> bool:
        """Whether MADE of the queue is still that, and no queue downstream has expired."""
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.hmget(self._own[0], MADE)
        others = self._keys[len(self._own) :: len(self._own)]
        if others:
            pipeline.exists(*others)
        stored, *left = pipeline.execute()
        return stored == list(made) and left == [len(others)][: len(left)]

    def ends(self) -> dict[str, bytes]:
        """What is to be told of ends of this queue: field of the job's hash -> JSON, as `_settle.lua` writes it."""
        job_key = self._own[keys.PARTS.index("job")]
        if not self.redis.hexists(job_key, "tells"):
            return {}
        stored: Any = self.redis.hgetall(job_key)
        prefix = f"tell:{self.name}:"
        fields = {field.decode(): value for field, value in stored.items()}
        return {
            field: value for field, value in fields.items()
            if field.startswith(prefix) and field.removeprefix(prefix).isdecimal()
        }  # fmt: skip

    def told(self, field: str) -> None:
        """One of those was handed over."""
        self.redis.hdel(self._own[keys.PARTS.index("job")], field)

    def counts(self, *fields: str) -> list[int]:
        """Some of its counters. Raises UnknownJob."""
        stored: Any = self.redis.hmget(self._own[0], ["epoch", *fields])
        if stored[0] is None:
            raise UnknownJob(self.shown)
        return [int(value or 0) for value in stored[1:]]

    def celery_queue(self) -> str:
        """What its tickets travel through; "" if consumers read it, or there is no such queue."""
        stored: Any = self.redis.hget(self._own[0], "celery")
        return (stored or b"").decode()

    def create(
        self,
        spec: Spec,
        *,
        defaults: Mapping[str, Any] | None = None,
        issue_ms: int = 5_000,
        slots: int = 0,
    ) -> tuple[str, int]:
        """Make the queue, or check that it is as `spec` says. Gives its state and epoch.

        defaults: for a new queue, instead of the general ones, by their names in the ledger.
        issue_ms: how long a ticket may be under way before it may be thought lost. slots: that there are for a flow's.
        Raises QueueMismatch, UnknownJob (no queue downstream), QueueFinished (downstream).
        """
        fixed: list[Any] = []
        others: list[Any] = ["name", self.name, "issue", issue_ms]
        for option, (stored, default) in FIELDS.items():
            value = getattr(spec, option)
            if value is not None:
                fixed += [stored, value]
            elif default is not None:
                others += [stored, (defaults or {}).get(stored, default)]
        if spec.down:
            fixed += ["down", spec.down]
        if spec.flow:
            others += ["slots", slots]
            if spec.barrier or spec.gather or float(spec.rate or 0):
                others += ["rule", 1]  # for when its chunks may be claimed
        reply = script("create")(
            self.redis, self._keys, "reopen" if spec.reopen else "", spec.down,
            len(fixed) // 2, *fixed, *others,
        )  # fmt: skip
        if reply[0] == Code.MISMATCH:
            option, there, asked = (_text(part) for part in reply[1:])
            raise QueueMismatch(self.shown, option, there, asked)
        if reply[0] == Code.UNKNOWN:
            raise UnknownJob(shown(self.job, spec.down))
        if reply[0] == Code.ENDED:
            raise QueueFinished(shown(self.job, spec.down), _text(reply[1]))
        return _text(reply[1]), int(reply[2])

    def join(self, producer: str, *, lease_ms: int = 0) -> Lease:
        """Take out a producer's lease. lease_ms: 0 for the queue's own. Raises QueueFinished."""
        reply = script("join")(self.redis, self._own, producer, lease_ms)
        if reply[0] != Code.OK:
            self._refuse(reply)
        return Lease(*reply[1:6])

    def put(self, producer: str, epoch: int, seq: int, chunks: Iterable[tuple[int, bytes]], cap: int) -> Put:
        """Append chunks (items, at least one; payload), the first of which has the number `seq`.

        cap: on the tickets that this may bring about. Raises QueueFinished; LeaseLost, also where chunks are missing
        before the first: two put under one lease, or the server has lost what it had accepted.
        """
        flat: list[Any] = []
        for chunk in chunks:
            flat += chunk
        reply = script("put")(self.redis, self._keys, producer, epoch, seq, cap, *flat)
        if reply[0] == Code.LOST:
            raise LeaseLost(self.shown, producer)
        if reply[0] not in (Code.OK, Code.FULL):
            self._refuse(reply)
        return Put(reply[1], reply[2], _texts(reply[3]), reply[4], reply[0] == Code.FULL)

    def leave(self, producer: str, epoch: int, *, lost: bool = False) -> bool:
        """Give back a producer's lease; False if it held none any more."""
        reply = script("leave")(self.redis, self._keys, producer, epoch, "lost" if lost else "left")
        if reply[0] != Code.OK:
            return False
        self._unsent += self._minted(reply[2])
        return True

    def seal(self) -> str:
        """No more is put, whoever is still there. Gives the state."""
        return self._end("seal")

    def cancel(self) -> str:
        """Drop what is ready and refuse what is being done. Gives the state."""
        return self._end("cancel")

    def withdraw(self, chunks: Sequence[str]) -> list[str]:
        """Take out those of these chunks that no ticket holds. Gives their ids: they count as cancelled.

        Of those that are ready name the last one first. Whoever reads the results is told, too. A reply that was lost
        cannot be asked for again: what was taken out before is passed over. Raises UnknownJob.
        """
        reply = script("withdraw")(self.redis, self._keys, *chunks)
        if reply[0] == Code.UNKNOWN:
            self._refuse(reply)
        return _texts(reply[1]) if reply[0] == Code.OK else []

    def put_aside(self, digest: bytes, data: memoryview) -> None:
        """Keep a large part of an argument with the job. Raises UnknownJob."""
        script("aside").load(self.redis)
        reply = script("aside")(self.redis, self._own, digest.hex(), data)
        if reply[0] != Code.OK:
            self._refuse(reply)

    def has_aside(self, digest: bytes) -> bool:
        return bool(self.redis.hexists(keys.of_job(self.job, "job"), keys.aside(digest)))

    def aside(self, digest: bytes) -> bytes | None:
        """What lies aside under this digest; whether it is genuine is for the caller to find out."""
        data: Any = self.redis.hget(keys.of_job(self.job, "job"), keys.aside(digest))
        return data  # type: ignore[no-any-return]

    def drop_aside(self, digests: Sequence[bytes]) -> None:
        """Keep these no longer."""
        if digests:
            self.redis.hdel(keys.of_job(self.job, "job"), *(keys.aside(digest) for digest in digests))

    def _end(self, how: str) -> str:
        reply = script("seal")(self.redis, self._keys, how)
        if reply[0] == Code.UNKNOWN:
            self._refuse(reply)
        if reply[0] == Code.OK:
            self._unsent += self._minted(reply[2])
        return _text(reply[1])

    def enroll(self, ticket: str, nonce: str, lease_ms: int) -> str:
        """Take out a consumer's ticket. Gives "" or, if the queue has ended, its state."""
        reply = script("enroll")(self.redis, self._own, ticket, nonce, lease_ms)
        if reply[0] == Code.ENDED:
            return _text(reply[1])
        if reply[0] != Code.OK:
            self._refuse(reply)
        return ""

    def next(
        self, ticket: str, nonce: str, lease_ms: int, want: int, *,
        completions: Sequence[Completion] = (), waited: bool = False, stay: bool = False,
        downstream_cap: int = 0, busy_us: int = 0, known: int = 0, most_items: int = 0, wait_s: float = 0.0,
    ) -> Claim:  # fmt: skip
        """Complete the chunks in hand and claim up to `want` others; 0 gives the ticket back, -1 claims the newest, -2
        the one for which those at the next gate wait.

        most_items: after the first chunk, no more than so many items; 0 for any number.
        wait_s: waits at the bell before, for so long at most. waited: the slot waited there itself since it asked last.
        stay: with 0, keep the ticket.
        busy_us: what the completions took together.
        known: chunks that stay in hand, being run: they are not given again, and others may be claimed beside them.
        """
        args: list[Any] = []
        for completion in completions:
            args += completion.args()
        how = "stay" if stay else "1" if waited or wait_s else ""
        ask = (
            ticket, nonce, lease_ms, f"{want}:{most_items}" if most_items else want, how,
            downstream_cap, busy_us, len(completions), *args, known,
        )  # fmt: skip
        rang = False
        if wait_s:
            rang, reply = script("next").after_bell(self.redis, self.bell_key, wait_s, self._keys, *ask)
        else:
            reply = script("next")(self.redis, self._keys, *ask)
        code = reply[0]
        if code == Code.OK or code == Code.NOTHING:
            flat = reply[1]
            chunks = [Chunk.stored(flat[at].decode(), flat[at + 1]) for at in range(0, len(flat), 2)]
            claim = Claim(chunks, _texts(reply[2]), _texts(reply[3]), rang=rang)
            if len(reply) == 4:
                return claim
            position, last, wait_ms, further, *called = reply[4]
            return claim._replace(
                position=position, last=last == 1, wait_ms=wait_ms, further=self._minted(further), called=called == [1]
            )
        if code == Code.ENDED:
            further = self._minted(reply[3][3]) if len(reply) > 3 else ()
            return Claim([], _texts(reply[2]), [], ended=_text(reply[1]), further=further)
        return Claim([], [], [], lost=True)

    def emit(
        self, ticket: str, nonce: str, chunk: Chunk, item: int, outputs: Sequence[Output], *,
        parts: int, skip: int, way: str, completions: Sequence[Completion] = (), busy_us: int = 0,
        cap: int = 0, downstream_cap: int = 0, force: bool = False,
    ) -> Emitted:  # fmt: skip
        """Send outputs of the item with this number, in the chunk that was put, before it is done.

        What of its chunk was done before is complete by `completions`, under the id "root/first:item", as are chunks
        that were in hand before it; what is behind it is ready again. The item is a chunk of its own from then on:
        part_of(chunk, item).
        parts, skip: chunks of outputs that were emitted before these; outputs that are emitted with these.
        way: NEXT or SHOWN. force: whether there is room or not. cap: on this queue's tickets.
        """
        args: list[Any] = []
        for completion in completions:
            args += completion.args()
        args.append(len(outputs))
        for output in outputs:
            args += output
        reply = script("emit")(
            self.redis, self._keys, ticket, nonce, chunk.id, item, parts, skip, way, downstream_cap, cap,
            1 if force else 0, busy_us, len(completions), *args,
        )  # fmt: skip
        if reply[0] not in (Code.OK, Code.FULL):
            return Emitted(lost=True)
        return Emitted(
            reply[0] == Code.FULL, False, _texts(reply[2]), _texts(reply[3]), self._minted(reply[4][3])
        )  # fmt: skip

    def _minted(self, flat: Sequence[Any]) -> list[Minted]:
        return [Minted(self.names[flat[at] - 1], _texts(flat[at + 1])) for at in range(0, len(flat), 2)]

    def take_minted(self) -> list[Minted]:
        """The tickets that leave(), seal() and cancel() have brought about since this was asked last."""
        minted, self._unsent = self._unsent, []
        return minted

    def release(
        self, ticket: str, *, crashed: bool = False, processed: int = 0, cap: int = 0, worker: str = "", why: str = ""
    ) -> list[str] | None:
        """End a ticket and give back what it held. Gives the tickets that are to be sent; None if it is not valid.

        processed: items of its first chunk that are done. worker, why: said of an item that is given up for it.
        """
        how = "crash" if crashed else "return"
        reply = script("release")(self.redis, self._keys, ticket, how, processed, cap, f"{worker}\t{why}")
        return _texts(reply[2]) if reply[0] == Code.OK else None

    def move(self, name: str, ticket: str, nonce: str, new: str, lease_ms: int) -> str | None:
        """Have a slot that finds nothing in a queue of this flow go on, with a ticket of this name, in another one.

        For the ledger of the flow's first queue. Gives the other queue's name, "" if none has need of the slot, None if
        its ticket is not valid.
        """
        at = self.names.index(name) + 1
        reply = script("move")(self.redis, self._keys, at, ticket, nonce, new, lease_ms)
        if reply[0] == Code.NOTHING:
            return ""
        return self.names[reply[1] - 1] if reply[0] == Code.OK else None

    def issue(self) -> Sequence[Minted]:
        """Issue the tickets that the flow's queues lack. For the ledger of the flow's first queue."""
        return self._minted(script("issue")(self.redis, self._keys)[1])

    def overrun(
        self,
        ticket: str,
        chunk: str,
        item: int,
        delay_ms: int | None,
        timeout_ms: int,
        *,
        cap: int = 0,
        worker: str = "",
    ) -> list[str] | None:
        """End a ticket whose item (counted in that chunk of its hand, from 0) runs for longer than `timeout_ms`.

        delay_ms: until that is tried again; None to give it up. Gives the tickets that are to be sent; None if the
        ticket does not hold that chunk any more, where nothing is done.
        """
        delay = -1 if delay_ms is None else delay_ms
        reply = script("overrun")(self.redis, self._keys, ticket, chunk, item, delay, f"{worker}\t{timeout_ms}", cap)
        return _texts(reply[1]) if reply[0] == Code.OK else None

    def revive(self, items: Sequence[str], cap: int) -> tuple[int, list[str]]:
        """Run dead letters again, in a new epoch if the queue has ended. Gives how many, and the tickets to send.

        Raises QueueFinished if it was cancelled, or one downstream of it was; UnknownJob if one has expired.
        """
        reply = script("revive")(self.redis, self._keys, cap, *items)
        if reply[0] == Code.ENDED:
            raise QueueFinished(shown(self.job, self.names[reply[2] - 1]), _text(reply[1]))
        if reply[0] == Code.UNKNOWN:
            raise UnknownJob(shown(self.job, self.names[reply[1] - 1]))
        return reply[1], _texts(reply[2])

    def reopen(self) -> tuple[str, int]:
        """Begin a new epoch, with the options of the last, if the queue has ended. Gives its state and epoch.

        Raises UnknownJob, QueueFinished (downstream).
        """
        meta = self.meta()
        if not meta:
            raise UnknownJob(self.shown)
        told = {option: meta.get(stored) for option, (stored, _) in FIELDS.items() if option != "founder"}
        return self.create(Spec(**told, down=meta["down"].decode(), reopen=True), issue_ms=int(meta["issue"]))  # type: ignore[arg-type]

    def renew(
        self, lease_ms: int, tickets: Sequence[str], producers: Sequence[tuple[str, int]] = ()
    ) -> tuple[list[str], list[str]]:
        """Put off deadlines of tickets and of producers (name, epoch).

        Gives the tickets that are not valid any more and the producers whose lease was lost.
        """
        flat = [part for producer in producers for part in producer]
        reply = script("renew")(self.redis, self._own, lease_ms, len(tickets), *tickets, *flat)
        if reply[0] != Code.OK:
            return list(tickets), []
        return _texts(reply[1]), _texts(reply[2])

    def reap(self, cap: int, *, nothing_under_way: bool) -> tuple[list[str], list[str], bool]:
        """Find what fell silent. Gives tickets to send, producers lost, whether the queue has ended.

        nothing_under_way: no message waits in the Celery queue, so that a ticket which has not started within its time
        is lost; else it may be, and is sent again.
        """
        reply = script("reap")(self.redis, self._keys, cap, "1" if nothing_under_way else "")
        if reply[0] != Code.OK:
            return [], [], True
        return _texts(reply[1]), _texts(reply[2]), _text(reply[4]) in ENDED

    def ack(self, entry: str, items: int) -> None:
        """Results up to this stream entry were read; with results="once" they are removed."""
        script("ack")(self.redis, self._own, entry, items)

    def status(self) -> Status:
        """One moment's picture. Raises UnknownJob."""
        reply = script("status")(self.redis, self._own)
        if reply[0] != Code.OK:
            self._refuse(reply)
        now, flat, records = int(reply[1]), reply[2], reply[3]
        meta = {_text(flat[at]): flat[at + 1] for at in range(0, len(flat), 2)}
        lease = int(meta["lease"])
        producers = []
        for at in range(0, len(records), 3):
            name, record, deadline = (_text(part) for part in records[at : at + 3])
            _, epoch, _, position, state = record.split(" ")
            # A lease that ran out was last renewed a lease before; one that is gone is not timed.
            silent = (now - float(deadline) + lease) / 1000 if deadline else lease / 1000
            producers.append(ProducerStatus(name, state, int(epoch), int(position), max(0.0, silent)))
        counters = {
            name: int(meta[name])
            for name in ("epoch", "put", "ready", "leased", "delayed", "done", "dead", "cancelled",
                         "unread", "live", "expected", "maxsize")
        }  # fmt: skip
        ended = meta.get("ended")
        return Status(
            job=self.job, name=self.name, state=_text(meta["state"]), **counters,
            function=_text(meta["identity"]), workers=_text(meta["celery"]),
            tickets=reply[4], started=reply[5], chunks_ready=reply[6],
            created_ms=int(meta["created"]), ended_ms=int(ended) if ended else None,
            producers=tuple(producers), failed=int(meta.get("failed", 0)),
        )  # fmt: skip

    def _refuse(self, reply: list[Any]) -> NoReturn:
        if reply[0] == Code.ENDED:
            raise QueueFinished(self.shown, _text(reply[1]))
        raise UnknownJob(self.shown)


def queues_of(redis: Redis, job: str) -> list[str]:
    """The names of a job's queues, in no order. Raises UnknownJob."""
    names = Ledger(redis, job, [job]).names_of_job()
    if not names:
        raise UnknownJob(job)
    return names


def jobs(redis: Redis) -> Iterator[str]:
    """All jobs that have not expired, in no order; goes through every key of the server, in steps."""
    suffix = keys.of_job("", "job").partition("{}")[2]
    for key in redis.scan_iter(match=keys.of_job("*", "job"), count=1000):
        yield key.decode().partition("{")[2].removesuffix("}" + suffix)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _texts(values: Iterable[Any]) -> list[str]:
    return [_text(value) for value in values]
