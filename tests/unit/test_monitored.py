"""How monitors see what a chunk is given, and gives."""

from __future__ import annotations

import time
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest

from lastcall_worker.monitored import Monitored


@pytest.mark.parametrize(
    "value", [b"x" * 5_000_000, bytearray(5_000_000), "x" * 5_000_000], ids=lambda v: type(v).__name__
)
def test_large_bytes_are_shown_by_their_ends_and_not_written_out(value: Any) -> None:
    work: Any = SimpleNamespace(name="f", style="map")
    shown = Monitored(time.time())
    tracemalloc.start()
    try:
        shown.describe(work, [value])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert shown.args.startswith(f"({value[:20]!r}"[:20])
    assert len(shown.args) < 150
    assert peak < 100_000


@pytest.mark.parametrize("value", [b"", b"ab\0", bytearray(b"ab"), b"x" * 100])
def test_short_bytes_are_shown_whole(value: Any) -> None:
    work: Any = SimpleNamespace(name="f", style="map")
    shown = Monitored(time.time())
    shown.describe(work, [value])
    assert shown.args == f"({value!r},)"
