"""Calls that are made while a put is under way travel together; one that is made alone goes at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import lastcall
from lastcall import Client
from lastcall.state.ledger import Ledger
from tests.functions import square
from tests.workers import until

pytestmark = pytest.mark.integration


class Puts:
    """Round trips of puts: how many chunks each had; they wait while it is closed."""

    def __init__(self, put: Callable[..., Any]) -> None:
        self._put = put
        self.chunks: list[int] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, ledger: Ledger, name: str, epoch: int, first: int, chunks: Any, cap: int) -> Any:
        self.chunks.append(len(chunks))
        assert self.open.wait(60)
        return self._put(ledger, name, epoch, first, chunks, cap)


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> Puts:
    puts = Puts(Ledger.put)
    monkeypatch.setattr(Ledger, "put", lambda *args: puts(*args))
    return puts


@pytest.fixture(params=["submit", "apply_async"])
def call(request: pytest.FixtureRequest, client: Client) -> Iterator[Callable[[int], Callable[[], int]]]:
    """Makes a call, and gives what waits for its answer."""
    if request.param == "submit":
        yield lambda n: client.submit(square, n).result
    else:
        with lastcall.Pool(client=client) as pool:
            yield lambda n: pool.apply_async(square, (n,)).get


def test_calls_that_are_made_while_a_put_is_under_way_travel_in_one_round_trip(
    puts: Puts, call: Callable[[int], Callable[[], int]]
) -> None:
    puts.open.clear()
    answers = [call(0)]
    until(lambda: puts.chunks == [1], "the first to be under way")
    answers += [call(n) for n in range(1, 61)]
    puts.open.set()
    assert [answer() for answer in answers] == [n * n for n in range(61)]
    assert puts.chunks == [1, 60]


def test_a_call_that_is_made_alone_does_not_wait_for_company(
    puts: Puts, call: Callable[[int], Callable[[], int]]
) -> None:
    for n in range(5):
        assert call(n)() == n * n  # it is answered, so it was sent, before there is another
    assert puts.chunks == [1] * 5
