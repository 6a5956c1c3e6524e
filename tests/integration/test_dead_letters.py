"""Dead letters: retried, dropped, by the client and on the command line."""

from __future__ import annotations

import json
import subprocess

import pytest

from lastcall import Client, StatusableQueue, errors
from tests import functions
from tests.conftest import Cluster
from tests.functions import Counted, plus_one, produce
from tests.workers import LASTCALL, environment, until

pytestmark = pytest.mark.integration


def failed(client: Client, cluster: Cluster, name: str, **options: object) -> StatusableQueue[int]:
    """A queue that is drained, with 3 and 5 of 0 to 7 dead, which will do the next time."""
    counted = Counted(cluster.url, name, raising=(3, 5), times=1)
    queue: StatusableQueue[int] = client.queue(name, counted, **options)  # type: ignore[arg-type]
    produce(queue, "p", list(range(8)))
    with pytest.raises(errors.DeadLetters, match="2 of 8 items failed"):
        queue.join(30)
    return queue


def test_letters_that_are_retried_complete_the_queue_that_had_ended(
    client: Client, cluster: Cluster, name: str
) -> None:
    queue = failed(client, cluster, name)
    assert queue.retry_dead() == 2
    status = queue.join(30)
    assert (status.state, status.epoch, status.put, status.done, status.dead) == ("DRAINED", 2, 8, 8, 0)
    assert sorted(queue.results()) == list(range(8))  # from the start: each once
    assert list(queue.dead_letters()) == []
    assert queue.retry_dead() == 0
    assert queue.status().epoch == 2


def test_one_letter_may_be_retried_and_the_other_dropped(client: Client, cluster: Cluster, name: str) -> None:
    queue = failed(client, cluster, name)
    letters = {letter.value: letter.item for letter in queue.dead_letters()}
    assert queue.dead_letter(letters[3]).value == 3
    assert queue.retry_dead(letters[3]) == 1
    with pytest.raises(errors.DeadLetters, match="1 of 8"):
        queue.join(30)
    assert queue.drop_dead(letters[5]) == 1
    assert queue.dead_items() == []
    assert queue.status().dead == 1
    assert sorted(queue.results()) == [0, 1, 2, 3, 4, 6, 7]


def test_a_letter_that_is_not_there_is_named_and_nothing_is_done(client: Client, cluster: Cluster, name: str) -> None:
    queue = failed(client, cluster, name)
    there = queue.dead_items()
    for act in (queue.retry_dead, queue.drop_dead):
        with pytest.raises(errors.UnknownLetter, match="no dead letter '1-9#9'"):
            act(there[0], "1-9#9")
    assert queue.dead_items() == there
    assert queue.status().epoch == 1
    assert queue.drop_dead() == 2


def test_a_letter_of_a_stage_goes_on_through_those_behind_it(client: Client, cluster: Cluster, name: str) -> None:
    last = client.queue(f"{name}-2", plus_one, job=name)
    first = failed(client, cluster, name, into=last)
    with pytest.raises(errors.DeadLetters):
        client.job(name).wait(30)
    assert last.status().state == "DRAINED"
    assert first.retry_dead() == 2
    assert [status.state for status in client.job(name).wait(30)] == ["DRAINED", "DRAINED"]
    assert sorted(last.results()) == list(range(1, 9))
    assert [status.epoch for status in client.job(name).status()] == [2, 2]


def test_letters_of_a_live_queue_are_retried_in_it(client: Client, cluster: Cluster, name: str) -> None:
    queue: StatusableQueue[int] = client.queue(name, Counted(cluster.url, name, raising=(0,), times=1))
    with queue.producer() as out:
        out.put(0)
        out.flush()
        (_,) = _dead_of(queue)
        assert queue.retry_dead() == 1
    status = queue.join(30)
    assert (status.epoch, status.done) == (1, 1)


def test_letters_of_a_cancelled_queue_cannot_be_retried(client: Client, cluster: Cluster, name: str) -> None:
    queue: StatusableQueue[int] = client.queue(name, Counted(cluster.url, name, raising=(0,)))
    with queue.producer() as out:
        out.put(0)
        out.flush()
        _dead_of(queue)
        queue.cancel()
    with pytest.raises(errors.QueueFinished, match="it was cancelled"):
        queue.retry_dead()
    assert len(queue.dead_items()) == 1


