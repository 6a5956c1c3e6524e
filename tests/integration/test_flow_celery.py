"""Celery tasks as stages of a flow, and flows that tell a URL of their end."""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Iterator

import pytest

from lastcall import Client, Flow, errors, fan_out, filter, reduce, stage
from lastcall.settings import Settings
from tests import their_app as theirs
from tests.conftest import Cluster
from tests.functions import plus_one, square
from tests.workers import Worker

pytestmark = pytest.mark.integration

COMMAND = (sys.executable, "-m", "celery", "-A", "tests.their_app", "worker", "--without-gossip", "--without-mingle")


@pytest.fixture(scope="module")
def their_worker(cluster: Cluster) -> Iterator[Worker]:
    settings = Settings.load(cluster.url, cluster.key)
    with Worker(
        cluster.url, cluster.key, "their-flow", queues="theirs", pool="threads", slots=2, command=COMMAND,
        more={"THEIR_BROKER": settings.broker or ""},
    ) as worker:  # fmt: skip
        worker.ready()
        yield worker
        worker.kill()


@pytest.mark.usefixtures("their_worker")
@pytest.mark.parametrize("mode", ["auto", "vertical", "streaming", "horizontal"])
def test_tasks_are_stages_with_their_own_workers_and_retries(client: Client, mode: str) -> None:
    flow = Flow(square) | theirs.add | theirs.shared | plus_one
    job = client.run(flow, range(100), mode=mode)
    assert list(job.results(timeout=30)) == [(n * n + 1) * 10 + 1 for n in range(100)]
    assert [status.workers for status in job.status()] == ["cpu", "theirs", "theirs", "cpu"]
    # Where they stand before a reduction, and are asked for another try by their own exception.
    assert list(
        client.run(Flow(theirs.automatic) | reduce(operator.add), [0, 1, 2], mode=mode).results(timeout=30)
    ) == [3]


@pytest.mark.usefixtures("their_worker")
def test_a_task_with_some_of_its_arguments_is_a_stage_of_its_workers(client: Client) -> None:
    job = client.run(Flow(square) | functools.partial(theirs.add, y=5) | theirs.shared, range(3), mode="vertical")
    assert list(job.results(timeout=30)) == [50, 60, 90]
    assert [status.workers for status in job.status()] == ["cpu", "theirs", "theirs"]


@pytest.mark.usefixtures("their_worker")
def test_a_task_knows_its_request_also_where_its_outputs_go_on_one_by_one(client: Client) -> None:
    (one,) = client.run(Flow(theirs.ask), [1], mode="vertical").results(timeout=30)
    assert one["called_directly"] is False
    names = set(client.run(Flow(stage(theirs.ask, flat=True)), [1]).results(timeout=30))
    assert {"id", "retries", "current"} <= names


def test_a_task_where_a_plain_function_is_wanted_is_an_error_at_once() -> None:
    for make in (lambda: filter(theirs.add), lambda: reduce(functools.partial(theirs.add))):
        with pytest.raises(errors.ConfigError, match=r"Celery task.*task\.run"):
            make()
    with pytest.raises(errors.ConfigError, match="Celery task"):
        fan_out(theirs.add, plus_one)
