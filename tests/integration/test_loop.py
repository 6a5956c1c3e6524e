"""The event loop of a worker's process: it stays, and what coroutines keep is its own."""

from __future__ import annotations

import pytest

from lastcall import Client
from tests import coroutines

pytestmark = pytest.mark.integration


def test_a_function_that_stops_the_loop_stops_nothing(client: Client) -> None:
    assert client.submit_to("io", coroutines.stops_the_loop, 3).result(60) == 3
    assert list(client.map(coroutines.nap, range(5), workers="io", timeout=60)) == [0, 1, 4, 9, 16]
