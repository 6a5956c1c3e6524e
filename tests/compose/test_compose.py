"""The service in containers, from nothing: one command, a true result, and nothing open or guessable.

The tests go through one life of it, in their order.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lastcall.client import Client
from lastcall.state.ledger import Ledger

pytestmark = [pytest.mark.compose, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
LASTCALL = (sys.executable, "-c", "from lastcall.cli import main; main()")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """The service as a project of its own, on free ports."""

    def __init__(self) -> None:
        self.project = f"lastcall-test-{uuid.uuid4().hex[:8]}"
        self.redis_port, self.flower_port = free_port(), free_port()
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LASTCALL_", "COMPOSE_"))}
        self.environment = {
            **clean,
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_ANSI": "never",
            "LASTCALL_REDIS_PORT": str(self.redis_port),
            "LASTCALL_FLOWER_PORT": str(self.flower_port),
        }
        self.exported: dict[str, str] = {}

    def run(self, *command: str, expect: int = 0) -> str:
        """A command's stdout; both streams where its exit code is another than expected."""
        ran = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True)
        assert ran.returncode == expect, f"{' '.join(command)}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def compose(self, *arguments: str, expect: int = 0) -> str:
        return self.run("docker", "compose", "--profile", "*", *arguments, expect=expect)

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """What the engine knows of each, those that have ended too."""
        ids = self.compose("ps", "--all", "--quiet", *services).split()
        return list(json.loads(self.run("docker", "inspect", *ids)))

    def ended(self, name: str) -> list[int]:
        """The exit codes of a service's containers, once all have ended."""
        ids = self.compose("ps", "--all", "--quiet", name).split()
        return [int(code) for code in self.run("docker", "wait", *ids).split()]

    def running(self, name: str) -> bool:
        return bool(self.compose("ps", "--status", "running", "--quiet", name).strip())

    def logs(self, name: str) -> str:
        return self.compose("logs", "--no-color", "--no-log-prefix", name)

    def status(self, *arguments: str) -> dict[str, Any]:
        """`lastcall status` on this machine, with what `secrets show` has exported."""
        ran = subprocess.run(
            [*LASTCALL, "status", "--json", *arguments], env={**self.environment, **self.exported},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return dict(json.loads(ran.stdout))

    def flower(self, path: str, login: str = "") -> tuple[int, str]:
        request = Request(f"http://127.0.0.1:{self.flower_port}{path}")
        if login:
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        try:
            with urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()


def exports(script: str) -> dict[str, str]:
    """What a shell has in its environment after it took in a script."""
    ran = subprocess.run(
        ["sh", "-euc", 'eval "$1"; env', "sh", script],
        env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    pairs = (line.partition("=") for line in ran.stdout.splitlines())
    return {name: value for name, _, value in pairs if name.startswith("LASTCALL_")}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """The service, started as its users do, and the demo's producers at work."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        missing = "docker compose is not here: install Docker Engine and its compose plugin"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    started = Service()
    try:
        started.compose("build")
        started.run("docker", "compose", "up", "--detach")
        started.exported = exports(started.run("docker", "compose", "run", "--rm", "-T", "secrets", "show"))
        yield started
    finally:
        started.compose("down", "--volumes", "--remove-orphans", "--rmi", "local", "--timeout", "20")


def test_both_producers_end_with_a_true_table(service: Service) -> None:
    codes = service.ended("producer")
    log = service.logs("producer")
    assert codes == [0, 0], log
    assert log.count("the result is true") == 2, log
    assert log.count("everything has ended by itself") == 2, log
    queues = {queue["address"]: queue for queue in service.status("census")["queues"]}
    assert {queue["state"] for queue in queues.values()} == {"DRAINED"}
    read, parsed = queues["census/read"], queues["census/parse"]
    assert read["put"] == read["done"] == parsed["done"] > 300
    # Each of the two has put its share.
    assert sorted(producer["state"] for producer in read["producers"]) == ["left", "left"]
    assert sum(producer["position"] for producer in read["producers"]) == read["put"]
    assert min(producer["position"] for producer in read["producers"]) > 0


def test_one_command_tells_a_client_on_this_machine_all_it_needs(service: Service) -> None:
    assert set(service.exported) == {"LASTCALL_URL", "LASTCALL_KEY", "LASTCALL_FLOWER_URL"}
    with Client(service.exported["LASTCALL_URL"], service.exported["LASTCALL_KEY"]) as client:
        assert client.submit(divmod, 7, 2).result(timeout=60) == (3, 1)


def test_everything_is_healthy(service: Service) -> None:
    service.run("docker", "compose", "up", "--detach", "--wait", "--no-recreate", "worker", "worker-io", "flower")
    states = {
        container["Config"]["Labels"]["com.docker.compose.service"]: container["State"]["Health"]["Status"]
        for container in service.containers("redis", "worker", "worker-io", "flower")
    }
    assert states == dict.fromkeys(("redis", "worker", "worker-io", "flower"), "healthy")


def test_flower_asks_for_a_password_and_lists_every_call_by_name(service: Service) -> None:
    login = urlsplit(service.exported["LASTCALL_FLOWER_URL"])
    assert service.flower("/")[0] == 401
    assert service.flower("/api/tasks", "lastcall:guessed")[0] == 401
    secret = f"{login.username}:{login.password}"
    status, page = service.flower(login.path, secret)
    assert status == 200
    assert "lastcall queues" in page
    tasks = json.loads(service.flower("/api/tasks?limit=100000", secret)[1]).values()
    assert {task["name"] for task in tasks} >= {"lastcall.demo.census.read", "lastcall.demo.census.parse"}
    assert not [task for task in tasks if task["name"].startswith("lastcall.slot")]
    queues = json.loads(service.flower("/api/queues", secret)[1])["queues"]
    assert {"census/read", "census/parse"} <= {queue["address"] for queue in queues}


@pytest.mark.parametrize("password", [None, "", "lastcall", "redis"])
def test_redis_refuses_without_its_password(service: Service, password: str | None) -> None:
    with (
        redis.Redis(port=service.redis_port, password=password, retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_nothing_listens_but_on_this_machine(service: Service) -> None:
    bound = {
        (port, binding["HostIp"], binding["HostPort"])
        for container in service.containers()
        for port, bindings in (container["NetworkSettings"]["Ports"] or {}).items()
        for binding in bindings or ()
    }
    assert bound == {
        ("6379/tcp", "127.0.0.1", str(service.redis_port)),
        ("5555/tcp", "127.0.0.1", str(service.flower_port)),
    }


def test_no_container_has_more_rights_than_it_needs(service: Service) -> None:
    for container in service.containers():
        host, name = container["HostConfig"], container["Name"]
        assert container["Config"]["User"] not in ("", "root", "0"), name
        assert host["CapDrop"] == ["ALL"], name
        assert not host["CapAdd"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert host["ReadonlyRootfs"], name
        assert host["Init"], name


@pytest.mark.parametrize(
    ("name", "readable"),
    [
        ("redis", {"redis.password", "redis.conf"}),
        ("worker", {"redis.password", "redis.conf", "key"}),
        ("flower", {"redis.password", "redis.conf", "flower.password"}),
    ],
)
def test_a_secret_is_readable_only_by_those_who_need_it(service: Service, name: str, readable: set[str]) -> None:
    script = 'cd /run/lastcall; for file in *; do if test -r "$file"; then echo "$file"; fi; done'
    assert set(service.compose("exec", "-T", name, "sh", "-c", script).split()) == readable
    service.compose("exec", "-T", name, "sh", "-c", "touch /run/lastcall/x 2>/dev/null", expect=1)


def test_secrets_and_data_outlive_the_containers(service: Service) -> None:
    service.run("docker", "compose", "down", "--timeout", "20")
    service.run("docker", "compose", "up", "--detach", "--wait", "worker", "worker-io", "flower")
    assert exports(service.run("docker", "compose", "run", "--rm", "-T", "secrets", "show")) == service.exported
    assert {queue["state"] for queue in service.status("census")["queues"]} == {"DRAINED"}


def test_workers_can_be_scaled(service: Service) -> None:
    service.run("docker", "compose", "up", "--detach", "--wait", "--no-recreate", "--scale", "worker=3", "worker")
    workers = service.status()["workers"]
    nodes = [worker["node"] for worker in workers if worker["queues"] == ["cpu"]]
    assert len(set(nodes)) == 3, workers
    assert all(node.startswith("cpu@") for node in nodes)


def test_a_batch_ends_by_itself_with_the_jobs_code(service: Service) -> None:
    service.compose("up", "--exit-code-from", "batch", "batch")
    assert service.ended("batch-producer") == [0, 0]
    assert service.ended("batch") + service.ended("batch-io") == [0, 0]
    assert service.logs("batch-producer").count("everything has ended by itself") == 2


def test_a_batch_that_lost_a_producer_ends_with_3(service: Service) -> None:
    # It also finds the queues of the one before, which have ended.
    url = service.exported["LASTCALL_URL"].removesuffix("/0") + "/1"
    with ThreadPoolExecutor(1) as pool, redis.Redis.from_url(url) as database:
        reading = Ledger(database, "census", ["read"])
        up = pool.submit(service.compose, "up", "--exit-code-from", "batch", "batch", expect=3)
        # The queue holds less than both put: until workers take from it, one of them is blocked.
        while not (reading.status().state == "OPEN" and service.running("batch-io")):
            assert not up.done(), up.result()
            time.sleep(0.2)  # neither the engine nor the queue tells of both
        blocked = next(producer.name for producer in reading.status().producers if producer.state == "live")
        service.run("docker", "kill", blocked.rpartition("-")[0])  # its host's name is its container's
        up.result()
        assert [producer.name for producer in reading.status().producers if producer.state == "lost"] == [blocked]
    assert sorted(service.ended("batch-producer")) == [3, 137]
    assert service.ended("batch") + service.ended("batch-io") == [3, 3]
