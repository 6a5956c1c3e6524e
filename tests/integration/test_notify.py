"""A worker tells a URL how a queue ended: signed, tried again, once an end, and only where its operator allows it."""

from __future__ import annotations

import asyncio
import http.server
import io
import json
import queue as queues
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lastcall import AsyncClient, Client, Flow, Pool, errors, notification_secret, verify_notification
from lastcall.notify import sign
from lastcall.state import keys
from lastcall.state.ledger import Ledger
from lastcall_worker.notifier import Teller
from tests.conftest import Cluster
from tests.coroutines import nap
from tests.functions import Gate, plus_one, produce
from tests.workers import ROOT, Worker, environment, until

pytestmark = pytest.mark.integration

WAIT_S = 40.0


class Receiver:
    """A server on 127.0.0.1 that keeps what it is sent, and answers with what `answers` says, then with 204."""

    def __init__(self) -> None:
        self.came: queues.Queue[tuple[dict[str, str], bytes, str]] = queues.Queue()
        self.answers: list[tuple[int, str]] = []  # status, location
        self.before_answer: Callable[[], object] = lambda: None
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.came.put((dict(self.headers), body, self.path))
                receiver.before_answer()
                status, location = receiver.answers.pop(0) if receiver.answers else (204, "")
                self.send_response(status)
                if location:
                    self.send_header("location", location)
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def next(self) -> tuple[dict[str, str], bytes, str]:
        return self.came.get(timeout=WAIT_S)


@contextmanager
def receiver() -> Iterator[Receiver]:
    here = Receiver()
    try:
        yield here
    finally:
        here.close()


@pytest.fixture(scope="module")
def told() -> Iterator[Receiver]:
    with receiver() as here:
        yield here


@pytest.fixture(scope="module")
def other() -> Iterator[Receiver]:
    """Which no worker may tell."""
    with receiver() as here:
        yield here


@pytest.fixture(scope="module")
def teller(cluster: Cluster, told: Receiver) -> Iterator[Worker]:
    """A worker that may tell `told`, beside those of the session that may tell nobody."""
    with _teller(cluster, told, "teller") as worker:
        worker.ready()
        yield worker


def _teller(cluster: Cluster, told: Receiver, node: str, **more: str) -> Worker:
    return Worker(
        cluster.url, cluster.key, node, queues=f"{node}-own", slots=1,
        more={"LASTCALL_NOTIFY_HOSTS": f"hooks.example.com, {told.origin}", "LASTCALL_REAP_S": "0.1", **more},
    )  # fmt: skip


def end(client: Client, name: str, url: str, items: int = 3) -> Any:
    queue = client.queue(name, plus_one, notify=url)
    produce(queue, "p", list(range(items)))
    queue.join(30)
    return queue


def letters_of(client: Client, identity: str) -> list[Any]:
    return list(client.job(identity).queues[0].dead_letters())


def test_the_outcome_is_posted_and_can_be_verified(
    client: Client, cluster: Cluster, teller: Worker, told: Receiver, name: str
) -> None:
    end(client, name, f"{told.origin}/done?x=1")
    headers, body, path = told.next()
    assert path == "/done?x=1"
    content = verify_notification(headers, body, notification_secret(cluster.key))
    assert content == verify_notification(headers, body.decode(), cluster.key.encode())
    assert content["type"] == "queue.drained"
    data = content["data"]
    assert (data["job"], data["queue"], data["state"]) == (name, name, "DRAINED")
    counted = [data[name] for name in ("put", "done", "failed", "dead", "cancelled", "lost")]
    assert counted == [3, 3, 0, 0, 0, []]
    assert data["created"] <= data["ended"] == content["timestamp"]
    assert headers["webhook-id"] == content["id"]
    others = ("another key, that is not ours", notification_secret("another key, that is not ours"))
    for some in ((others[0],), (others[1],), others):
        with pytest.raises(errors.BadNotification, match="signature"):
            verify_notification(headers, body, *some)
    assert verify_notification(headers, body, others[1], cluster.key) == content  # one takes another's place
    with pytest.raises(errors.ConfigError, match="keys must be LASTCALL_KEY"):
        verify_notification(headers, body)
    with pytest.raises(errors.BadNotification, match="signature"):
        verify_notification(headers, body.replace(b"DRAINED", b"drained"), cluster.key)
    with pytest.raises(errors.BadNotification, match="more than 1e-09 s from now"):
        verify_notification(headers, body, cluster.key, tolerance_s=1e-9)


