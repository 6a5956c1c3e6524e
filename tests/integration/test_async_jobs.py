"""AsyncJob: what was done by a program that may be gone."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from lastcall import AsyncClient, Client, current, errors
from tests.conftest import Cluster
from tests.functions import odd_only

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
