"""Functions that raise: tried again after a delay, alone; then dead letters. And what they know of where they run."""

from __future__ import annotations

import pytest

from lastcall import Client, StatusableQueue, current, errors
from tests import functions
from tests.conftest import Cluster
from tests.functions import Counted, Told, plus_one, produce, stubborn, try_again
from tests.workers import until

pytestmark = pytest.mark.integration


def test_a_map_gives_each_result_once_and_in_order_though_some_were_tried_again(client: Client) -> None:
    got = list(client.map(try_again, range(60), retries=2, backoff_s=0.01))
    assert got == [(n, 3 if n % 3 == 0 else 1) for n in range(60)]


def test_only_the_item_that_raised_runs_again(client: Client, cluster: Cluster, name: str) -> None:
    counted = Counted(cluster.url, name, raising=(4, 9), times=1)
    assert list(client.map(counted, range(12), chunksize=6, retries=1, backoff_s=0.01)) == list(range(12))
    assert counted.runs() == {n: 2 if n in (4, 9) else 1 for n in range(12)}


def test_after_its_retries_an_item_is_a_dead_letter_with_all_that_is_known(
    client: Client, cluster: Cluster, name: str
) -> None:
    queue = client.queue(name, Counted(cluster.url, name, raising=(4,)), retries=2, backoff_s=0.01)
    produce(queue, "p", list(range(8)))
    with pytest.raises(errors.DeadLetters):
        queue.join(30)
    assert sorted(queue.results()) == [0, 1, 2, 3, 5, 6, 7]
    (letter,) = queue.dead_letters()
    assert (letter.value, letter.attempts, letter.worker) == (4, 3, "cpu@test")
    assert isinstance(letter.error, functions.Odd)
    assert letter.error.where == "run 3"
    assert "Odd(n, where" in str(letter.error.__cause__)
    assert queue.dead_items() == [letter.item]


def test_a_map_raises_the_last_error_when_the_retries_are_used_up(client: Client, cluster: Cluster, name: str) -> None:
    with pytest.raises(functions.Odd, match="code 2 in run 2"):
        list(client.map(Counted(cluster.url, name, raising=(2,)), range(5), retries=1, backoff_s=0.01))


def test_errors_that_are_not_named_are_not_retried(client: Client, cluster: Cluster, name: str) -> None:
    counted = Counted(cluster.url, name, raising=(1,))
    with pytest.raises(functions.Odd):
        list(client.map(counted, range(3), retries=5, retry_on=(ValueError, KeyError)))
    assert counted.runs()[1] == 1


def test_a_nested_class_may_be_named(client: Client) -> None:
    assert list(client.map(functions.bank, [1, 2], retries=1, retry_on=functions.Outer.Bank, backoff_s=0.01)) == [1, 2]

    class Local(Exception):
        pass

    def fickle(n: int) -> int:
        if current.attempt == 1:
            raise Local
        return n

    assert list(client.map(fickle, [1, 2], retries=1, retry_on=Local, backoff_s=0.01)) == [1, 2]


def test_an_item_that_waits_for_its_next_try_is_delayed_and_counted(
    client: Client, cluster: Cluster, name: str
) -> None:
    queue = client.queue(name, Counted(cluster.url, name, raising=(1,)), retries=1, backoff_s=600)
    produce(queue, "p", list(range(3)))
    status = until(lambda: (s := queue.status()).delayed and s, "the item to be delayed")
    assert (status.delayed, status.state) == (1, "SEALED")
    with pytest.raises(errors.WaitTimeout, match="1 delayed"):
        queue.join(0.05)
    assert queue.cancel().cancelled >= 1


def test_a_call_has_the_policy_of_its_task(client: Client) -> None:
    assert client.submit(stubborn, 2).result(30) == 3
    with pytest.raises(ValueError, match="not at attempt 3"):
        client.submit(stubborn, 3).result(30)


def test_a_queue_has_the_policy_of_its_task_unless_it_says_otherwise(client: Client, name: str) -> None:
    queue = client.queue(name, stubborn)
    produce(queue, "p", [1, 2])
    queue.join(30)
    assert sorted(queue.results()) == [2, 3]
    with pytest.raises(ValueError, match="not at attempt 1"):
        list(client.map(stubborn, [1], retries=0))


def test_stages_pass_on_each_output_once_though_items_were_tried_again(
    client: Client, cluster: Cluster, name: str
) -> None:
    last = client.queue(f"{name}-last", plus_one, job=name)
    counted = Counted(cluster.url, name, raising=(0, 7, 13), times=2)
    first = client.queue(name, counted, into=last, retries=2, backoff_s=0.01)
    produce(first, "p", list(range(20)))
    last.join(30)
    assert sorted(last.results()) == list(range(1, 21))
    assert first.status().done == 20


def test_another_policy_for_a_queue_that_is_there_is_refused_by_its_name(client: Client, name: str) -> None:
    client.queue(name, plus_one, retries=2)
    for options, said in (({"retries": 3}, "retries"), ({"timeout": 5}, "timeout"), ({"backoff_s": 9}, "backoff_s")):
        with pytest.raises(errors.QueueMismatch, match=said):
            client.queue(name, plus_one, **options)


def test_current_tells_a_function_where_and_for_what_it_runs(client: Client, cluster: Cluster, name: str) -> None:
    told = Told(cluster.url, name, times=1)
    queue: StatusableQueue[int] = client.queue(name, told, job=f"{name}-job", retries=1, backoff_s=0.01)
    produce(queue, "p", list(range(5)))
    queue.join(30)
    said = told.said()
    assert len(said) == 10
    for n in range(5):
        first, second = [one for one in said if one[0] == n]
        assert first[1:4] == second[1:4]  # job, queue, item
        assert first[1:3] == [f"{name}-job", name]
        assert (first[4], second[4]) == (1, 2)
        assert first[5] == "cpu@test"
        assert first[6] == second[6]  # the idempotency key
    assert len({one[3] for one in said}) == len({one[6] for one in said}) == 5
    # Of another queue's item, and of the same queue's after it was opened again, it is another.
    queue.reopen()
    produce(queue, "p", [0])
    queue.join(30)
    assert told.said()[-1][6] not in {one[6] for one in said}


def test_current_is_right_in_threads_and_with_several_arguments(client: Client, cluster: Cluster, name: str) -> None:
    told = Told(cluster.url, name)
    assert list(client.map(told, range(30), workers="io", chunksize=3)) == list(range(30))
    assert {(n, item) for n, _, _, item, *_ in told.said()} == {(n, f"1-{n // 3 + 1}#{n % 3}") for n in range(30)}


def test_outside_of_a_workers_function_current_says_so() -> None:
    assert not current
    assert repr(current) == "<current: nothing>"
    with pytest.raises(errors.NotRunning, match="no such function runs here"):
        _ = current.attempt