def test_it_is_tried_again_under_the_same_id_until_it_is_accepted(
    client: Client, cluster: Cluster, teller: Worker, told: Receiver, name: str
) -> None:
    told.answers[:] = [(500, ""), (304, "")]
    end(client, name, told.origin)
    came = [told.next() for _ in range(3)]
    contents = [verify_notification(headers, body, cluster.key) for headers, body, _ in came]
    assert contents[0] == contents[1] == contents[2]
    assert client.job(contents[0]["id"]).wait(30)[0].done == 1


def test_each_end_is_told_once_under_an_id_of_its_own(
    client: Client, cluster: Cluster, teller: Worker, told: Receiver, name: str
) -> None:
    queue = end(client, name, told.origin)
    first = json.loads(told.next()[1])
    queue.reopen()
    out = queue.producer("failing")
    out.put(1)
    out.__exit__(RuntimeError, RuntimeError(), None)  # as its block does when it fails
    second = json.loads(told.next()[1])
    queue.reopen()
    queue.cancel()
    third = json.loads(told.next()[1])
    assert [one["type"] for one in (first, second, third)] == ["queue.drained", "queue.incomplete", "queue.cancelled"]
    assert [one["data"]["epoch"] for one in (first, second, third)] == [1, 2, 3]
    assert second["data"]["lost"] == ["failing"]
    assert len({one["id"] for one in (first, second, third)}) == 3
    # The reapers have looked again since, and found nothing more to tell.
    until(
        lambda: f"{name}/{name}".encode() not in client._connection.redis.hkeys(keys.QUEUES),
        "the queue to be forgotten",
    )
    assert told.came.empty()


def test_an_end_is_told_while_the_queue_goes_on_that_was_reopened_before_a_reaper_looked(
    client: Client, cluster: Cluster, teller: Worker, told: Receiver, name: str
) -> None:
    queue = client.queue(name, plus_one, notify=told.origin)
    client._connection.redis.hdel(keys.QUEUES, f"{name}/{name}")  # no reaper looks at it
    queue.cancel()
    queue.reopen()
    with queue.producer("p") as out:
        assert json.loads(told.next()[1])["data"]["epoch"] == 1
        out.put(1)
    assert json.loads(told.next()[1])["data"]["epoch"] == 2


def test_a_map_and_a_pools_map_tell_their_end(client: Client, cluster: Cluster, teller: Worker, told: Receiver) -> None:
    results = client.map(plus_one, range(10), notify=told.origin)
    assert list(results) == list(range(1, 11))
    data = json.loads(told.next()[1])["data"]
    assert (data["job"], data["state"], data["done"]) == (results.job, "DRAINED", 10)
    with Pool(client=client) as pool:
        assert pool.map_async(plus_one, range(4), notify=told.origin).get(30) == [1, 2, 3, 4]
        assert json.loads(told.next()[1])["data"]["done"] == 4


