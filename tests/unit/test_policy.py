"""Policies: what is taken, what is refused, when an item is tried again and after how long."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest

from lastcall import task
from lastcall.errors import ConfigError
from lastcall.policy import Policy, Told, told, told_of


class Mine(ConnectionError):
    pass


def test_nothing_said_means_no_retries_and_no_timeout() -> None:
    policy = told().policy
    assert policy == Policy(0, 1.0, (), 0.0, 3)
    assert not policy.retries_after(ValueError(), 0)


def test_every_exception_is_retried_unless_some_are_named() -> None:
    policy = told(retries=2).policy
    assert [policy.retries_after(ValueError(), raises) for raises in range(4)] == [True, True, False, False]
    assert not policy.retries_after(SystemExit(), 0)


def test_named_classes_stand_for_their_subclasses_too() -> None:
    policy = told(retries=1, retry_on=(ConnectionError, KeyError)).policy
    assert policy.retries_after(Mine(), 0)
    assert policy.retries_after(KeyError(), 0)
    assert not policy.retries_after(OSError(), 0)
    assert told(retries=1, retry_on=Mine).policy.retries_after(Mine(), 0)
    assert not told(retries=1, retry_on=Mine).policy.retries_after(ConnectionError(), 0)


def test_the_delay_doubles_and_half_of_it_is_random() -> None:
    random.seed(7)
    policy = told(retries=9, backoff_s=0.5).policy
    for raises, most in enumerate([500, 1000, 2000, 4000]):
        delays = [policy.delay_ms(raises) for _ in range(200)]
        assert most / 2 <= min(delays) < 0.6 * most
        assert 0.9 * most < max(delays) <= most
    assert policy.delay_ms(250) <= 600_000


def test_a_policy_travels_as_plain_data_and_through_the_ledgers_fields() -> None:
    said = told(retries=2, backoff_s=0.25, retry_on=(KeyError, Mine), timeout=1.5, crash_limit=5, concurrency=9)
    policy = said.policy
    assert Policy(*policy.wire) == policy
    fields = {name.removesuffix("_ms"): str(value).encode() for name, value in said.stored.items()}
    assert Policy.stored(fields) == policy


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retries": -1}, "retries must be an int from 0 to 250, got -1"),
        ({"retries": True}, "retries must be an int from 0 to 250, got True"),
        ({"retries": 251}, "retries must be an int from 0 to 250, got 251"),
        ({"crash_limit": 0}, "crash_limit must be an int from 1 to 250, got 0"),
        ({"backoff_s": 0}, "backoff_s must be a number of seconds, more than 0, got 0"),
        ({"timeout": -2}, "timeout must be a number of seconds, more than 0, got -2"),
        ({"timeout": -2, "timeout_name": "item_timeout"}, "item_timeout must be a number of seconds"),
        ({"retry_on": "ValueError"}, "retry_on must be an exception class, or several in a tuple, got 'ValueError'"),
        ({"retry_on": ValueError("x")}, "retry_on must be an exception class"),
        ({"retry_on": (int,)}, "retry_on must be an exception class"),
        ({"retry_on": ()}, "leave it out to retry on every Exception"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        told(**options)
    assert said in str(refused.value)


def test_what_task_said_is_found_through_partials_and_methods() -> None:
    @task(name="policy.one", retries=3, timeout=2)
    def one(n: int, m: int) -> int:
        return n

    assert told_of(one).policy.retries == 3
    assert told_of(functools.partial(functools.partial(one, 1), 2)).timeout_s == 2
    assert told_of(len) == Told()
    assert told_of([]) == Told()
    with pytest.raises(ConfigError):
        task(name="policy.two", retries=-1)