def test_a_queue_that_goes_on_expires_only_after_its_new_end(cluster: Cluster, name: str) -> None:
    with cluster.client(ttl_s=600) as client:
        queue = failed(client, cluster, name)
        redis = client._connection.redis
        keys = [queue._ledger._own[at] for at in (0, 6, 8)]  # meta, producers, results
        assert all(redis.pttl(key) > 0 for key in keys)  # type: ignore[operator]
        # Nobody serves it, so that it is seen before its end.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client._connection, "slots", lambda _: 0)
            redis.hset(keys[0], "celery", "nobody")
            queue.workers = "nobody"
            assert queue.retry_dead() == 2
        assert [redis.pttl(key) for key in keys] == [-1, -1, -1]
        assert queue.status().state == "SEALED"
        queue.cancel()
        assert all(redis.pttl(key) > 0 for key in keys)  # type: ignore[operator]


def test_a_letter_may_be_named_twice_or_given_itself_and_is_run_once(
    client: Client, cluster: Cluster, name: str
) -> None:
    queue = failed(client, cluster, name)
    letters = sorted(queue.dead_letters(), key=lambda letter: letter.item)
    with pytest.raises(errors.ConfigError, match="one by one"):
        queue.retry_dead(letters)  # type: ignore[arg-type]
    assert queue.retry_dead(letters[0], letters[0].item, letters[1]) == 2
    assert queue.join(30).done == 8
    assert sorted(queue.results()) == list(range(8))


def test_an_item_that_a_worker_cannot_rebuild_is_retried_as_it_was_put(
    client: Client, cluster: Cluster, name: str
) -> None:
    queue: StatusableQueue[object] = client.queue(name, functions.said)
    flag = f"test:{name}"
    produce(queue, "p", [1, functions.Late(cluster.url, flag), 3])
    with pytest.raises(errors.DeadLetters):
        queue.join(30)
    (letter,) = queue.dead_letters()
    assert isinstance(letter.value, errors.NotDeserializable)  # here, as there
    assert letter.attempts == 1
    client._connection.redis.set(flag, 1)
    assert queue.retry_dead() == 1
    queue.join(30)
    assert sorted(queue.results()) == ["1", "3", "Late"]


def test_letters_are_retried_though_the_queue_downstream_was_begun_anew(
    client: Client, cluster: Cluster, name: str
) -> None:
    last = client.queue(f"{name}-2", plus_one, job=name)
    first = failed(client, cluster, name, into=last)
    last.join(30)
    last.reopen()
    assert first.retry_dead() == 2
    assert [status.state for status in client.job(name).wait(30)] == ["DRAINED", "DRAINED"]
    assert sorted(last.results()) == [4, 6]


def test_a_map_that_lost_an_item_has_one_outcome_for_each_and_no_letter(client: Client, name: str) -> None:
    with pytest.raises(errors.ItemTimeout, match=r"item 2 of .*item_timeout= of a map"):
        list(client.map(functions.Slow("deaf", 2), range(6), chunksize=1, job=name, item_timeout=0.2))
    (queue,) = client.job(name).queues
    assert queue.dead_items() == []
    assert queue.status().dead == 0


def _dead_of(queue: StatusableQueue[int]) -> list[str]:
    return until(queue.dead_items, "a dead letter")


# The command


def run(cluster: Cluster, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LASTCALL, "dead", *args], env=environment(cluster.url, cluster.key), text=True, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip


def test_the_command_lists_shows_retries_and_drops(client: Client, cluster: Cluster, name: str) -> None:
    queue = failed(client, cluster, name)
    first, second = queue.dead_items()
    listed = run(cluster, "list", name)
    expected = [f"{item} attempts=1 value={n} Odd: code {n} in run 1" for item, n in ((first, 3), (second, 5))]
    assert listed.stdout.splitlines() == expected
    lines = run(cluster, "list", "--json", name).stdout.splitlines()
    assert [json.loads(line)["value"] for line in lines] == ["3", "5"]
    shown = run(cluster, "show", name, first).stdout
    for part in (first, "value     3", "attempts  1", "cpu@test", "raise Odd(n", "Odd: code 3 in run 1"):
        assert part in shown
    assert run(cluster, "retry", name, first).stdout == "1 retried\n"
    with pytest.raises(errors.DeadLetters):
        queue.join(30)
    assert run(cluster, "drop", name, "--all").stdout == "1 dropped\n"
    assert run(cluster, "list", name).stdout == ""


def test_the_command_says_what_is_wrong(client: Client, cluster: Cluster, name: str) -> None:
    failed(client, cluster, name)
    for args, said in (
        (("retry", name), "Name the items, or give --all."),
        (("drop", name, "1-1#3", "--all"), "Name the items, or give --all, not both."),
        (("show", name, "9-9#9"), "no dead letter '9-9#9'"),
        (("list", "no-such-queue"), "no job or queue 'no-such-queue'"),
    ):
        done = run(cluster, *args)
        assert done.returncode != 0
        assert said in done.stderr
        assert "Traceback" not in done.stderr