def test_a_call_and_a_pools_call_tell_their_end(
    client: Client, cluster: Cluster, teller: Worker, told: Receiver, name: str
) -> None:
    future = client.submit_telling(f"{told.origin}/call", plus_one, 1)
    headers, body, path = told.next()
    data = verify_notification(headers, body, cluster.key)["data"]
    assert (path, data["put"], data["done"], data["state"]) == ("/call", 1, 1, "DRAINED")
    assert future.result(30) == 2
    with pytest.raises(TypeError):
        client.submit_telling(told.origin, plus_one, "one").result(30)
    data = json.loads(told.next()[1])["data"]
    assert (data["done"], data["failed"], data["dead"]) == (1, 1, 0)  # an exception is a result, too
    assert client.submit_telling(told.origin, nap, 1).result(30) == 1
    told.next()
    came: queues.Queue[object] = queues.Queue()
    with Pool(client=client) as pool:
        result = pool.apply_async(dict, [[("a", 1)]], {"b": 2}, came.put, notify=told.origin)
        assert came.get(timeout=WAIT_S) == result.get(30) == {"a": 1, "b": 2}
        assert json.loads(told.next()[1])["data"]["done"] == 1
        with pytest.raises(errors.NotificationRefused):
            pool.apply_async(plus_one, [1], notify="https://example.com/")
    assert told.came.empty()


def test_an_awaited_call_tells_its_end(cluster: Cluster, teller: Worker, told: Receiver) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.url, cluster.key) as client:
            future = await client.submit_telling(told.origin, plus_one, 1)
            assert await future == 2
            with pytest.raises(TypeError):
                await (await client.submit_telling(told.origin, plus_one, "one"))
            with pytest.raises(errors.NotificationRefused):
                await client.submit_telling("https://example.com/", plus_one, 1)

    asyncio.run(main())
    assert [json.loads(told.next()[1])["data"]["done"] for _ in range(2)] == [1, 1]


def test_a_call_that_nobody_awaits_any_more_is_told_as_cancelled(
    cluster: Cluster, teller: Worker, told: Receiver, name: str
) -> None:
    gate = Gate(cluster.url, name)

    async def main() -> None:
        async with asyncio.timeout(30), AsyncClient(cluster.url, cluster.key) as client:
            future = await client.submit_telling(told.origin, gate, 1)
            await asyncio.to_thread(gate.begun)
            future.cancel()

    asyncio.run(main())
    assert json.loads(told.next()[1])["data"]["state"] == "CANCELLED"
    gate.open()


