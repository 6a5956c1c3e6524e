"""Queues of flows on real workers: order, gathers, rates, generators that emit; and processes that die."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastcall import Client, StatusableQueue, errors
from lastcall.flowoptions import FlowOptions
from lastcall.outcome import unpack_error
from lastcall.policy import told
from lastcall.queue import make
from lastcall.results import Reader
from tests.conftest import Cluster
from tests.flow_functions import (
    FailsFirst,
    JoinDiesFirst,
    ManyDieFirst,
    ManyFailFirst,
    SlowMany,
    Times,
    add,
    count,
    double,
    fail_at_three,
    join,
    odd,
    repeat,
    text,
)
from tests.workers import Worker

pytestmark = pytest.mark.integration

Stage = tuple[Any, FlowOptions, dict[str, Any]]


def stage(function: Any, flow: FlowOptions | None = None, **options: Any) -> Stage:
    return function, flow or FlowOptions(), options


class Flow:
    """Queues one into another, the last one's results in order."""

    def __init__(self, client: Client, job: str, *stages: Stage, window: int = 0, on_error: str = "dead") -> None:
        self.connection = client._open()
        self.queues: list[StatusableQueue[Any]] = []
        into = None
        for at, (function, flow, options) in reversed(list(enumerate(stages))):
            kept = {field: getattr(flow, field) for field in FlowOptions.__dataclass_fields__}
            if at == 0:
                kept["paths"] = True
            if len(stages) > 1:
                kept["head"] = "s0"
            if flow.gather:
                kept["gated"] = True
            if at == len(stages) - 1:
                kept["ordered"] = True
            policy = told(**options.pop("policy", {}))
            into = make(
                self.connection, job, f"s{at}", function=function, into=into, flow=FlowOptions(**kept),
                maxsize=window, results="once", on_error=on_error, policy=policy, workers=options.pop("workers", "cpu"),
                **options,
            )  # fmt: skip
            self.queues.insert(0, into)

    def feed(self, items: Any, size: int = 8) -> None:
        with self.queues[0].producer("feeder", chunk_items=size) as producer:
            producer.put_many(items)

    def outcomes(self) -> Iterator[Any]:
        """Values and errors, each with the item that it came of."""
        last = self.queues[-1]
        reader = Reader(self.connection, last._ledger, once=True)
        with contextlib.closing(reader.entries(60)) as entries:
            for together in entries:
                for entry in together:
                    assert entry.error is None
                    outcome = entry.outcome
                    origins = outcome.origins or [None] * len(outcome.values)
                    for at, (value, origin) in enumerate(zip(outcome.values, origins, strict=True)):
                        failed = unpack_error(outcome.errors[at], True) if at in outcome.errors else None
                        yield (failed or value), origin
                reader.passed(together)

    def values(self) -> list[Any]:
        return [value for value, _ in self.outcomes()]


def test_one_to_one_stages_keep_order_and_origins(client: Client, name: str) -> None:
    flow = Flow(client, name, stage(double), stage(double, workers="io"), stage(text))
    flow.feed(range(200))
    assert list(flow.outcomes()) == [(f"{4 * n};", n) for n in range(200)]


def test_filters_and_flat_maps_keep_order_and_origins(client: Client, name: str) -> None:
    flow = Flow(
        client, name, stage(odd, FlowOptions(many=True)), stage(repeat, FlowOptions(many=True), workers="io"),
        stage(double),
    )  # fmt: skip
    flow.feed(range(300))
    assert list(flow.outcomes()) == [(2 * n, n) for n in range(300) for _ in range(n % 4 if n % 2 else 0)]


def test_batches_are_of_the_sources_order_and_size(client: Client, name: str) -> None:
    flow = Flow(client, name, stage(double), stage(None, FlowOptions(batch=7)), stage(sum))
    flow.feed(range(100), 5)
    batches = [tuple(range(at, min(at + 7, 100))) for at in range(0, 100, 7)]
    assert list(flow.outcomes()) == [(2 * sum(batch), batch) for batch in batches]


def test_a_batch_does_not_wait_for_ever(client: Client, name: str) -> None:
    flow = Flow(client, name, stage(double), stage(None, FlowOptions(batch=100, batch_timeout_s=0.3)))
    with flow.queues[0].producer("feeder") as producer:
        producer.put(1)
        producer.flush()
        assert next(flow.outcomes()) == ([2], (0,))


def test_a_reduction_is_of_the_sources_order(client: Client, name: str) -> None:
    flow = Flow(client, name, stage(text), stage(join, FlowOptions(reduce=True)), stage(str.upper))
    flow.feed(range(200), 3)
    assert flow.values() == ["".join(f"{n};" for n in range(200))]


def test_chunks_are_folded_where_they_are_made(client: Client, name: str, tmp_path: Path) -> None:
    folding = FlowOptions(many=True, fold=add)
    flow = Flow(
        client, name, stage(FailsFirst(tmp_path), policy={"retries": 1, "backoff_s": 0.01}),
        stage(repeat, folding), stage(add, FlowOptions(reduce=True)),
    )  # fmt: skip
    flow.feed(range(100), 10)
    assert flow.values() == [sum(n * (n % 4) for n in range(100))]


def test_a_barrier_holds_until_the_stage_before_is_done(client: Client, name: str) -> None:
    flow = Flow(client, name, stage(double), stage(double, FlowOptions(barrier=True)))
    with flow.queues[0].producer("feeder") as producer:
        producer.put_many(range(50))
        producer.flush()
        assert flow.queues[1].status().done == 0
    assert flow.values() == [4 * n for n in range(50)]


