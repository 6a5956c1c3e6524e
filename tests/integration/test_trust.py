"""Who may talk to whom: addresses, passwords, keys. Nothing is unpickled before its envelope verifies (invariant 5)."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastcall import Client
from lastcall.errors import (
    BadEnvelope,
    ConfigError,
    DeadLetters,
    FunctionNotAllowed,
    NotSerializable,
    RemoteError,
    ServerUnreachable,
    WrongPassword,
)
from lastcall.state import keys
from tests import functions
from tests.conftest import Cluster, start_server
from tests.functions import produce
from tests.workers import Worker

pytestmark = pytest.mark.integration

OTHER_KEY = "another key, long enough"
WRONG_KEY = "it was sealed with another key, changed on the way, or made for another place: give this side and the"


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def set_trap(path: str) -> Trap:
    return Trap(Path(path))


@pytest.fixture
def other(cluster: Cluster) -> Iterator[Client]:
    """A client with another key than the workers."""
    with Client(cluster.url, OTHER_KEY) as client:
        yield client


def refused(client: Client, node: str) -> int:
    return int(client._connection.redis.hget(keys.REFUSED, node) or 0)  # type: ignore[arg-type]


CLIENT_NODE = f"client@{socket.gethostname()}"


# Addresses


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(ServerUnreachable) as caught:
        Client("redis://:secret@127.0.0.1:1/0", OTHER_KEY)
    said = str(caught.value)
    assert said.startswith("expected a Redis or Valkey server at redis://:***@127.0.0.1:1/0, but it cannot be reached")
    assert said.endswith("start it, or point LASTCALL_URL at one that runs")
    assert "secret" not in said


@pytest.mark.parametrize("url", ["redis://:wrong@127.0.0.1:{}/0", "redis://127.0.0.1:{}/0"])
def test_a_wrong_or_missing_password_is_named(url: str) -> None:
    server = start_server(password="right")
    try:
        with pytest.raises(WrongPassword) as caught:
            Client(url.format(server.port), OTHER_KEY)
    finally:
        server.close()
    for part in ("refused the user or password", "LASTCALL_URL (redis://:password@host", "LASTCALL_PASSWORD_FILE"):
        assert part in str(caught.value)
    assert "wrong@" not in str(caught.value)


def test_a_url_of_another_scheme_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Client("amqp://localhost", OTHER_KEY)
    for part in ("such as redis://", "got the scheme 'amqp'", "start it with redis:// (plain), rediss:// (TLS)"):
        assert part in str(caught.value)


def test_a_key_that_is_too_short_is_refused(cluster: Cluster) -> None:
    with pytest.raises(ConfigError) as caught:
        Client(cluster.url, "short")
    assert str(caught.value) == (
        "key (LASTCALL_KEY) must be at least 16 bytes, got 5 bytes: make one with: lastcall secrets key"
    )


def test_slots_are_for_a_private_server(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match="slots must be given only without a server's URL, got 2: leave it out"):
        cluster.client(slots=2)


# Another key


def test_an_item_signed_with_another_key_is_refused_and_counted_and_never_unpickled(
    client: Client, other: Client, name: str, tmp_path: Path
) -> None:
    queue = client.queue(name, functions.same)
    before = refused(client, "cpu@test")
    stranger = other.queue(name)  # it knows the queue by name
    with queue.producer() as out, stranger.producer() as bad:
        bad.put(Trap(tmp_path / "trap"))
        bad.flush()
        out.put(1)
    with pytest.raises(DeadLetters, match="1 of 2 items"):
        queue.join(30)
    assert not (tmp_path / "trap").exists()
    assert refused(client, "cpu@test") == before + 1
    assert list(queue.results()) == [1]
    (letter,) = queue.dead_letters()
    assert isinstance(letter.error, BadEnvelope)
    assert f"refused an envelope for {name}/{name}/2-1/in: {WRONG_KEY}" in str(letter.error)
    assert isinstance(letter.value, BadEnvelope)
    with pytest.raises(BadEnvelope):
        list(stranger.dead_letters())


def test_results_signed_with_another_key_are_refused_and_counted_and_never_unpickled(
    client: Client, other: Client, name: str, tmp_path: Path
) -> None:
    queue = client.queue(name, set_trap)
    produce(queue, None, [str(tmp_path / "trap")])
    queue.join(30)
    before = refused(client, CLIENT_NODE)
    with pytest.raises(BadEnvelope, match="it was sealed with another key"):
        next(other.queue(name).results(timeout=30))
    assert not (tmp_path / "trap").exists()
    assert refused(client, CLIENT_NODE) == before + 1
    list(queue.results())
    assert (tmp_path / "trap").exists()  # it would have snapped


def test_a_function_signed_with_another_key_is_refused(client: Client, other: Client, tmp_path: Path) -> None:
    before = refused(client, "cpu@test"), refused(client, CLIENT_NODE)
    results = other.map(_Trapped(tmp_path / "trap"), [1])
    # The worker's answer is signed with a key that this client does not have.
    with pytest.raises(BadEnvelope, match="it was sealed with another key"):
        next(results)
    assert not (tmp_path / "trap").exists()
    assert refused(client, "cpu@test") > before[0]
    assert refused(client, CLIENT_NODE) == before[1] + 1


class _Trapped:
    """A callable that makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __call__(self, n: int) -> int:
        return n

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_calls_signed_with_another_key_are_refused_one_by_one(client: Client, other: Client, tmp_path: Path) -> None:
    futures = [other.submit(functions.same, Trap(tmp_path / f"trap-{n}")) for n in range(2)]
    for future in futures:
        assert isinstance(future.exception(30), BadEnvelope)
    assert not list(tmp_path.iterdir())
    assert not other._calls["cpu"].broken


