"""Errors that mean something else in a coroutine: none ends a loop early, or looks as if who awaits were cancelled.
And those of who has not awaited, or is not where this can be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lastcall import AsyncClient, AsyncManager, AsyncQueue, errors
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


def test_what_is_not_awaited_says_so(cluster: Cluster, name: str) -> None:
    async def main() -> None:
        client = AsyncClient(cluster.url, cluster.key)
        with pytest.raises(TypeError, match="entered by `async with`, got `with`"), client:  # type: ignore[attr-defined]
            pass
        async with client:
            queue = await client.queue(name)
            last = await client.queue(f"{name}-last", square)
            for one in (client.lock(name), queue.producer(), queue.consumer(), AsyncManager(client=client)):
                with pytest.raises(TypeError, match="entered by `async with`"), one:  # type: ignore[attr-defined]
                    pass
            for many in (queue, queue.consumer(), last.results(), client.map(square, [1]), client.shared_dict(name)):
                with pytest.raises(TypeError, match="iterated over by `async for`"):
                    list(many)  # type: ignore[call-overload]
            with pytest.raises(TypeError, match=r"await shared.contains\(key\)"):
                assert "a" in client.shared_dict(name)
            with pytest.raises(TypeError, match="not iterated over"):
                list(client.event(name))  # type: ignore[call-overload]
            with pytest.raises(TypeError, match="not entered"), client.event(name):  # type: ignore[attr-defined]
                pass
            with pytest.raises(TypeError, match=r"await shared.set\(key, value\)"):
                client.shared_dict(name)["a"] = 1
            with pytest.raises(TypeError, match=r"await shared.delete\(index\)"):
                del client.shared_list(name)[0]

    asyncio.run(main())


def test_what_was_not_awaited_before_it_is_used_says_so(cluster: Cluster, name: str) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.url, cluster.key) as client:
            unawaited = client.queue(name)
            with pytest.raises(AttributeError, match=r"AsyncClient.queue\(\) was not awaited, got .join"):
                unawaited.join  # type: ignore[attr-defined]  # noqa: B018
            with pytest.raises(TypeError, match=r"AsyncClient.queue\(\) was not awaited"):
                async for _ in unawaited:
                    pass
            assert isinstance(await unawaited, AsyncQueue)
            async with asyncio.TaskGroup() as group:
                made = group.create_task(client.queue(name), name="a task, as of any coroutine")
            assert (await made.result().status()).name == name

    asyncio.run(main())


def test_a_client_of_another_loop_or_of_none_is_told(cluster: Cluster, name: str) -> None:
    client = AsyncClient(cluster.url, cluster.key)
    with pytest.raises(errors.ConfigError, match=r"got none: asyncio.run\(main\(\)\), or take Client"):
        client.submit(square, 3)
    with pytest.raises(errors.ConfigError, match="running event loop"):
        client.lock(name)

    async def elsewhere(queue: AsyncQueue[int], lock: Any, out: Any) -> None:
        for use in (queue.status(), queue.join(), anext(aiter(queue)), lock.acquire(), out.put(3), client.queue(name)):
            with pytest.raises(errors.ConfigError, match="loop in which it was used first, got another"):
                await use

    async def main() -> None:
        async with client:
            queue = await client.queue(name)
            async with queue.producer() as out:
                await asyncio.to_thread(asyncio.run, elsewhere(queue, client.lock(name), out))

    asyncio.run(main())


def test_what_a_client_gave_is_closed_with_it(cluster: Cluster, name: str) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.url, cluster.key) as client:
            queue, lock = await client.queue(name), client.lock(name)
            consumer = queue.consumer()
            await lock.acquire()
            waits = [asyncio.create_task(wait) for wait in (queue.join(), consumer.get(), client.event(name).wait())]
            await asyncio.sleep(0.05)
        for wait in waits:
            with pytest.raises(errors.ClientClosed):
                await asyncio.wait_for(wait, 10)
        for use in (queue.status(), queue.join(), lock.acquire(), client.queue(name), client.__aenter__()):
            with pytest.raises(errors.ClientClosed):
                await use
        await consumer.aclose()
        await lock.release()  # what gives back is never refused
        await client.aclose()

    asyncio.run(main())
