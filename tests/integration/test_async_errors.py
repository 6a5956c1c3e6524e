"""Errors that mean something else in a coroutine: none ends a loop early, or looks as if who awaits were cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lastcall import AsyncClient
from tests.conftest import Cluster
from tests.functions import square

pytestmark = pytest.mark.integration


def raises(error: type[BaseException]) -> int:
    raise error("mine")


async def araises(error: type[BaseException]) -> int:
    raise error("mine")


@pytest.mark.parametrize("function", [raises, araises])
@pytest.mark.parametrize("error", [StopIteration, StopAsyncIteration, asyncio.CancelledError])
def test_they_are_raised_as_errors(cluster: Cluster, name: str, function: Any, error: type[BaseException]) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.url, cluster.key) as client:
            with pytest.raises(RuntimeError, match=f"raised {error.__name__}"):
                await client.submit(function, error)
            with pytest.raises(RuntimeError, match=f"raised {error.__name__}"):
                async for _ in client.map(function, [error]):
                    pass
            queue = await client.queue(name, function, on_error="return")
            async with queue.producer() as out:
                await out.put(error)
            with pytest.raises(RuntimeError, match=f"raised {error.__name__}"):
                await anext(queue.results())

    asyncio.run(main())


def test_an_input_that_is_cancelled_is_not_at_its_end(cluster: Cluster) -> None:
    async def cancelled() -> AsyncIterator[int]:
        yield 3
        raise asyncio.CancelledError("its own")

    async def main() -> None:
        async with AsyncClient(cluster.url, cluster.key) as client:
            results = client.map(square, cancelled(), timeout=60)
            assert await anext(results) == 9
            with pytest.raises(RuntimeError, match="the input raised CancelledError"):
                await anext(results)

    asyncio.run(main())
