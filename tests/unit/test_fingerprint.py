"""Which functions that travel by value are the same."""

from __future__ import annotations

from functools import partial

import numpy as np

from lastcall.fingerprint import fingerprint


def test_long_bytes_and_arrays_count_by_their_content() -> None:
    data = bytes(100_000)
    assert fingerprint(partial(len, data)) == fingerprint(partial(len, bytes(100_000)))
    assert fingerprint(partial(len, data)) != fingerprint(partial(len, data[1:]))
    array = np.zeros(10_000)
    assert fingerprint(partial(np.sum, array)) == fingerprint(partial(np.sum, array.copy()))
    assert fingerprint(partial(np.sum, array)) != fingerprint(partial(np.sum, array + 1))