def test_retried_items_come_in_their_place(client: Client, name: str, tmp_path: Path) -> None:
    retrying = {"retries": 2, "backoff_s": 0.01}
    flow = Flow(client, name, stage(FailsFirst(tmp_path), policy=retrying), stage(text, workers="io"))
    flow.feed(range(60), 10)
    assert list(flow.outcomes()) == [(f"{n};", n) for n in range(60)]


def test_errors_of_an_inner_stage_come_in_their_place(client: Client, name: str) -> None:
    flow = Flow(client, name, stage(fail_at_three), stage(double), on_error="return")
    flow.feed(range(40), 10)
    for n, (value, origin) in enumerate(flow.outcomes()):
        assert origin == n
        assert str(value) == (f"not {n}" if n % 10 == 3 else str(2 * n))
    assert n == 39


def test_dead_letters_let_the_others_pass(client: Client, name: str) -> None:
    flow = Flow(client, name, stage(fail_at_three), stage(double))
    flow.feed(range(40), 10)
    assert flow.values() == [2 * n for n in range(40) if n % 10 != 3]
    assert flow.queues[0].status().dead == 4


def test_a_generator_emits_what_grows_too_large(client: Client, name: str) -> None:
    flow = Flow(client, name, stage(count, FlowOptions(many=True)), stage(double, workers="io"))
    flow.feed([5000, 3, 0, 2500], 4)
    outcomes = list(flow.outcomes())
    expected = [(2 * at, n) for n, size in enumerate([5000, 3, 0, 2500]) for at in range(size)]
    assert outcomes == expected


def test_an_endless_generator_is_held_back_by_who_reads(client: Client, name: str) -> None:
    flow = Flow(client, name, stage(count, FlowOptions(many=True)), stage(double), window=4000)
    flow.feed([10**12])
    outcomes = flow.outcomes()
    assert [next(outcomes)[0] for _ in range(20_000)] == [2 * n for n in range(20_000)]
    assert flow.queues[1].status().put < 20_000 + 4000 + 5000
    for queue in flow.queues:
        queue.cancel()


@pytest.mark.parametrize("kind", [ManyFailFirst, ManyDieFirst])
def test_what_was_emitted_is_not_emitted_again(lonely: Cluster, tmp_path: Path, kind: type[ManyFailFirst]) -> None:
    """Each second item's generator fails, or its process is killed, after outputs of it were sent."""
    with Worker(lonely.url, lonely.key, "flow", queues="flow", pool="prefork", slots=2) as worker:
        worker.ready()
        with lonely.client() as client:
            retrying = {"retries": 1, "backoff_s": 0.01}
            emitting = stage(kind(tmp_path, 2600), FlowOptions(many=True), policy=retrying, workers="flow")
            flow = Flow(client, "job", emitting, stage(str, workers="flow"), window=3000)
            flow.feed(range(6), 3)
            outcomes = list(flow.outcomes())
    assert outcomes == [(str((n, at)), n) for n in range(6) for at in range(2600)]


def test_a_reduction_whose_process_is_killed_takes_each_item_once(lonely: Cluster, tmp_path: Path) -> None:
    with Worker(lonely.url, lonely.key, "flow", queues="flow", pool="prefork", slots=2) as worker:
        worker.ready()
        with lonely.client() as client:
            dying = stage(JoinDiesFirst(tmp_path), FlowOptions(reduce=True), workers="flow")
            flow = Flow(client, "job", stage(text, workers="flow"), dying)
            flow.feed(range(20), 2)
            assert flow.values() == ["".join(f"{n};" for n in range(20))]


def test_a_rate_holds_in_the_whole_cluster(client: Client, name: str) -> None:
    flow = Flow(client, name, stage(double, FlowOptions(rate=200)))
    flow.feed(range(60))
    assert flow.values() == [2 * n for n in range(60)]
    status = flow.queues[0].status()
    assert status.ended_ms is not None
    # A tenth of a second's at once, all others one by one.
    assert status.ended_ms - status.created_ms >= (60 - 20 - 1) * 5


def test_a_queue_that_is_all_batches_has_no_function_of_its_own(client: Client, name: str) -> None:
    with pytest.raises(errors.ConfigError, match="batch must be given without a function"):
        make(client._open(), name, "q", function=double, flow=FlowOptions(batch=2))


def test_slots_that_wait_for_room_do_what_makes_some(lonely: Cluster, tmp_path: Path) -> None:
    """One slot for all stages, a gate that waits for the first item, which fails at first and comes back late."""
    with Worker(lonely.url, lonely.key, "flow", queues="flow", pool="prefork", slots=1) as worker:
        worker.ready()
        with lonely.client() as client:
            flow = Flow(
                client, "job",
                stage(FailsFirst(tmp_path), policy={"retries": 1, "backoff_s": 0.2}, workers="flow"),
                stage(Times(3000), FlowOptions(many=True), workers="flow"),
                stage(str, FlowOptions(gated=True), workers="flow"),
                window=2000,
            )  # fmt: skip
            flow.feed(range(7), 1)
            assert list(flow.outcomes()) == [(str(n), n) for n in range(7) for _ in range(3000)]


def test_a_time_limit_ends_a_generator_that_has_emitted(client: Client, name: str) -> None:
    """What it emitted stays; the item's error comes behind that, and its neighbour is run."""
    flow = Flow(
        client, name, stage(SlowMany(0.6), FlowOptions(many=True), policy={"timeout": 1.5}), stage(double),
        on_error="return",
    )  # fmt: skip
    flow.feed([0, 1], 2)
    outcomes = list(flow.outcomes())
    assert [origin for _, origin in outcomes] == [0, 0, 0, 1, 1, 1]
    assert [value for value, _ in outcomes if isinstance(value, int)] == [0, 2, 20, 22]
    assert [type(value) for value, _ in outcomes[2::3]] == [errors.ItemTimeout] * 2