def test_a_consumer_refuses_an_item_signed_with_another_key_and_leaves_it_there(
    client: Client, other: Client, name: str, tmp_path: Path
) -> None:
    queue, stranger = client.queue(name), other.queue(name)
    before = refused(client, CLIENT_NODE)
    with stranger.producer() as out:
        out.put(Trap(tmp_path / "trap"))
    with pytest.raises(BadEnvelope, match=WRONG_KEY):
        next(iter(queue))
    assert not (tmp_path / "trap").exists()
    assert refused(client, CLIENT_NODE) == before + 1
    assert queue.status().ready == 1
    assert list(stranger) == [None]  # what os.mkdir returned
    assert (tmp_path / "trap").exists()


def test_an_envelope_is_good_in_its_own_place_only(client: Client, names: Any) -> None:
    one, other = client.queue(names()), client.queue(names())
    for queue in (one, other):
        with queue.producer() as out:
            out.put(queue.name)
    redis = client._connection.redis
    copied: Any = redis.hget(keys.of_queue(one.job, one.name, "chunks"), "1-1")
    redis.hset(keys.of_queue(other.job, other.name, "chunks"), "1-1", copied)
    with pytest.raises(BadEnvelope, match="made for another place"):
        list(other)
    changed = bytearray(copied)
    changed[-1] ^= 1
    redis.hset(keys.of_queue(one.job, one.name, "chunks"), "1-1", bytes(changed))
    with pytest.raises(BadEnvelope, match="changed on the way"):
        list(one)
    one.cancel()
    other.cancel()


# No key at all


@pytest.fixture(scope="module")
def keyless() -> Iterator[Cluster]:
    """A server and a worker without a key, which knows the tasks of tests.functions."""
    server = start_server(tcp=False)
    try:
        worker = Worker(server.unix_url, None, "open", pool="threads", options=("-I", "tests.functions"))
        with worker:
            worker.ready()
            yield Cluster(server, server.unix_url, "", (worker,))
    finally:
        server.close()


