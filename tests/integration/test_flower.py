"""Flower as `lastcall flower` starts it: behind its password, with every call by name and a page for queues."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from lastcall.client import Client
from lastcall.state import keys
from lastcall_flower.watch import MOST_ENDED, Watch
from tests.servers import Server

pytestmark = pytest.mark.integration

T = TypeVar("T")

KEY = "a key of this test's own"
LOGIN = "ann:her password"
LASTCALL = (sys.executable, "-c", "from lastcall.cli import main; main()")
DEADLINE_S = 30.0


def environment(server: Server, **others: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LASTCALL_", "FLOWER_"))}
    return {**clean, "LASTCALL_URL": server.url, "LASTCALL_KEY": KEY, **others}


def until(look: Callable[[], T | None], what: str) -> T:
    """What `look` gives, once it gives something: a page does not tell when it changes."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = look()
        if found is not None:
            return found
        assert time.monotonic() < deadline, f"waited {DEADLINE_S} s for {what}"
        time.sleep(0.05)  # a page tells nobody that it has changed


class Process:
    """A command that runs until the block is left, once its stderr has shown `ready`."""

    def __init__(self, arguments: list[str], env: dict[str, str], ready: str) -> None:
        self.log = ""
        self.found: re.Match[str] | None = None
        self._ready = ready
        self._come = threading.Event()
        self.process = subprocess.Popen(
            [*LASTCALL, *arguments], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line
            if self.found is None:
                self.found = re.search(self._ready, line)
                if self.found is not None:
                    self._come.set()
        self._come.set()

    def __enter__(self) -> Process:
        self._reader.start()
        self._come.wait(DEADLINE_S)
        if self.found is None:
            self.__exit__(None, None, None)
            pytest.fail(f"{self._ready!r} did not come:\n{self.log}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.process.terminate()
        try:
            self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


class Flower(Process):
    """`lastcall flower` on a free port."""

    def __init__(self, server: Server, *options: str, **variables: str) -> None:
        super().__init__(
            ["flower", "--port", "0", *options], environment(server, **variables), r"Visit me at (http://\S+)"
        )

    @property
    def url(self) -> str:
        assert self.found is not None
        return self.found[1].rstrip("/").replace("0.0.0.0", "127.0.0.1")

    def get(self, path: str, login: str | None = LOGIN) -> tuple[int, str]:
        """Status and text."""
        request = Request(self.url + path)
        if login is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        try:
            with urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def json(self, path: str, login: str | None = LOGIN) -> Any:
        status, text = self.get(path, login)
        assert status == 200, text
        return json.loads(text)

    def queue(self, address: str) -> dict[str, Any]:
        (found,) = [queue for queue in self.json("/api/queues")["queues"] if queue["address"] == address]
        return dict(found)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(password="the server's") as started:
        yield started


@pytest.fixture(scope="module")
def flower(server: Server) -> Iterator[Flower]:
    with Flower(server, "--basic-auth", LOGIN) as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, KEY) as made:
        yield made


PAGES = ("/", "/workers", "/tasks", "/broker", "/queues")
CLOSED = (*PAGES, "/api/queues", "/api/tasks", "/api/workers", "/metrics")


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("login", [None, "ann:another", "bob:her password"])
def test_nothing_is_shown_without_the_password(flower: Flower, path: str, login: str | None) -> None:
    status, text = flower.get(path, login)
    assert status == 401
    assert "<html" not in text
    assert "{" not in text


@pytest.mark.parametrize("path", CLOSED)
def test_the_password_opens_every_page(flower: Flower, path: str) -> None:
    assert flower.get(path)[0] == 200


@pytest.mark.parametrize("path", PAGES)
def test_every_page_links_to_the_queues(flower: Flower, path: str) -> None:
    _, text = flower.get(path)
    (link,) = re.findall(r'<a class="nav-link( active)?" href="/queues"[^>]*>Queues</a>', text)
    assert bool(link) == (path == "/queues")


def test_health_needs_no_password_and_tells_nothing(flower: Flower) -> None:
    assert flower.get("/healthcheck", None) == (200, "OK")


def test_queues_are_told_with_their_producers_and_counts(flower: Flower, client: Client) -> None:
    queue = client.queue("told", sum, job="flowery", producers=3)
    with queue.producer("first") as first, queue.producer("second") as second:
        first.put_many([[1], [2]])
        first.flush()
        second.put([3])
        second.flush()
        told = flower.queue("flowery/told")
        expected = {
            "state": "OPEN",
            "ended": False,
            "live": 2,
            "expected": 3,
            "lost": [],
            "put": 3,
            "ready": 3,
            "done": 0,
        }
        assert {name: told[name] for name in expected} == expected
        assert (told["workers"], told["function"]) == ("cpu", "builtins:sum")
        assert [(p["name"], p["state"]) for p in told["producers"]] == [("first", "live"), ("second", "live")]
    queue.cancel()
    told = flower.queue("flowery/told")
    assert (told["state"], told["ended"], told["cancelled"]) == ("CANCELLED", True, 3)


def test_a_lost_producer_is_named(flower: Flower, client: Client) -> None:
    queue: Any = client.queue("forsaken")
    with pytest.raises(ZeroDivisionError), queue.producer("clumsy"):
        raise ZeroDivisionError
    told = flower.queue("forsaken")
    assert (told["state"], told["lost"], told["live"]) == ("INCOMPLETE", ["clumsy"], 0)


def test_a_queue_that_has_ended_stays_in_view_and_one_that_has_expired_does_not(
    flower: Flower, client: Client, server: Server
) -> None:
    queue: Any = client.queue("brief")
    flower.queue("brief")
    with queue.producer():
        pass
    # As the reaper does with queues that have ended.
    redis = server.client()
    redis.hdel(keys.QUEUES, "brief/brief")
    assert flower.queue("brief")["state"] == "DRAINED"
    redis.delete(*keys.queue("brief", "brief"))
    assert "brief" not in [told["address"] for told in flower.json("/api/queues")["queues"]]


def test_queues_that_have_not_ended_come_first_and_few_of_the_others_are_kept(client: Client, server: Server) -> None:
    watch = Watch(server.client())
    for number in range(MOST_ENDED + 5):
        client.queue(f"old-{number}").seal()
    live: Any = client.queue("live")
    with live.producer():
        told = watch.look()["queues"]
        states = [queue["ended"] for queue in told]
        assert states == sorted(states)
        assert states.count(True) == MOST_ENDED
        assert "live" in [queue["address"] for queue in told[: states.count(False)]]


def test_the_stages_of_a_job_are_together_and_in_their_order(client: Client, server: Server) -> None:
    watch = Watch(server.client())
    into: Any = None
    for stage in ("zeta", "beta", "alpha", "gamma"):  # the last one first
        into = client.queue(stage, abs, job="chain", into=into)
        client.queue(f"between-{stage}")
    addresses = [queue["address"] for queue in watch.look()["queues"]]
    chain = [address for address in addresses if address.startswith("chain/")]
    at = addresses.index(chain[0])
    assert chain == [f"chain/{stage}" for stage in ("gamma", "alpha", "beta", "zeta")]
    assert addresses[at : at + 4] == chain


def test_every_call_is_listed_by_name(flower: Flower, client: Client, server: Server) -> None:
    worker = ["worker", "-P", "solo", "-n", "gardener@here"]
    with Process(worker, environment(server), r"gardener@here ready"):
        until(lambda: [w for w in flower.json("/api/queues")["workers"] if w["node"] == "gardener@here"] or None,
              "the worker among those that live")  # fmt: skip

        # A monitor asks workers for events; until one has heard it, it sends none.
        def listed() -> dict[str, Any] | None:
            assert client.submit(divmod, 7, 2).result(timeout=DEADLINE_S) == (3, 1)
            # Its events come one after the other: one that was just received is not yet done there.
            tasks = flower.json("/api/tasks?state=SUCCESS").values()
            return next((task for task in tasks if task["name"] == "builtins.divmod"), None)

        call = until(listed, "a call of divmod in Flower")
        assert (call["state"], call["args"], call["result"]) == ("SUCCESS", "(7, 2)", "(3, 1)")
        assert call["worker"] == "gardener@here"
        assert "builtins.divmod" in flower.get("/metrics")[1]
        with pytest.raises(ZeroDivisionError):
            client.submit(divmod, 1, 0).result(timeout=DEADLINE_S)

        def failed() -> dict[str, Any] | None:
            tasks = flower.json("/api/tasks?state=FAILURE").values()
            return next(iter(tasks), None)

        failure = until(failed, "a failed call in Flower")
        assert failure["name"] == "builtins.divmod"
        assert "ZeroDivisionError" in failure["exception"]
        assert "Traceback" in failure["traceback"]
        names = {task["name"] for task in flower.json("/api/tasks").values()}
        assert names == {"builtins.divmod"}  # the machinery is not shown


def test_the_page_says_so_while_the_server_is_away() -> None:
    with Server(persistent=True) as server, Flower(server) as flower:
        assert flower.get("/api/queues", None)[0] == 200
        server.kill()
        status, text = flower.get("/api/queues", None)
        assert status == 503
        assert "the server cannot be reached" in json.loads(text)["error"]
        assert flower.get("/queues", None)[0] == 200
        server.start()
        until(lambda: True if flower.get("/api/queues", None)[0] == 200 else None, "the server to be back")


def test_a_password_from_a_file_is_that_of_the_user_lastcall(server: Server, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from a file\n")
    with Flower(server, LASTCALL_FLOWER_PASSWORD_FILE=str(tmp_path / "password")) as flower:
        assert flower.get("/queues", None)[0] == 401
        assert flower.get("/queues", "lastcall:from a file")[0] == 200


def test_the_pages_follow_a_url_prefix(server: Server) -> None:
    with Flower(server, "--url-prefix=monitor") as flower:
        status, text = flower.get("/queues", None)
        assert status == 200
        assert 'href="/monitor/queues"' in text
        assert '"/monitor/api/queues"' in text
        assert flower.json("/api/queues", None)["queues"] is not None


def test_it_ends_with_0_when_it_is_told_to(server: Server) -> None:
    with Flower(server) as flower:
        pass
    assert flower.process.returncode == 0
    assert "Traceback" not in flower.log


@pytest.mark.parametrize("address", ["0.0.0.0", "", "::", "192.0.2.1", "example.org"])
def test_it_refuses_to_show_everybody_what_has_no_password(server: Server, address: str) -> None:
    ran = refused(server, f"--address={address}")
    assert f"--address must be 127.0.0.1 where Flower has no password, got {address!r}" in ran
    assert "LASTCALL_FLOWER_PASSWORD_FILE" in ran


def test_with_a_password_it_listens_to_others(server: Server) -> None:
    with Flower(server, "--address", "0.0.0.0", "--basic-auth", LOGIN) as flower:
        assert flower.get("/queues", None)[0] == 401
        assert flower.get("/queues")[0] == 200


def test_an_option_that_nobody_knows_is_refused(server: Server) -> None:
    assert "an option of Flower's, such as --port=5555, got '--prot=5555'" in refused(server, "--prot=5555")


def test_a_password_file_that_is_missing_or_empty_is_refused(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "password"
    wrong = "LASTCALL_FLOWER_PASSWORD_FILE must be the path of a file with a password in it"
    assert wrong in refused(server, LASTCALL_FLOWER_PASSWORD_FILE=str(path))
    path.write_text("\n")
    assert f"{wrong}, got {path}, empty" in refused(server, LASTCALL_FLOWER_PASSWORD_FILE=str(path))


def test_it_says_what_is_wrong_with_the_server() -> None:
    with Server(password="right") as server:
        wrong = server.url.replace("right", "wrong")
        assert "WrongPassword" in refused(server, LASTCALL_URL=wrong)
        assert "url (LASTCALL_URL) must be set" in refused(server, LASTCALL_URL="")
        assert "redis://:***@" in refused(server, LASTCALL_URL=wrong)


def refused(server: Server, *options: str, **variables: str) -> str:
    """What it says when it does not start."""
    ran = subprocess.run(
        [*LASTCALL, "flower", "--port=0", *options], env=environment(server, **variables),
        capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    return ran.stderr
