"""Flows of an AsyncClient: what Client.run() does, awaited."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import AsyncIterator

import pytest

from lastcall import AsyncFlowJob, Failure, Flow, batch, errors, filter, stage
from tests.conftest import Cluster
from tests.coroutines import nap
from tests.functions import odd_only, plus_one, square
from tests.integration.test_asyncio import client_of, count, on_a_loop, until

pytestmark = pytest.mark.integration


def is_odd(n: int) -> bool:
    return n % 2 == 1


@on_a_loop
async def test_a_flow_of_an_iterable_and_of_an_async_iterable(cluster: Cluster) -> None:
    flow = Flow(square) | stage(nap, workers="io") | filter(is_odd) | batch(7) | sum
    async with client_of(cluster) as client:
        odd = [n**4 for n in range(1, 100, 2)]
        expected = [sum(odd[at : at + 7]) for at in range(0, len(odd), 7)]
        for mode in ("auto", "streaming", "vertical", "horizontal"):
            for items in (range(100), count(100)):
                job = await client.run(flow, items, mode=mode)
                assert [value async for value in job.results(timeout=30)] == expected
                assert {status.state for status in await job.wait(30)} == {"DRAINED"}
        with pytest.raises(errors.ConfigError, match=r"flow\.run"):
            await client.run(flow, [1], mode="serial")


@on_a_loop
async def test_an_endless_input_is_read_as_results_are(cluster: Cluster) -> None:
    read = 0

    async def numbers() -> AsyncIterator[int]:
        nonlocal read
        for read in itertools.count():
            yield read

    async with client_of(cluster) as client:
        job = await client.run(Flow(plus_one) | square, numbers(), window=1_000)
        async with job:
            got = [value async for _, value in _zip(range(5_000), job.results(timeout=30))]
        assert got == [(n + 1) ** 2 for n in range(5_000)]
        assert read < 50_000
        states = [status.state for status in await job.status()]
        assert "CANCELLED" in states


@on_a_loop
async def test_errors_come_where_results_do_and_where_the_end_is_waited_for(cluster: Cluster) -> None:
    async def breaks() -> AsyncIterator[int]:
        yield 1
        raise LookupError("no more")

    async with client_of(cluster) as client:
        flow = Flow(odd_only) | square
        job = await client.run(flow, [1, 3, 4, 5], mode="streaming")
        results = job.results(timeout=30)
        assert [await anext(results), await anext(results)] == [1, 9]
        with pytest.raises(ValueError, match="4 is even"):
            await anext(results)
        assert [value async for value in results] == []
        with pytest.raises(ValueError, match="4 is even"):
            await (await client.run(flow, [1, 4])).wait(30)
        values = [value async for value in (await client.run(flow, [1, 4], on_error="yield")).results(timeout=30)]
        assert values[0] == 1
        assert isinstance(values[1], Failure)
        with pytest.raises(LookupError, match="no more"):
            await (await client.run(flow, breaks())).wait(30)
        with pytest.raises(errors.ConfigError, match="ends"):
            await (await client.run(flow, itertools.count())).wait()


@on_a_loop
async def test_a_job_is_detached_attached_and_read_from_a_cursor(cluster: Cluster, name: str) -> None:
    async with client_of(cluster) as client:
        assert await (await client.run(Flow(plus_one) | square, count(3_000), job=name)).detach(30) == name
    async with client_of(cluster) as client:
        job = await client.job(name)
        assert [value async for value in job.results(timeout=30)] == [(n + 1) ** 2 for n in range(3_000)]


@on_a_loop
async def test_a_job_that_nobody_refers_to_is_cancelled(cluster: Cluster) -> None:
    async with client_of(cluster) as client:

        async def begin() -> str:
            job = await client.run(Flow(plus_one), _forever())
            assert isinstance(job, AsyncFlowJob)
            return job.id

        attached = await client.job(await begin())
        gc.collect()

        async def cancelled() -> bool:
            return {status.state for status in await attached.status()} == {"CANCELLED"}

        async def unread() -> bool:
            return not [task for task in asyncio.all_tasks() if "Source" in repr(task)]

        await until(cancelled, "the job to be cancelled")
        await until(unread, "its input to be read no more")


async def _forever() -> AsyncIterator[int]:
    yield 1
    await asyncio.Event().wait()


async def _zip(numbers: range, values: AsyncIterator[int]) -> AsyncIterator[tuple[int, int]]:
    for number in numbers:
        yield number, await anext(values)


@on_a_loop
async def test_others_have_their_turn_while_results_are_read_that_are_there(cluster: Cluster) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)  # one turn of the loop, which is what is counted
            turns += 1

    async with client_of(cluster) as client:
        job = await client.run(Flow(plus_one), range(50_000), window=100_000)
        await job.wait(30)  # so that one reading has all of them
        other = asyncio.create_task(others())
        seen = set()
        async for value in job.results(timeout=30):
            if value % 1_000 == 0:
                time.sleep(0.002)  # what a program does with its results, without awaiting anything
                seen.add(turns)
        other.cancel()
        assert len(seen) > 2
