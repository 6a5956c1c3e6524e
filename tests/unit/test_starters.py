"""A pool's initializer runs once in each thread that works for it; a process that has run enough for it is worn."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from lastcall import functions
from lastcall.envelope import Sealer
from lastcall.errors import InitializerFailed
from lastcall.outcome import unpack_error
from lastcall.starter import Starter
from lastcall_worker import starters
from lastcall_worker.starters import Worn

SEALER = Sealer(b"a key for the starters")
ran: list[Any] = []


def note(what: str) -> None:
    ran.append((what, threading.get_ident()))
    if what == "bad":
        raise KeyError("elderberry")
    if what == "exit":
        raise SystemExit(3)


def starter(pool: str, what: str, most_chunks: int = 0) -> Starter:
    return Starter(pool, functions.dump(note, sealer_has_key=True).wire, SEALER.dump((what,)), most_chunks)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starters, "_here", starters._Thread())
    ran.clear()


def ready(one: Starter) -> Any:
    return starters.ready(one, "cpu@box", SEALER)


def test_once_for_each_pool_and_thread() -> None:
    one, two = starter("pool 1", "a"), starter("pool 2", "b")
    for _ in range(3):
        assert ready(one) is None
        assert ready(two) is None
    thread = threading.Thread(target=ready, args=(one,))
    thread.start()
    thread.join()
    assert [what for what, _ in ran] == ["a", "b", "a"]
    assert len({ident for _, ident in ran}) == 2


def test_one_that_raised_is_not_tried_again_and_says_why() -> None:
    packed = [ready(starter("pool 1", "bad")) for _ in range(3)]
    assert len(ran) == 1
    error = unpack_error(packed[2], sealer_has_key=True)
    assert isinstance(error, InitializerFailed)
    assert (error.worker, error.type_name) == ("cpu@box", "KeyError")
    assert "KeyError: 'elderberry'" in str(error.__cause__)


def test_the_main_thread_may_be_told_to_end_and_another_thread_may_not() -> None:
    with pytest.raises(SystemExit):
        ready(starter("pool 1", "exit"))
    packed: list[Any] = []
    thread = threading.Thread(target=lambda: packed.append(ready(starter("pool 2", "exit"))))
    thread.start()
    thread.join()
    assert "the initializer ended its thread" in str(unpack_error(packed[0], sealer_has_key=True))


def test_what_cannot_be_loaded_is_an_initializer_that_failed() -> None:
    wire = ("ref", "nowhere.at_all", "nowhere.at_all:f")
    error = unpack_error(ready(Starter("pool 1", wire, SEALER.dump(()), 0)), sealer_has_key=True)
    assert isinstance(error, InitializerFailed)
    assert error.type_name == "lastcall.errors.FunctionNotImportable"


def test_the_oldest_pools_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starters, "_MOST", 2)
    for pool in ("pool 1", "pool 2", "pool 3", "pool 1"):
        ready(starter(pool, pool))
    assert [what for what, _ in ran] == ["pool 1", "pool 2", "pool 3", "pool 1"]
    assert len(starters._here.pools) == 2


def test_a_process_is_worn_when_it_has_run_enough_chunks_of_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starters, "is_child", lambda: True)
    one, other = starter("pool 1", "a", 2), starter("pool 2", "b", 5)
    for left in (2, 1):
        assert starters.left(one) == left
        starters.check_worn()
        ready(one)
        ready(other)
    assert starters.left(one) == 0
    assert starters.left(other) == 3
    with pytest.raises(Worn):
        starters.check_worn()


def test_a_process_that_cannot_be_spared_counts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starters, "is_child", lambda: True)
    one = Starter("pool 1", None, b"", 2)
    for _ in range(2):
        ready(one)
        ready(one)
        assert starters.left(one) == 0
        starters.count_anew(one)
        starters.check_worn()
        assert starters.left(one) == 2


def test_what_is_no_process_of_a_prefork_worker_is_never_worn() -> None:
    one = starter("pool 1", "a", 1)
    for _ in range(3):
        assert ready(one) is None
        assert starters.left(one) > 1_000_000
    starters.check_worn()
    assert len(ran) == 1
