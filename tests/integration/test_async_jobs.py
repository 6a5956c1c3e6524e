"""AsyncJob: what was done by a program that may be gone."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from lastcall import AsyncClient, Client, Event, Flow, current, errors
from tests.conftest import Cluster
from tests.functions import odd_only, plus_one

pytestmark = pytest.mark.integration


def first_is_last(n: int) -> int:
    if n == 0 and current.attempt == 1:
        raise ConnectionError
    time.sleep(0.001)
    return n


def test_results_are_read_in_the_order_of_the_input(client: Client, cluster: Cluster, name: str) -> None:
    expected = list(client.map(first_is_last, range(50), chunksize=3, retries=1, backoff_s=0.05, job=name))

    async def main() -> tuple[list[Any], list[Any]]:
        async with AsyncClient(cluster.url, cluster.key) as mine:
            job = await mine.job(name)
            return [n async for n in job.results(ordered=True)], [n async for n in job.results()]

    ordered, as_they_came = asyncio.run(main())
    assert ordered == expected == list(range(50))
    assert as_they_came != expected
    assert sorted(as_they_came) == expected


def test_an_error_ends_those_in_order(client: Client, cluster: Cluster, name: str) -> None:
    with pytest.raises(ValueError, match="2 is even"):
        list(client.map(odd_only, [1, 2, 3], chunksize=1, job=name))

    async def main() -> None:
        async with AsyncClient(cluster.url, cluster.key) as mine:
            job = await mine.job(name)
            results = job.results(ordered=True)
            assert await anext(results) == 1
            with pytest.raises(ValueError, match="2 is even"):
                await anext(results)
            with pytest.raises(StopAsyncIteration):
                await anext(results)
            with pytest.raises(errors.ConfigError, match="cursor"):
                await anext(job.results(ordered=True, cursor="0"))

    asyncio.run(main())


def test_what_happened_is_told_on_the_loop_and_read(cluster: Cluster, name: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.url, cluster.key) as client:
            job = await client.run(Flow(odd_only) | plus_one, range(6), on_error="dead", job=name)
            told: list[tuple[Event, asyncio.AbstractEventLoop]] = []
            with pytest.raises(errors.ConfigError, match=r"behind on\(\)"):
                job.watch  # noqa: B018
            with pytest.raises(errors.ConfigError, match="a plain function"):
                await job.on("dead", asyncio.sleep)
            await job.on("dead", lambda event: told.append((event, asyncio.get_running_loop())))
            with pytest.raises(errors.DeadLetters):
                await job.progress(60, total=6)
            assert await job.watch.wait(60)
            assert len(told) == 3
            assert {loop for _, loop in told} == {asyncio.get_running_loop()}
            assert [event.kind async for event in job.history.events("dead")] == ["dead"] * 3
            assert len([event async for event in job.history]) > 3
            trace = await job.trace(1)
            assert "plus_one" in str(trace)
            assert (await job.gantt(tmp_path / "job.svg")).stat().st_size
            assert sorted([letter.value async for letter in job.dead_letters()]) == [0, 2, 4]
            await job.watch.close()
            with pytest.raises(errors.NotRecorded):
                await (await client.job((await client.queue(f"{name}-queue")).job)).trace(1)

    asyncio.run(main())


def test_a_wait_for_what_is_told_ends_at_its_timeout(cluster: Cluster, name: str) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.url, cluster.key) as client:
            queue = await client.queue(name, plus_one, record="times")
            async with queue.producer() as out:
                job = await client.job(name)
                await job.on("ended", print)
                assert not await job.watch.wait(0.01)
                await out.put(1)
            assert await job.watch.wait(60)

    asyncio.run(main())