@pytest.fixture
def open_client(keyless: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.delenv("LASTCALL_KEY", raising=False)
    with Client(keyless.url) as client:
        yield client


def test_without_a_key_tasks_and_plain_values_work(open_client: Client) -> None:
    assert list(open_client.map(functions.cube, range(1_000))) == [n**3 for n in range(1_000)]
    assert open_client.submit(functions.cube, 3).result(30) == 27
    assert open_client.submit(functions.cube, n=3).result(30) == 27
    queue = open_client.queue("cubes", functions.cube)
    produce(queue, None, [1, 2])
    assert sorted(queue.results(timeout=30)) == [1, 8]
    table = open_client.queue("table")
    values = [None, True, 1.5, "text", b"bytes", [1, {"a": 2}], (1, 2)]
    produce(table, None, values)
    assert list(table) == [*values[:-1], [1, 2]]  # tuples arrive as lists


def test_without_a_key_stages_work(open_client: Client) -> None:
    last = open_client.queue("last", functions.picky, job="stages")
    first = open_client.queue("first", functions.cube, into=last)
    produce(first, None, [1, 2, -1])
    assert sorted(last.results(timeout=30)) == [1, 8]
    with pytest.raises(DeadLetters, match="1 of 3"):
        last.join(30)
    (letter,) = last.dead_letters()
    assert (letter.value, str(letter.error)) == (-1, "-1 is negative")


def test_without_a_key_errors_that_are_built_in_arrive_as_themselves(open_client: Client) -> None:
    error = open_client.submit(functions.picky, -1).exception(30)
    assert isinstance(error, ValueError)
    assert "in picky" in str(error.__cause__)
    with pytest.raises(ValueError, match="-1 is negative"):
        list(open_client.map(functions.picky, [-1]))
    error = open_client.submit(functions.picky, "x").exception(30)
    assert isinstance(error, TypeError)
    odd = open_client.submit(functions.oddly, 1).exception(30)
    assert isinstance(odd, RemoteError)
    assert odd.type_name == "tests.functions.Odd"


@pytest.mark.parametrize("function", [functions.not_a_task, lambda n: n, abs], ids=["plain", "lambda", "built in"])
def test_without_a_key_other_functions_are_refused(open_client: Client, name: str, function: Any) -> None:
    said = "without a key only functions registered with @task can be sent: decorate it and"
    for use in (
        lambda: open_client.submit(function, 1),
        lambda: open_client.map(function, [1]),
        lambda: open_client.queue(name, function),
    ):
        with pytest.raises(FunctionNotAllowed, match=said):
            use()


def test_without_a_key_other_values_are_refused_by_their_number(open_client: Client, name: str) -> None:
    said = "without a key only None, bool, int .* can be sent: set LASTCALL_KEY on both sides"
    with pytest.raises(NotSerializable, match=rf"cannot send argument 0 \(a complex\): msgpack: .*{said}"):
        open_client.submit(functions.cube, 1j)
    with pytest.raises(NotSerializable, match=rf"cannot send item 2 \(a set\): .*{said}"):
        list(open_client.map(functions.cube, [1, 2, {3}]))
    with open_client.queue(name).producer() as out:
        out.put(1)
        with pytest.raises(NotSerializable, match=rf"cannot send item 1 \(a object\): .*{said}"):
            out.put(object())
    with pytest.raises(NotSerializable, match=r"the result of item 0 \(a complex\)"):
        open_client.submit(functions.complex_of, 1).result(30)


def test_a_client_with_a_key_and_a_worker_without_refuse_each_other(
    keyless: Cluster, open_client: Client, tmp_path: Path
) -> None:
    before = refused(open_client, "open@test")
    with Client(keyless.url, OTHER_KEY) as keyed:
        error = keyed.submit(functions.cube, Trap(tmp_path / "trap")).exception(30)
        assert isinstance(error, BadEnvelope)
        assert "expected one that is signed, got one without a key: set LASTCALL_KEY at the sender too" in str(error)
        with pytest.raises(BadEnvelope, match="got one without a key"):
            list(keyed.map(functions.cube, [1]))
    assert refused(open_client, "open@test") >= before + 2
    assert not (tmp_path / "trap").exists()


def test_a_client_without_a_key_and_a_worker_with_one_refuse_each_other(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LASTCALL_KEY", raising=False)
    with Client(cluster.url) as client:
        error = client.submit(functions.cube, 1).exception(30)
        assert isinstance(error, BadEnvelope)
        assert "it is signed, but this side has no key: set LASTCALL_KEY to the sender's" in str(error)


def test_a_task_that_the_worker_does_not_know_is_named(open_client: Client) -> None:
    from lastcall import task

    unknown = task(name=f"unknown-{next(itertools.count())}")(lambda n: n)
    error = open_client.submit(unknown, 1).exception(30)
    for part in ("worker open@test cannot import unknown-0", "lastcall worker -I MODULE", "known: "):
        assert part in str(error)
