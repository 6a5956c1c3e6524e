"""Large arguments travel once for each job and worker process, and are there for as long as a call needs them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lastcall import Client, Executor, Pool, task
from lastcall.calls import Calls
from lastcall.errors import AsideLost, BadEnvelope, DeadLetters, ItemTooLarge
from lastcall.state import keys
from tests.arrays import dies_once, fails_once, first, firsts, scribble, total
from tests.conftest import Cluster
from tests.documents import printed_by
from tests.functions import Counted, Gate
from tests.workers import Worker, until

pytestmark = pytest.mark.integration

MB = 1 << 20


def array(first: float, size: int = MB) -> Any:
    """One of its own: no worker has had it."""
    one = np.random.default_rng().random(size // 8)
    one[0] = first
    return one


def received(client: Client) -> int:
    """Bytes that the server has received."""
    stats: Any = client._connection.redis.info("stats")
    return int(stats["total_net_input_bytes"])


def aside(client: Client, job: str) -> set[str]:
    """The digests of what lies aside with a job."""
    fields: Any = client._connection.redis.hkeys(keys.of_job(job, "job"))
    return {name.decode() for name in fields if name.startswith(b"aside:")}


def calls_of(client: Client) -> Calls:
    return client._calls["cpu"]


def test_an_array_is_sent_once_for_many_calls(client: Client) -> None:
    data = array(7, 4 * MB)
    client.submit(first, [1.0]).result(60)
    before = received(client)
    futures = [client.submit(first, data, n) for n in range(30)]
    assert [future.result(60) for future in futures] == [7.0 + n for n in range(30)]
    assert received(client) - before < 6 * MB
    assert len(aside(client, calls_of(client).job)) == 1


def test_with_a_threshold_of_0_it_is_sent_with_each(cluster: Cluster) -> None:
    data = array(7)
    with cluster.client(aside_bytes=0) as client:
        assert [client.submit(first, data).result(60) for _ in range(2)] == [7.0, 7.0]
        assert aside(client, calls_of(client).job) == set()


def test_a_call_that_writes_into_its_array_spoils_no_other(client: Client) -> None:
    data = array(7)
    futures = [client.submit(scribble, data, n) for n in range(20)]
    assert [future.result(60) for future in futures] == [(7.0, float(n)) for n in range(20)]
    assert data[0] == 7


def test_what_the_caller_writes_after_a_call_is_for_the_next(client: Client) -> None:
    data = array(7)
    one = client.submit(first, data)
    data[0] = 8
    two = client.submit(first, data)
    assert (one.result(60), two.result(60)) == (7.0, 8.0)


def test_two_arrays_of_the_same_content_are_sent_once(client: Client) -> None:
    data = array(3)
    assert client.submit(firsts, data, data.copy()).result(60) == [3.0, 3.0]
    assert client.submit(first, data.copy()).result(60) == 3.0
    assert len(aside(client, calls_of(client).job)) == 1


def test_bytes_go_aside_too(client: Client) -> None:
    data = array(1).tobytes()
    assert client.submit(total, data, more=bytearray(data)).result(60) == 2 * MB
    assert len(aside(client, calls_of(client).job)) == 1


def test_a_closure_s_array_goes_aside(client: Client) -> None:
    data = array(5)
    futures = [client.submit(lambda n: float(data[0]) + n, n) for n in range(3)]
    assert [future.result(60) for future in futures] == [5.0, 6.0, 7.0]
    assert len(aside(client, calls_of(client).job)) == 1


def test_an_array_over_the_limit_is_refused(cluster: Cluster) -> None:
    with cluster.client(max_item_bytes=MB // 2) as client:
        with pytest.raises(ItemTooLarge):
            client.submit(first, array(1))
        assert client.submit(first, [2.0]).result(60) == 2.0  # the others go on


def test_executors_and_pools_send_it_once(client: Client) -> None:
    data = array(2, 4 * MB)
    before = received(client)
    with Executor(client=client) as executor:
        assert list(executor.map(first, [data] * 10)) == [2.0] * 10
    with Pool(client=client) as pool:
        results = [pool.apply_async(first, (data,), {"n": n}) for n in range(10)]
        assert [result.get(60) for result in results] == [2.0 + n for n in range(10)]
        assert pool.apply(scribble, (data, 9.0)) == (2.0, 9.0)  # as in multiprocessing: it has its own
    assert received(client) - before < 10 * MB  # twice: each has a job


def test_a_map_s_partial_argument_is_sent_once_and_removed_with_the_map(client: Client) -> None:
    data = array(4, 4 * MB)
    before = received(client)
    results = client.map(functools.partial(first, data), range(500), chunksize=5)
    assert next(results) == 4.0
    assert len(aside(client, results.job)) == 1
    assert list(results) == [4.0 + n for n in range(1, 500)]
    assert received(client) - before < 6 * MB
    assert aside(client, results.job) == set()


def test_a_pool_s_initargs_go_aside(client: Client, name: str) -> None:
    data = array(6)
    with Pool(initializer=total, initargs=(data.tobytes(), name), client=client) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]


def test_a_queue_s_function_has_it_in_its_next_epoch_too(client: Client, name: str) -> None:
    data = array(5)
    queue = client.queue(name, functools.partial(first, data))
    for _ in range(2):
        with queue.producer() as out:
            out.put_many([1, 2])
        queue.join(60)
        assert sorted(queue.results()) == [6.0, 7.0]
        queue.reopen()
    assert len(aside(client, name)) == 1
    assert client.queue(name, functools.partial(first, data)).name == name  # another handle of the same
    assert len(aside(client, name)) == 1


def test_dead_letters_run_again_with_the_function_s_array(client: Client, name: str, cluster: Cluster) -> None:
    data, counted = array(5), Counted(cluster.url, name, raising=(1,), times=1)
    queue = client.queue(name, lambda n: float(data[0]) + counted(n))
    with queue.producer() as out:
        out.put_many([1, 2])
    with pytest.raises(DeadLetters):
        queue.join(60)
    assert queue.retry_dead() == 1
    queue.join(60)
    assert sorted(queue.results()) == [6.0, 7.0]


def test_a_call_whose_process_is_killed_has_it_the_next_time(client: Client) -> None:
    data = array(5)
    futures = [client.submit(dies_once, data), client.submit(first, data)]
    attempt, value = futures[0].result(60)
    assert attempt > 1
    assert value == 5.0
    assert futures[1].result(60) == 5.0


def test_a_call_that_is_tried_again_has_it_though_others_have_come_meanwhile(cluster: Cluster) -> None:
    patient = task(name="tests.patient_array", retries=1, backoff_s=0.2)(_fails_once)
    with cluster.client(aside_cache_bytes=MB) as client:
        late = client.submit(patient, array(5))
        assert [client.submit(first, array(n)).result(60) for n in range(5)] == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert late.result(60) == (2, 5.0)


def _fails_once(array: Any) -> tuple[int, float]:
    return fails_once(array)


def test_what_no_call_needs_is_kept_within_the_bound_and_sent_again_when_it_is_needed(cluster: Cluster) -> None:
    arrays = [array(n) for n in range(5)]
    with cluster.client(aside_cache_bytes=2 * MB) as client:
        assert [client.submit(first, one).result(60) for one in arrays] == [0.0, 1.0, 2.0, 3.0, 4.0]
        job = calls_of(client).job
        until(lambda: len(aside(client, job)) == 2, "the oldest to be removed")
        assert [client.submit(first, one, 1).result(60) for one in arrays] == [1.0, 2.0, 3.0, 4.0, 5.0]
    with cluster.client() as client:
        assert aside(client, job) == set()  # with the client all goes


def test_what_a_waiting_call_needs_is_never_removed_to_make_room(cluster: Cluster, name: str) -> None:
    gate = Gate(cluster.url, name)
    with cluster.client(aside_cache_bytes=0) as client:
        held = [client.submit(gate, n) for n in range(2)]
        gate.begun(2)  # both slots
        try:
            futures = [client.submit(first, array(n)) for n in range(8)]
            job = calls_of(client).job
            assert len(aside(client, job)) == 8
            assert futures[-1].cancel()
            until(lambda: len(aside(client, job)) == 7, "what nobody needs to be removed")
        finally:
            gate.open(2)
        assert [future.result(60) for future in futures[:-1]] == [float(n) for n in range(7)]
        assert [future.result(60) for future in held] == [0, 1]
        until(lambda: not aside(client, job), "all to be removed")


def test_what_is_gone_or_was_changed_is_told_and_the_next_call_mends_it(lonely: Cluster) -> None:
    gone, changed, right = array(1), array(2), array(3)
    with lonely.client() as client:
        futures: dict[str, Any] = {}
        fields: dict[str, str] = {}
        for which, data in (("gone", gone), ("changed", changed), ("right", right)):
            known = aside(client, calls_of(client).job) if fields else set()
            futures[which] = client.submit(first, data)
            (fields[which],) = aside(client, calls_of(client).job) - known
        key, redis = keys.of_job(calls_of(client).job, "job"), client._connection.redis
        redis.hdel(key, fields["gone"])
        forged = array(9).tobytes()
        redis.hset(key, fields["changed"], forged)
        with Worker(lonely.url, lonely.key, "solo", pool="solo", slots=1):
            with pytest.raises(AsideLost, match="submit the call again"):
                futures["gone"].result(60)
            with pytest.raises(BadEnvelope, match="changed"):
                futures["changed"].result(60)
            assert futures["right"].result(60) == 3.0
            assert client.submit(first, gone).result(60) == 1.0
            assert len(aside(client, calls_of(client).job)) == 3
            assert client.submit(first, changed).result(60) == 2.0
            refused: Any = redis.hgetall(keys.REFUSED)
            assert sum(map(int, refused.values())) >= 1


def test_a_job_that_has_expired_leaves_nothing_and_can_be_made_anew(cluster: Cluster, name: str) -> None:
    function = functools.partial(first, array(5))
    with cluster.client(ttl_s=1) as client:
        redis = client._connection.redis
        for _ in range(2):
            queue = client.queue(name, function)
            with queue.producer() as out:
                out.put(1)
            queue.join(60)
            until(lambda: not redis.exists(keys.of_job(name, "job")), "it to expire")


def test_a_client_that_dies_leaves_nothing_for_ever(cluster: Cluster) -> None:
    with cluster.client(lease_s=1, ttl_s=1) as client:
        future = client.submit(first, array(5))
        assert future.result(60) == 5.0
        calls = calls_of(client)
        client._connection.heart.stop()  # as if it were dead: its lease runs out
        redis = client._connection.redis
        until(lambda: not redis.exists(keys.of_job(calls.job, "job")), "its job to expire")


def test_the_documents_program_does_what_it_says(cluster: Cluster, tmp_path: Path) -> None:
    assert printed_by("docs/aside.md", cluster, tmp_path) == [["0"]]


def test_who_is_told_late_that_it_is_gone_takes_nothing_from_who_has_sent_it_since(lonely: Cluster) -> None:
    data = array(1)
    with lonely.client(aside_cache_bytes=0) as client:
        client.submit(first, [1.0])
        calls = calls_of(client)
        parcel = calls._aside.parcel()
        client._connection.sealer.dump(data, parcel)
        early, other = (calls._aside.hold(parcel.contents) for _ in range(2))
        calls._aside.lost(early)
        again = calls._aside.hold(parcel.contents)
        calls._aside.lost(other)
        calls._aside.release(early)
        calls._aside.release(other)
        assert len(aside(client, calls.job)) == 1  # it is needed
        calls._aside.release(again)
        assert aside(client, calls.job) == set()
        client.close(wait=False)


def test_a_function_s_array_may_be_larger_than_an_item(cluster: Cluster) -> None:
    with cluster.client(max_item_bytes=MB // 2) as client:
        assert list(client.map(functools.partial(first, array(1)), [1, 2])) == [2.0, 3.0]
