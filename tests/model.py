"""The ledger as plain Python: what docs/states.md says, without Redis, leases that run out by being told to.

tests/integration/test_ledger_model.py drives it beside the real scripts and compares every reply and everything that
is stored. It has the methods of lastcall.state.ledger.Ledger, and returns and raises what they do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lastcall.errors import LeaseLost, QueueFinished
from lastcall.state.records import (
    Chunk,
    Claim,
    Completion,
    Lease,
    Put,
)

CRASH_LIMIT = 2  # one less than is usual, so that it is reached more often
NOT, JUST, LONG_AGO = 0, 1, 2  # since when a ticket's deadline has passed
LIVE = ("live", "absent")
ENDED = ("DRAINED", "INCOMPLETE", "CANCELLED")

LETTERS: dict[str, bytes] = {}  # the payload of each letter that there was
Item = tuple[str, int]  # the chunk that was put, and the item's number in it


def items_of(chunk: Chunk) -> list[Item]:
    return [(chunk.root, chunk.start + at) for at in range(chunk.items)]


def part(chunk: Chunk, start: int, end: int) -> Chunk:
    """The items from `start` to before `end`, counted in the chunk that was put."""
    if (start, end) == (chunk.start, chunk.start + chunk.items):
        return chunk
    return chunk._replace(id=f"{chunk.root}/{start}:{end}", items=end - start, start=start)


def deaths(chunk: Chunk) -> int:
    return chunk.crashes + chunk.losses


def is_suspect(chunk: Chunk) -> bool:
    """Whether it must run while nothing else of the queue does."""
    return chunk.items == 1 and chunk.losses > 0 and deaths(chunk) >= CRASH_LIMIT - 1


@dataclass
class Options:
    consumed: bool = False  # read by consumers: no function, no tickets of its own
    maxsize: int = 0
    maxbytes: int = 0
    max_workers: int = 0
    on_lost: str = "fail"
    results: str = "keep"
    expected: int = 0


@dataclass
class Producer:
    index: int
    epoch: int
    seq: int = 0
    position: int = 0
    state: str = "live"
    expired: bool = False


@dataclass
class Ticket:
    nonce: str = ""  # of the slot that started it
    hand: list[Chunk] = field(default_factory=list)
    expired: int = NOT


@dataclass
class Queue:
    name: str
    options: Options
    down: Queue | None = None
    epoch: int = 0
    last_index: int = 0
    last_ticket: int = 0
    last_epoch: int = 0

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.epoch += 1
        self.first_index = self.last_index
        self.state = "NEW"
        self.sealed = False  # by hand
        self.ends = 0
        self.producers: dict[str, Producer] = {}
        self.tickets: dict[str, Ticket] = {}
        self.ready: list[Chunk] = []
        self.delayed: dict[str, tuple[Chunk, int]] = {}  # with its place among those due, or 0
        self.put_items: set[Item] = set()
        self.done: set[Item] = set()
        self.dead: set[Item] = set()
        self.cancelled: set[Item] = set()
        self.withdrawn: set[Item] = set()  # of these, what was taken out alone
        self.letters: set[str] = set()
        self.untold: set[Item] = set()  # given up by a script where nobody reads results
        self.results: list[tuple[str, bytes]] = []
        self.acked = 0
        self.unread = 0
        self.busy = 0
        self.failed = 0
        self.alone = ""  # the ticket that runs a suspect

    # What there is

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def chain(self) -> list[Queue]:
        return [self, *(self.down.chain if self.down else ())]

    @property
    def hands(self) -> list[Chunk]:
        return [chunk for ticket in self.tickets.values() for chunk in ticket.hand]

    @property
    def waiting(self) -> list[Chunk]:
        return [chunk for chunk, _ in self.delayed.values()]

    @property
    def chunks(self) -> list[Chunk]:
        return [*self.ready, *self.hands, *self.waiting]

    @property
    def outstanding(self) -> int:
        return count(self.chunks) + self.unread

    @property
    def live(self) -> list[str]:
        return [name for name, producer in self.producers.items() if producer.state in LIVE]

    @property
    def stages(self) -> list[str]:
        return [name for name in self.live if name.startswith("stage:")]

    # Being made

    def create(self, *, reopen: bool) -> tuple[str, int]:
        if not (self.ended and reopen):
            return self.state, self.epoch
        self._check_downstream()
        feeding = {name: self.producers[name] for name in self.stages}
        self._begin()
        self.producers = feeding
        if feeding:
            self.state = "OPEN"
        self.attach()
        return self.state, self.epoch

    def _check_downstream(self) -> None:
        if self.down is None:
            return
        there = self.down.producers.get(f"stage:{self.name}")
        given_up = there is not None and there.state == "lost"
        closed = self.down.ended or self.down.sealed
        if closed or (self.down.state == "SEALED" and not given_up):
            raise QueueFinished(self.down.name, self.down.state)

    def attach(self) -> None:
        """Become a producer of the queue downstream."""
        if self.down is None:
            return
        name = f"stage:{self.name}"
        there = self.down.producers.get(name)
        if there is None:
            self.down.last_index += 1
        index = there.index if there else self.down.last_index
        self.down_index = index
        self.down.producers[name] = Producer(index, self.epoch)
        self.down.state = "OPEN"

    # Producers

    def join(self, name: str) -> Lease:
        there = self.producers.get(name)
        given_up = there is not None and there.state == "lost"
        if self.ended or self.sealed or (self.state == "SEALED" and not given_up):
            raise QueueFinished(self.name, self.state)
        self.last_epoch += 1
        if there is None:
            self.last_index += 1
            there = Producer(self.last_index, 0)
        there = replace(there, epoch=self.last_epoch, state="live", expired=False)
        self.producers[name] = there
        self.state = "OPEN"
        return Lease(there.index, there.epoch, there.seq, there.position, there.index - self.first_index)

    def put(self, name: str, epoch: int, seq: int, sent: Sequence[tuple[int, bytes]], cap: int) -> Put:
        there = self.producers.get(name)
        if there is None:
            raise LeaseLost(self.name, name)
        last = seq + len(sent) - 1
        mine = there.epoch == epoch
        refused: Exception | None = None
        if self.ended or self.sealed:
            refused = QueueFinished(self.name, self.state)
        elif not mine or there.state not in LIVE or seq > there.seq + 1:
            refused = LeaseLost(self.name, name)
        if refused is not None:
            if sent and mine and last <= there.seq:
                return Put(last, -1, [], -1, False)
            raise refused
        processed = len(self.done) + len(self.dead)
        cost = self.busy // processed if processed else -1
        full, accepted = not sent and self._full, 0
        for number, (items, payload) in enumerate(sent, seq):
            if number <= there.seq:
                continue
            outstanding = sum(queue.outstanding for queue in self.chain)
            stored = sum(size(queue.chunks) for queue in self.chain)
            o = self.options
            if (o.maxsize and outstanding + items > o.maxsize) or (
                o.maxbytes and stored and stored + len(payload) > o.maxbytes
            ):
                full = True
                break
            self._append(Chunk(f"{there.index}-{number}", items, 0, payload))
            there.seq = number
            there.position += items
            accepted += 1
        if accepted and there.state == "absent":
            there.state, there.expired = "live", False
        room = -1
        if self.options.maxsize:
            room = self.options.maxsize - sum(queue.outstanding for queue in self.chain)
        return Put(there.seq, room, self._mint(cap) if accepted else [], cost, full)

    @property
    def _full(self) -> bool:
        """Whether it would take nothing at all; what a put of nothing asks for."""
        outstanding = sum(queue.outstanding for queue in self.chain)
        stored = sum(size(queue.chunks) for queue in self.chain)
        o = self.options
        return bool((o.maxsize and outstanding >= o.maxsize) or (o.maxbytes and stored >= o.maxbytes))

    def _append(self, chunk: Chunk) -> None:
        assert not self.put_items & set(items_of(chunk))
        self.put_items |= set(items_of(chunk))
        self.ready.append(chunk)

    def leave(self, name: str, epoch: int, *, lost: bool) -> bool:
        there = self.producers.get(name)
        if there is None or there.epoch != epoch:
            return False
        if lost:
            if there.state == "live":
                self._lose(name)
        elif there.state == "lost":
            return False
        else:
            there.state = "left"
        self._settle()
        return True

    def _lose(self, name: str) -> bool:
        """A producer fell silent or failed. Gives whether that is news."""
        there = self.producers[name]
        if self.sealed:
            there.state = "left"
        elif self.options.on_lost == "wait":
            news = there.state == "live"
            there.state = "absent"
            return news
        else:
            there.state = "lost"
        return True

    def renew(self, tickets: Sequence[str], producers: Sequence[tuple[str, int]]) -> tuple[list[str], list[str]]:
        if self.ended:
            return list(tickets), []
        for ticket in tickets:
            if ticket in self.tickets:
                self.tickets[ticket].expired = NOT
        lost = []
        for name, epoch in producers:
            there = self.producers.get(name)
            if there is None or there.epoch != epoch or there.state == "lost":
                lost.append(name)
            elif there.state in LIVE:
                there.state, there.expired = "live", False
        return [ticket for ticket in tickets if ticket not in self.tickets], lost

    # Ending

    def seal(self) -> str:
        if not self.ended:
            self.state, self.sealed = "SEALED", True
            self._settle()
        return self.state

    def cancel(self) -> str:
        if not self.ended:
            self.cancelled |= {item for chunk in self.chunks for item in items_of(chunk)}
            self._end("CANCELLED")
            if self.down is not None:
                self.down._settle()
        return self.state

    def withdraw(self, ids: Sequence[str]) -> list[str]:
        if self.ended:
            return []
        gone = [chunk for name in ids for chunk in [*self.waiting, *self.ready] if chunk.id == name]
        for chunk in gone:
            if chunk.id in self.delayed:
                del self.delayed[chunk.id]
            else:
                self.ready.remove(chunk)
            self.withdrawn |= set(items_of(chunk))
            self.cancelled |= set(items_of(chunk))
            if self.options.results != "discard":
                self.results.append((chunk.id, b"C%d" % chunk.items))
                self.unread += chunk.items if self.options.results == "once" else 0
        if gone:
            self._settle()
        return [chunk.id for chunk in gone]

    def _settle(self) -> None:
        come = len(self.producers) >= self.options.expected
        if self.state == "OPEN" and not self.live and come:
            self.state = "SEALED"
        if self.state == "SEALED" and not self.stages and not self.chunks:
            lost = any(there.state == "lost" for there in self.producers.values())
            self._end("INCOMPLETE" if lost and self.options.on_lost != "ignore" else "DRAINED")
            if self.down is not None:
                self.down._settle()

    def _end(self, state: str) -> None:
        self.state = state
        self.ends += 1
        self.results.append(("end", state.encode()))
        self.ready, self.delayed, self.tickets, self.alone = [], {}, {}, ""
        stage = self.down.producers.get(f"stage:{self.name}") if self.down else None
        if stage is not None and stage.state in LIVE:
            stage.state = "left" if state == "DRAINED" else "lost"

    # Slots and consumers

    def enroll(self, ticket: str, nonce: str) -> str:
        if self.ended:
            return self.state
        there = self.tickets.setdefault(ticket, Ticket())
        there.nonce = there.nonce or nonce
        there.expired = NOT
        return ""

    def next(
        self, ticket: str, nonce: str, want: int, completions: Sequence[Completion],
        downstream_cap: int, busy_us: int, known: int = 0,
    ) -> Claim:  # fmt: skip
        if self.ended:
            return Claim([], [], [], ended=self.state)
        there = self.tickets.get(ticket)
        if there is None or there.nonce not in ("", nonce):
            return Claim([], [], [], lost=True)
        if not there.nonce:
            there.nonce, there.expired = nonce, NOT
        downstream: list[str] = []
        if self._complete(there, completions, busy_us) and self.down is not None:
            downstream = self.down._mint(downstream_cap)
        if self.alone == ticket and not there.hand:
            self.alone = ""
        known = min(known, len(there.hand))
        if len(there.hand) == known and want:
            self._due()
            there.hand += self._claim(want, beside=known > 0)
            if not known and there.hand and is_suspect(there.hand[0]):
                self.alone = ticket
        if there.hand:
            return Claim(there.hand[known:], downstream, [])
        if not want:
            del self.tickets[ticket]
            self._settle()
            tickets = [] if self.ended else self._mint(len(self.tickets) + 1)
            return Claim([], downstream, tickets)
        self._settle()
        return Claim([], downstream, [], ended=self.state if self.ended else "")

    def _claim(self, want: int, *, beside: bool) -> list[Chunk]:
        if want > 1:
            want = min(want, math.ceil(len(self.ready) / len(self.tickets)))
        claimed: list[Chunk] = []
        if self._closed:
            return claimed
        while self.ready and len(claimed) < want:
            # One whose slot died before goes alone.
            if (claimed or beside) and deaths(self.ready[0]):
                break
            claimed.append(self.ready.pop(0))
            if deaths(claimed[0]):
                break
        return claimed

    @property
    def _closed(self) -> bool:
        """Whether nobody may claim now."""
        return bool(self.alone or (self.hands and self.ready and is_suspect(self.ready[0])))

    def _complete(self, ticket: Ticket, completions: Sequence[Completion], busy_us: int) -> bool:
        """Gives whether there is something new downstream."""
        new, entry, some = False, [], False
        for completion in completions:
            chunk = next((one for one in ticket.hand if one.id == completion.chunk), None)
            if chunk is None:
                continue
            some = True
            ticket.hand.remove(chunk)
            again = {(chunk.root, one.index) for one in completion.again}
            finished = [item for item in items_of(chunk) if item not in again]
            assert len(finished) == completion.done + completion.dead
            self._finish(finished[: completion.done], self.done)
            self._finish(finished[completion.done :], self.dead)
            self.failed += completion.failed
            self.letters |= {name for name, _ in completion.letters}
            LETTERS.update((name, b"letter") for name, _ in completion.letters)
            for one in completion.again:
                retried = Chunk(
                    f"{chunk.root}/{one.index}:{one.index + 1}", 1, one.index, one.payload,
                    one.crashes, one.losses, one.raises,
                )  # fmt: skip
                self.delayed[retried.id] = (retried, 0)
            if completion.outcome:
                entry.append((chunk.id, b"O" + completion.outcome))
                self.unread += len(finished) if self.options.results == "once" else 0
            if self.down is not None and not self.down.ended:
                for output in completion.outputs:
                    self.down._append(Chunk(output.id, output.items, 0, output.payload))
                    new = True
        self.results += entry
        if some:
            self.busy += busy_us
        return new

    def _finish(self, items: Sequence[Item], where: set[Item]) -> None:
        assert not (self.done | self.dead) & set(items)
        where |= set(items)

    def _due(self) -> None:
        due = sorted((place, chunk) for chunk, place in self.delayed.values() if place)
        for _, chunk in due:
            self.ready.append(chunk)
            del self.delayed[chunk.id]

    def release(self, ticket: str, *, crashed: bool, processed: int, cap: int) -> list[str] | None:
        if self.ended or ticket not in self.tickets:
            return None
        self._give_back(ticket, "crash" if crashed else "return", processed)
        self._settle()
        return [] if self.ended else self._mint(cap)

    def overrun(self, ticket: str, chunk: str, item: int, delay_ms: int | None, cap: int) -> list[str] | None:
        hand = self.tickets[ticket].hand if ticket in self.tickets else []
        if self.ended or all(one.id != chunk for one in hand):
            return None
        self._give_back(ticket, "timeout", item, late_chunk=chunk, retry=delay_ms is not None)
        self._settle()
        return [] if self.ended else self._mint(cap)

    def _give_back(self, ticket: str, how: str, at: int = 0, *, late_chunk: str = "", retry: bool = False) -> None:
        hand = self.tickets.pop(ticket).hand
        if self.alone == ticket:
            self.alone = ""
        died = how in ("crash", "lost")
        back: list[Chunk] = []
        for place, held in enumerate(hand):
            start, end = held.start, held.start + held.items
            chunk = held._replace(crashes=held.crashes + (how == "crash"), losses=held.losses + (how == "lost"))
            if how == "return" and place == 0:
                start += min(at, chunk.items)
                self._finish(items_of(chunk)[: start - chunk.start], self.done)
                if start == end:
                    continue
            rest = part(chunk, start, end)
            if how == "timeout" and held.id == late_chunk:
                late = start + at
                back += [part(rest, *span) for span in ((start, late), (late + 1, end)) if span[0] < span[1]]
                item = part(rest, late, late + 1)
                item = item._replace(raises=item.raises + 1)
                if retry:
                    self.delayed[item.id] = (item, 0)
                else:
                    self._give_up(item, b"T%d \t5000" % item.tries)
            elif died and rest.items == 1 and len(hand) == 1 and deaths(rest) >= CRASH_LIMIT:
                self._give_up(rest, b"L%d " % rest.tries + (b"\tits lease ran out" if how == "lost" else b"\t"))
            elif died and rest.items > 1 and deaths(rest) >= 2:
                middle = start + rest.items // 2
                lost = rest.losses > 0
                rest = rest._replace(crashes=int(not lost), losses=int(lost))
                back += [part(rest, start, middle), part(rest, middle, end)]
            else:
                back.append(rest)
        self.ready[:0] = back

    def _give_up(self, item: Chunk, said: bytes) -> None:
        self._finish(items_of(item), self.dead)
        self.letters.add(f"{item.root}#{item.start}")
        LETTERS[f"{item.root}#{item.start}"] = item.payload
        if self.options.results == "discard" or self.options.consumed or self.down is not None:
            self.untold |= set(items_of(item))
        else:
            self.results.append((item.id, said))
            self.unread += self.options.results == "once"

    def revive(self, items: Sequence[str], cap: int) -> tuple[int, list[str]]:
        for queue in self.chain:
            if queue.state == "CANCELLED":
                raise QueueFinished(queue.name, queue.state)
        found = [item for item in dict.fromkeys(items) if item in self.letters]
        if not found:
            return 0, []
        for queue in reversed(self.chain):
            if queue.ended:
                queue._go_on()
        for name in found:
            root, _, number = name.partition("#")
            start = int(number)
            self.letters.discard(name)
            self.dead.discard((root, start))
            self.untold.discard((root, start))
            self.ready.append(Chunk(f"{root}/{start}:{start + 1}", 1, start, LETTERS[name]))
        return len(found), self._mint(cap)

    def _go_on(self) -> None:
        """A new epoch that goes on with what there is."""
        if self.results and self.results[-1][0] == "end" and len(self.results) > self.acked:
            self.results.pop()
        self.epoch += 1
        self.ends = 0
        self.state = "SEALED"
        for name in self.live:
            if not name.startswith("stage:"):
                self.producers[name].state = "left"  # it was shut out by seal()
        if self.down is not None:
            stage = self.down.producers.get(f"stage:{self.name}")
            if stage is None:  # that one was begun anew since
                self.down.last_index += 1
                stage = self.down.producers[f"stage:{self.name}"] = Producer(self.down.last_index, self.epoch)
            stage.state, stage.epoch = "live", self.epoch
            if not self.down.sealed:
                self.down.state = "OPEN"

    def reap(self, cap: int, *, nothing_under_way: bool) -> tuple[list[str], list[str], bool]:
        if self.ended:
            return [], [], True
        silent = sorted(name for name in self.live if self.producers[name].expired)
        lost = [name for name in silent if self._lose(name)]
        again = []
        for _, name in sorted((-ticket.expired, name) for name, ticket in self.tickets.items() if ticket.expired):
            if self.tickets[name].nonce:
                self._give_back(name, "lost")
            elif nothing_under_way:
                del self.tickets[name]
            elif cap:
                again.append(name)
                self.tickets[name].expired = NOT
        self._due()
        self._settle()
        return [] if self.ended else [*self._mint(cap), *again], lost, self.ended

    def _mint(self, cap: int) -> list[str]:
        if self.options.consumed or self._closed:
            return []
        cap = self.options.max_workers or cap
        idle = sum(not ticket.hand for ticket in self.tickets.values())
        lacking = min(len(self.ready) - idle, cap - len(self.tickets))
        minted = []
        for _ in range(lacking):
            self.last_ticket += 1
            minted.append(str(self.last_ticket))
            self.tickets[minted[-1]] = Ticket()
        return minted

    def ack(self, entries: int, items: int) -> None:
        """Results up to the one with this number were read."""
        if entries <= self.acked:
            return
        self.acked = entries
        if self.options.results == "once":
            self.unread -= min(self.unread, items)

    # All of it, to be compared with what is stored

    def picture(self) -> dict[str, Any]:
        ended = self.ended
        return {
            "state": self.state,
            "epoch": self.epoch,
            "counters": {
                "put": len(self.put_items),
                "ready": count(self.ready),
                "leased": count(self.hands),
                "delayed": count(self.waiting),
                "done": len(self.done),
                "dead": len(self.dead),
                "cancelled": len(self.cancelled),
                "unread": self.unread,
                "bytes": size(self.chunks),
                "holding": sum(bool(ticket.hand) for ticket in self.tickets.values()),
                "live": len(self.live),
                "stages": len(self.stages),
                "come": len(self.producers),
                "lost": sum(there.state == "lost" for there in self.producers.values()),
                "busy": self.busy,
                "failed": self.failed,
                "suspects": sum(is_suspect(chunk) for chunk in self.ready),
            },
            "alone": self.alone,
            "ready": self.ready,
            "delayed": {chunk.id: chunk for chunk in self.waiting},
            "tickets": set(self.tickets),
            "hands": {name: (ticket.nonce, ticket.hand) for name, ticket in self.tickets.items() if ticket.nonce},
            "chunks": {chunk.id for chunk in self.chunks},
            "producers": {
                name: (there.index, there.epoch, there.seq, there.position, there.state)
                for name, there in self.producers.items()
            },
            "leases": set() if ended else {n for n in self.live if not n.startswith("stage:")},
            "letters": self.letters,
            "results": self.results[self.acked if self.options.results == "once" else 0 :],
        }


def count(chunks: Sequence[Chunk]) -> int:
    return sum(chunk.items for chunk in chunks)


def size(chunks: Sequence[Chunk]) -> int:
    return sum(len(chunk.payload) for chunk in chunks)