def test_a_call_goes_on_and_is_told_when_who_made_it_has_died(
    client: Client, cluster: Cluster, teller: Worker, told: Receiver
) -> None:
    program = (
        "import os, signal; from lastcall import Client; from tests.functions import plus_one\n"
        f"Client().submit_telling({told.origin!r}, plus_one, 1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], env=environment(cluster.url, cluster.key), timeout=60)
    assert ended.returncode == -signal.SIGKILL
    data = json.loads(told.next()[1])["data"]
    assert (data["state"], data["done"], data["lost"]) == ("DRAINED", 1, [])


def test_a_call_that_cannot_be_sent_is_told_as_cancelled_and_none_leaves_anything_behind(
    client: Client, cluster: Cluster, teller: Worker, told: Receiver
) -> None:
    held = client._retired.copy()
    with pytest.raises(errors.NotSerializable):
        client.submit_telling(told.origin, plus_one, threading.Lock())
    assert json.loads(told.next()[1])["data"]["state"] == "CANCELLED"
    client.submit_telling(told.origin, plus_one, 1).result(30)
    told.next()
    until(lambda: client._retired == held, "the client to have let go of the call")


def test_the_last_queue_of_a_flow_tells(client: Client, cluster: Cluster, teller: Worker, told: Receiver) -> None:
    job = client.run(Flow(plus_one) | plus_one, range(10), mode="streaming", notify=told.origin)
    assert list(job.results()) == list(range(2, 12))
    data = json.loads(told.next()[1])["data"]
    assert (data["job"], data["queue"], data["state"], data["done"]) == (job.id, "plus_one-2", "DRAINED", 10)
    with pytest.raises(errors.ConfigError, match="notify"):
        client.run(plus_one, [1], mode="serial", notify=told.origin)


def test_a_queue_that_consumers_read_tells_its_end(
    client: Client, cluster: Cluster, teller: Worker, told: Receiver, name: str
) -> None:
    queue = client.queue(name, notify=told.origin)
    produce(queue, "p", ["bun"])
    assert list(queue) == ["bun"]
    assert json.loads(told.next()[1])["data"]["done"] == 1


def test_a_host_that_no_worker_may_tell_is_an_error_at_once(
    client: Client, cluster: Cluster, teller: Worker, told: Receiver, other: Receiver, name: str
) -> None:
    for url in (other.origin, "https://example.com/x", "https://hooks.example.com:444/", "http://hooks.example.com/"):
        with pytest.raises(errors.NotificationRefused, match=r"hooks\.example\.com.*LASTCALL_NOTIFY_HOSTS"):
            client.queue(name, plus_one, notify=url)
    for url in (
        "ftp://hooks.example.com", "https://hooks.example.com@127.0.0.1/", "https://user:pass@hooks.example.com/",
        "https://hooks.example.com\\@127.0.0.1/", "https:///x", "https://hooks.example.com/#x", 7, "https://a b/",
        "https://hooks.example.com:0/", "https://hooks.example.com:x/", "https://[127.0.0.1]/", "https://[::1]x/",
        "https://x[::1]/",
        "https://h\N{LATIN SMALL LETTER O WITH DIAERESIS}st/",
    ):  # fmt: skip
        with pytest.raises(errors.ConfigError, match="notify must be"):
            client.queue(name, plus_one, notify=url)  # type: ignore[arg-type]
    assert not any(status.name == name for status in client.status())


def test_without_a_key_nothing_can_be_signed(server: Any, name: str) -> None:
    with Client(server.unix_url) as client, pytest.raises(errors.ConfigError, match="LASTCALL_KEY"):
        client.queue(name, notify="https://hooks.example.com/")


def test_a_redirect_is_not_followed_and_becomes_a_dead_letter(
    client: Client, cluster: Cluster, teller: Worker, told: Receiver, other: Receiver, name: str
) -> None:
    told.answers[:] = [(307, f"{other.origin}/elsewhere")]
    end(client, name, f"{told.origin}/token")
    identity = json.loads(told.next()[1])["id"]
    with pytest.raises(errors.DeadLetters):
        client.job(identity).wait(30)
    (letter,) = letters_of(client, identity)
    assert isinstance(letter.error, errors.NotificationRefused)
    assert repr(letter.value) == f"<Notification {identity} for {told.origin}>"
    assert f"which sends them to {other.origin}/elsewhere" in str(letter.error)
    assert other.came.empty()
    assert client.job(identity).queues[0].retry_dead() == 1  # it may have been mended: the operator tries again
    assert json.loads(told.next()[1])["id"] == identity


def test_who_is_gone_is_not_told_again(
    client: Client, cluster: Cluster, teller: Worker, told: Receiver, name: str
) -> None:
    told.answers[:] = [(410, "")]
    end(client, name, told.origin)
    identity = json.loads(told.next()[1])["id"]
    with pytest.raises(errors.DeadLetters):
        client.job(identity).wait(30)
    (letter,) = letters_of(client, identity)
    assert (type(letter.error), letter.attempts) == (errors.NotificationGone, 1)


def test_a_worker_that_dies_while_it_posts_does_not_lose_the_notification(
    cluster: Cluster, server: Any, name: str
) -> None:
    own = Cluster(server, server.unix_url, cluster.key)
    with receiver() as told, own.client() as client:
        posting, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            posting.set()
            go_on.wait(WAIT_S)

        told.before_answer = hold
        try:
            with _teller(own, told, "first", LASTCALL_LEASE_S="1") as first:
                first.ready()
                queue = client.queue(name, notify=told.origin)
                produce(queue, "p", [1])
                assert list(queue) == [1]
                assert posting.wait(WAIT_S)
                first.kill()
            told.before_answer = lambda: None
            with _teller(own, told, "second", LASTCALL_LEASE_S="1") as second:
                second.ready()
                before, after = told.next(), told.next()
                assert json.loads(before[1])["id"] == json.loads(after[1])["id"]
                assert client.job(json.loads(after[1])["id"]).wait(30)[0].done == 1
        finally:
            go_on.set()


def test_who_hands_over_may_die_at_any_step_and_another_does_it_again(
    client: Client, cluster: Cluster, teller: Worker, told: Receiver, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = client.queue(name, notify=told.origin)
    client._connection.redis.hdel(keys.QUEUES, f"{name}/{name}")  # no reaper of a worker looks at it
    queue.cancel()
    ledger, here = queue._ledger, Teller(client.settings)
    for step in ("join", "put", "leave", "told"):

        def dies(*_: object, **__: object) -> None:
            raise InterruptedError

        with monkeypatch.context() as patch:
            patch.setattr(Ledger, step, dies)
            with pytest.raises(InterruptedError):
                here.hand_over(ledger)
        assert ledger.ends()
    assert here.hand_over(ledger)
    assert not ledger.ends()
    assert here.hand_over(ledger)
    content = json.loads(told.next()[1])
    assert client.job(content["id"]).wait(30)[0].done == 1
    assert told.came.empty()


def test_what_nobody_may_tell_waits_for_a_worker_that_may(cluster: Cluster, server: Any, name: str) -> None:
    own = Cluster(server, server.unix_url, cluster.key)
    with receiver() as told, own.client() as client:
        queue = client.queue(name, notify=told.origin)  # no worker is here yet, so nobody knows
        produce(queue, "p", [1])
        assert list(queue) == [1]
        with Worker(own.url, own.key, "silent", queues="silent", slots=1) as silent:
            silent.ready()
            until(
                lambda: f"{told.origin} is to be told, which no worker here may" in silent.log, "the worker to say so"
            )
            with _teller(own, told, "late") as late:
                late.ready()
                assert json.loads(told.next()[1])["data"]["state"] == "DRAINED"


def test_who_has_the_server_but_no_key_can_have_nobody_called(
    client: Client, cluster: Cluster, teller: Worker, told: Receiver, name: str
) -> None:
    first = client.queue(f"{name}-other", notify=f"{told.origin}/stolen")
    sealed = first._ledger.meta()["notify"]
    queue = client.queue(name, notify=told.origin)
    client._connection.redis.hset(keys.of_queue(name, name, "meta"), "notify", sealed)
    queue.cancel()
    until(lambda: not queue._ledger.ends(), "a reaper to have looked")
    first.cancel()
    assert json.loads(told.next()[1])["data"]["queue"] == f"{name}-other"
    assert told.came.empty()


def test_a_queue_that_is_there_tells_another_url_from_its_own(
    client: Client, cluster: Cluster, teller: Worker, told: Receiver, name: str
) -> None:
    client.queue(name, notify=f"{told.origin}/token-1")
    client.queue(name, notify=f"{told.origin}/token-1")
    with pytest.raises(errors.QueueMismatch, match="another URL") as raised:
        client.queue(name, notify=f"{told.origin}/token-2")
    assert "token" not in str(raised.value)
    client.queue(name).cancel()
    told.next()


def test_what_the_docs_give_whoever_is_told_works(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "waiting.md").read_text("utf-8"), re.DOTALL)
    there: dict[str, Any] = {}
    exec(program, there)  # the page is ours
    body = b'{"id": "notify-1", "data": {"queue": "orders", "state": "DRAINED"}}'
    key = b"the key that the workers have"

    def post(body: bytes, headers: dict[str, str]) -> str:
        environ: dict[str, Any] = {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
        answered: list[str] = []
        there["application"](environ, lambda status, _: answered.append(status))
        return answered[0]

    assert post(body, sign(key, "notify-1", body)) == post(body, sign(key, "notify-1", body)) == "204 No Content"
    assert capsys.readouterr().out == "orders DRAINED\n"
    for headers in (
        sign(b"another key, that is not ours", "notify-1", body), sign(key, "notify-2", body),
        sign(key, "notify-1", body, now_s=1.0), {**sign(key, "notify-1", body), "webhook-signature": ""},
        {**sign(key, "notify-1", body), "webhook-signature": "v1,\N{SNOWMAN} v1a,x v1"}, {},
    ):  # fmt: skip
        assert post(body, headers) == "400 Bad Request"
    assert capsys.readouterr().out == ""
