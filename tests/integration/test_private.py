"""Client() without a server's URL: a private server and workers, end to end."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastcall import Client, StatusableQueue
from lastcall.errors import ServerUnreachable
from tests import functions
from tests.functions import consume, produce, square
from tests.workers import environment, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def client(alone: None) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        # Meant for a server, and of no use here.
        patch.setenv("LASTCALL_BROKER_URL", "redis://127.0.0.1:1/0")
        patch.setenv("LASTCALL_PASSWORD_FILE", __file__)
        patch.setenv("LASTCALL_KEY", "the cluster has a key of its own")
        client = Client(slots=2, lease_s=8, linger_s=0.2)
    with client:
        yield client


def test_everything_works(client: Client) -> None:
    assert list(client.map(square, range(1_000))) == [n * n for n in range(1_000)]
    assert client.submit(square, 3).result(30) == 9
    queue = client.queue("squares", square, maxsize=10)
    produce(queue, None, list(range(100)))
    assert queue.join(30).done == 100
    (worker,) = [worker for worker in client.workers() if worker.queues == ("cpu",)]
    assert (worker.slots, worker.pool) == (2, "prefork")


def test_a_worker_is_started_for_a_celery_queue_when_it_is_first_named(client: Client) -> None:
    assert len({process for process, _ in client.map(functions.who, range(20), workers="io", chunksize=1)}) == 1
    assert client.submit_to("other", square, 2).result(30) == 4
    assert {queue for worker in client.workers() for queue in worker.queues} >= {"io", "other"}


def test_its_settings_reach_its_workers(client: Client) -> None:
    assert client.settings.lease_s == 8
    variables = client.submit(functions.variables).result(30)
    assert (variables["LASTCALL_LEASE_S"], variables["LASTCALL_LINGER_S"]) == ("8", "0.2")
    assert "LASTCALL_BROKER_URL" not in variables


def test_a_second_client_shares_it(client: Client) -> None:
    settings = client.settings
    with Client(settings.url, settings.key) as second:
        assert list(second.map(square, range(10))) == [n * n for n in range(10)]
        assert second.submit_to("third", square, 2).result(30) == 4  # a worker is started for it, too
    assert client.submit(square, 3).result(30) == 9


def test_handles_work_in_other_processes(client: Client) -> None:
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        queue: StatusableQueue[int] = client.queue(f"table-{method}")
        got = context.Queue()
        processes = [
            context.Process(target=produce, args=(queue, "cook", [1, 2, 3])),
            context.Process(target=consume, args=(queue, got)),
        ]
        for process in processes:
            process.start()
        assert got.get(timeout=60)[1:] == ([1, 2, 3], "")
        for process in processes:
            process.join(30)
            assert process.exitcode == 0


def test_it_is_gone_with_its_client(alone: None) -> None:
    with Client(slots=1) as client:
        queue = client.queue("gone")
        cluster = client._cluster
        assert cluster is not None
        assert client.submit(os.getpid).result(30) != os.getpid()
        pids = list(cluster.pids.values())
        assert len(pids) >= 3
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not Path(cluster.directory).exists()
    with pytest.raises(ServerUnreachable, match="cannot be reached"):
        queue.producer()


SCRIPT = """
from beside import triple
from lastcall import Client

def double(n):
    return 2 * n

if __name__ == "__main__":
    with Client(slots=1) as client:
        print(list(client.map(triple, range(4))), client.submit(double, 21).result(60))
"""


def test_functions_of_a_script_and_of_a_module_beside_it_travel(alone: None, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "beside.py").write_text("def triple(n):\n    return 3 * n\n")
    (folder / "script.py").write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, str(folder / "script.py")], env=environment(None, None), cwd=tmp_path,
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "[0, 3, 6, 9] 42\n", "")


KILLED = """
import os
from lastcall import Client

client = Client(slots=1)
client.submit(os.getpid).result(60)
print(*client._cluster.pids.values(), flush=True)
input()
"""


def test_it_is_gone_when_its_client_is_killed(alone: None, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], env=environment(None, None), cwd=tmp_path,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        pids = process.stdout.readline().split()
        assert len(pids) >= 3
        process.kill()
    until(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], "the cluster's processes to end")
