"""What is compared after a job: what came of each item with what should have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from lastcall.errors import WorkerLost
from lastcall.letters import DeadLetter
from lastcall.state.records import Status


@dataclass
class Outcome:
    """How a job fared. lost, doubled: items whose result did not come, came twice; given_up: items that were reported
    as dead because processes died with them; notes: what is no violation and not to be passed over; wrong: violations.
    """

    kind: str
    job: str
    items: int = 0
    lost: int = 0
    doubled: int = 0
    given_up: int = 0
    hung: bool = False
    took_s: float = 0.0
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    ends_ms: list[float] = field(default_factory=list)  # from a queue's end until a consumer that waited had ended

    @property
    def bad(self) -> bool:
        return bool(self.lost or self.doubled or self.hung or self.wrong)

    def expect(self, condition: bool, said: str) -> None:
        if not condition:
            self.wrong.append(said)

    def compare(self, what: str, got: Iterable[Hashable], expected: Iterable[Hashable]) -> None:
        """Each value as often as expected. Fewer: lost; more: doubled."""
        there, due = Counter(got), Counter(expected)
        lost, doubled = due - there, there - due
        if lost:
            self.lost += lost.total()
            self.wrong.append(f"{what}: {lost.total()} missing, such as {sorted(map(repr, lost))[:5]}")
        if doubled:
            self.doubled += doubled.total()
            self.wrong.append(f"{what}: {doubled.total()} too many, such as {sorted(map(repr, doubled))[:5]}")

    def adds_up(self, status: Status) -> None:
        """Every item of a queue that has ended is in one of the ends."""
        said = f"{status.name}: {status}"
        self.expect(status.put == status.done + status.dead + status.cancelled, f"does not add up: {said}")
        self.expect(status.ready == status.leased == status.delayed == 0, f"work is left after the end: {said}")
        if status.state != "CANCELLED":  # that ends it whoever is there
            self.expect(status.live == 0, f"a producer is live after the end: {said}")

    def letters(self, queue: str, letters: Iterable[DeadLetter], raising: set[int], hits: int) -> set[int]:
        """Dead letters are those of the items that raise, and of those given up. Gives the numbers of the latter.

        hits: faults that may have cost a slot, in the job's life; it takes three.
        """
        raised: list[int] = []
        given_up: list[int] = []
        for letter in letters:
            number = letter.value[1]
            if isinstance(letter.error, WorkerLost):
                given_up.append(number)
                self.expect(letter.attempts >= 3, f"{queue}: item {number} given up after {letter.attempts} tries")
            else:
                raised.append(number)
                self.expect(
                    isinstance(letter.error, ValueError) and letter.error.args[1] == number,
                    f"{queue}: the letter of item {number} has the error {letter.error!r}",
                )
        self.compare(f"{queue}: dead letters", raised, raising - set(given_up))
        self.expect(len(given_up) == len(set(given_up)), f"{queue}: given up twice: {sorted(given_up)}")
        self.expect(not given_up or hits >= 3, f"{queue}: {given_up} given up after {hits} faults")
        self.given_up += len(given_up)
        return set(given_up)
