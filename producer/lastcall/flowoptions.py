"""FlowOptions: what a flow's queue has that others have not: order, gathers, barriers, rates, many outputs an item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from lastcall.checks import positive, seconds
from lastcall.errors import ConfigError

MANY: Final = "many"  # style of a queue whose function gives, for an item, an iterable of outputs
BATCH: Final = "batch"  # kinds of queues that gather items
REDUCE: Final = "reduce"


@dataclass(frozen=True, slots=True)
class FlowOptions:
    """Options of one queue of a flow, for queue.make().

    paths: what its one producer puts is numbered, so that those downstream can keep its order.
    gated: what comes from the stage upstream becomes ready in the source's order.
    ordered: its results (those of the last queue) appear in the source's order; what came early waits, as unread.
    barrier: nothing is run before all of it is there.
    many: the function gives an iterable of outputs for an item.
    fold: a function of two, by which the outputs of each chunk become one.
    batch: it has no function; its outputs are lists of so many items, the last one shorter. batch_timeout_s: seconds
    after which a shorter one goes, too.
    reduce: its function is one of two arguments, by which all items of it become one.
    rate: items a second, in the whole cluster.
    head: the flow's first queue, "" for none: slots of its queues move from one to the other.
    """

    paths: bool = False
    gated: bool = False
    ordered: bool = False
    barrier: bool = False
    many: bool = False
    fold: Callable[[Any, Any], Any] | None = None
    batch: int | None = None
    batch_timeout_s: float | None = None
    reduce: bool = False
    rate: float | None = None
    head: str = ""

    def __post_init__(self) -> None:
        if self.batch is not None:
            positive("batch", self.batch)
        for name, value in (("batch_timeout_s", self.batch_timeout_s), ("rate", self.rate)):
            if value is not None:
                seconds(name, value)
        if self.reduce and self.batch is not None:
            raise ConfigError("reduce", "given without batch", f"batch={self.batch}")
        if self.fold is not None and not self.many:
            raise ConfigError("fold", "given with many", "many=False")
        if self.gather and self.many:
            raise ConfigError("many", f"given without {self.gather.partition(':')[0]}", "both")

    @property
    def gather(self) -> str:
        """How the ledger keeps it: "", "batch:<items>:<ms or 0>" or "reduce"."""
        if self.batch is not None:
            return f"{BATCH}:{self.batch}:{int((self.batch_timeout_s or 0) * 1000)}"
        return REDUCE if self.reduce else ""

    @property
    def stored(self) -> dict[str, Any]:
        """Fields of the ledger's Spec."""
        return {
            "flow": 1,
            "paths": int(self.paths),
            "gated": int(self.gated),
            "ordered": int(self.ordered),
            "barrier": int(self.barrier),
            "gather": self.gather,
            "rate": repr(float(self.rate)) if self.rate is not None else "0",
            "head": self.head,
        }
