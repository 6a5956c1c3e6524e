"""Flows run by an AsyncClient: lazily, cancellable, without a thread that waits."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from lastcall import AsyncClient, Failure, Flow, batch, errors, stage
from tests.conftest import Cluster

pytestmark = pytest.mark.integration


def double(n: int) -> int:
    if n == 7:
        raise ValueError("no 7")
    return 2 * n


async def later(n: int) -> int:
    await asyncio.sleep(0.01)
    return n + 1


def run(cluster: Cluster, use: Callable[[AsyncClient], Any]) -> Any:
    async def main() -> Any:
        async with AsyncClient(cluster.url, cluster.key) as client:
            return await asyncio.wait_for(use(client), 60)

    return asyncio.run(main())


async def all_of(job: Any) -> list[Any]:
    return [value async for value in job.results()]


@pytest.mark.parametrize("mode", ["auto", "streaming", "horizontal", "vertical"])
def test_results_come_in_order_in_each_mode(cluster: Cluster, mode: str) -> None:
    async def use(client: AsyncClient) -> list[Any]:
        flow = Flow(double) | stage(later, concurrency=50) | batch(3)
        return await all_of(await client.run(flow, range(7), mode=mode))

    assert run(cluster, use) == [[1, 3, 5], [7, 9, 11], [13]]


def test_the_first_error_is_raised_behind_what_came_before_it(cluster: Cluster) -> None:
    async def use(client: AsyncClient) -> list[Any]:
        results = (await client.run(Flow(double), range(20))).results()
        got = [await anext(results) for _ in range(7)]
        with pytest.raises(ValueError, match="no 7"):
            await anext(results)
        return got

    assert run(cluster, use) == [2 * n for n in range(7)]


def test_wait_raises_the_first_error_and_gives_how_it_ended(cluster: Cluster) -> None:
    async def use(client: AsyncClient) -> None:
        with pytest.raises(ValueError, match="no 7"):
            await (await client.run(Flow(double), range(20))).wait()
        (status,) = await (await client.run(Flow(double), range(7))).wait(30)
        assert status.done == 7
        values = await all_of(await client.run(Flow(double), range(9), on_error="yield"))
        assert [type(value) is Failure for value in values] == [n == 7 for n in range(9)]

    run(cluster, use)


def test_an_endless_input_is_read_as_results_are_and_ends_with_the_block(cluster: Cluster) -> None:
    async def use(client: AsyncClient) -> None:
        async with await client.run(Flow(later), itertools.count(), window=50) as job:
            results = job.results()
            assert [await anext(results) for _ in range(200)] == list(range(1, 201))
            with pytest.raises(errors.ConfigError):
                await job.wait()
            for turns in range(4):  # into each of the first steps
                reading = asyncio.create_task(all_of(job))
                for _ in range(turns):
                    await asyncio.sleep(0)
                reading.cancel()
                await asyncio.wait([reading], timeout=20)
                assert reading.cancelled()
        (status,) = await job.status()
        assert status.state == "CANCELLED"

    run(cluster, use)


def test_what_was_detached_goes_on_without_its_client(cluster: Cluster, name: str) -> None:
    async def leave(client: AsyncClient) -> str:
        return await (await client.run(Flow(later), range(20), job=name)).detach(30)

    async def attach(client: AsyncClient) -> list[Any]:
        return await all_of(await client.job(run_id))

    run_id = run(cluster, leave)
    assert sorted(run(cluster, attach)) == list(range(1, 21))


def test_serial_is_refused(cluster: Cluster) -> None:
    async def use(client: AsyncClient) -> None:
        with pytest.raises(errors.ConfigError, match="serial"):
            await client.run(Flow(later), [1], mode="serial")

    run(cluster, use)
