"""The guardian of a private cluster: a small process that owns its server and its workers.

private.py starts this file as a script (the standard library only, nothing of lastcall, so it is up
at once). Its stdin is a pipe whose other end the client alone holds: however the client ends, the
pipe ends with it, and the guardian kills every process group that it started, removes the private
directory and leaves. On Linux the kernel does the killing should the guardian itself be killed.

One JSON object a line. In: start (once, first), worker (for one more Celery queue).
Out: ready, started, died, failed, gone; any line that is no JSON is a traceback of the guardian's.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

START_S = 10.0  # for the server to answer
BURIAL_S = 5.0  # for killed processes to be gone: more only for one that hangs in the kernel
HEALTHY_S = 30.0  # a worker that lived this long is not failing again and again
TAIL_BYTES = 4096
TAIL_LINES = 25
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>

libc = ctypes.CDLL(None)  # loaded here: between fork and exec is no place to load it


def say(event: str, **details: object) -> None:
    """Tell the client; one that is gone needs no telling, its pipe ends as well."""
    line = json.dumps({"event": event, **details}).encode() + b"\n"
    with contextlib.suppress(OSError):
        while line:
            line = line[os.write(1, line) :]


def spawn(argv: list[str], env: dict[str, str], cwd: str, log: str) -> int:
    """Start a program as the head of its own process group; returns its pid, which is the group's.

    The guardian has one thread, so Python may run between fork and exec. Its pipes are not passed
    on. A program that cannot be started leaves 127 and a line in its log.
    """
    guardian = os.getpid()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # both sides do it: whichever comes first
            os.setpgid(pid, pid)
        return pid
    try:
        os.setpgid(0, 0)
        if sys.platform == "linux":
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != guardian:  # it died before the line above
                os._exit(1)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, exec passes that on
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(cwd)
        os.execve(argv[0], argv, env)
    except BaseException as error:  # whatever it is, this process must not go on as a guardian
        os.write(2, f"cannot start {argv[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def answers(path: str) -> bool:
    """Whether a server on this unix socket says PONG."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(path)
            connection.sendall(b"PING\r\n")
            return connection.recv(5) == b"+PONG"
        except OSError:
            return False


def size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def tail(path: str, start: int = 0) -> str:
    """The last lines of a log from byte `start` on, "" where there is none."""
    try:
        with open(path, "rb") as log:
            log.seek(max(start, size(path) - TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-TAIL_LINES:]).strip()


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS: a group of zombies that their parent has not yet reaped
        pass
    return True


def arena_folders(pid: int) -> set[str]:
    """The folders that multiprocessing made for a process and removes when it leaves in peace.

    Celery's prefork workers keep a deleted file mapped whose folder, pymp-*, is left behind, empty,
    when they are killed. Only Linux tells.
    """
    try:
        with open(f"/proc/{pid}/maps", errors="surrogateescape") as maps:
            found = re.findall(r"(/.*/pymp-[^/\n]+)/[^/\n]+ \(deleted\)$", maps.read(), re.MULTILINE)
    except OSError:
        return set()
    return set(found)


class Worker:
    """A worker that is meant to run: its command, and how it has fared."""

    def __init__(self, queue: str, log: str, argv: list[str], env: dict[str, str], cwd: str):
        self.queue, self.log, self.argv, self.env, self.cwd = queue, log, argv, env, cwd
        self.pid: int | None = None
        self.started = 0.0
        self.log_start = 0  # where its present life begins in the log
        self.deaths = 0  # in a row
        self.due: float | None = time.monotonic()  # when to start it; None: it runs, or is given up

    def start(self) -> int:
        self.log_start = size(self.log)
        self.pid = spawn(self.argv, self.env, self.cwd, self.log)
        self.started, self.due = time.monotonic(), None
        return self.pid

    def died(self, backoff_s: list[float]) -> float | None:
        """Note that it ended by itself; returns the seconds until its next start, None: never."""
        now = time.monotonic()
        self.deaths = 1 if now - self.started >= HEALTHY_S else self.deaths + 1
        self.pid = None
        if self.deaths > len(backoff_s):
            return None
        wait_s = backoff_s[self.deaths - 1]
        self.due = now + wait_s
        return wait_s


class Guardian:
    """The loop: commands of the client, deaths of children, starts that are due."""

    def __init__(self) -> None:
        self.unread = b""
        self.why = ""  # not empty: leave
        self.directory = self.socket = ""
        self.server: int | None = None
        self.server_asked = 0.0
        self.ready = False
        self.grace_s = 0.0
        self.backoff_s: list[float] = []
        self.workers: dict[str, Worker] = {}
        self.groups: set[int] = set()  # that may still have members

        self.wake, wake_write = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(wake_write, False)
        os.set_blocking(0, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # the byte in the pipe is what counts
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.signalled)
        if sys.platform == "linux":
            # Processes whose worker died become ours, so that we see each one go.
            libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.poll = select.poll()
        self.poll.register(self.wake, select.POLLIN)
        self.poll.register(0, select.POLLIN)

    def signalled(self, number: int, frame: object) -> None:
        self.why = self.why or f"its guardian was stopped by {signal.Signals(number).name}"

    def run(self) -> None:
        while not self.why:
            self.wait(self.idle_s())
            self.read_commands()
            for pid, code in self.reap():
                self.bury(pid, code)
            for group in self.orphaned():
                self.kill_group(group)
            if self.server is not None and not self.ready:
                self.greet()
            for worker in self.workers.values():
                if worker.due is not None and worker.due <= time.monotonic():
                    pid = worker.start()
                    self.groups.add(pid)
                    say("started", queue=worker.queue, pid=pid)

    def idle_s(self) -> float | None:
        """How long nothing is due; None: nothing ever is."""
        if self.server is not None and not self.ready:
            return 0.002
        if self.orphaned():
            return 0.02  # only where there is a subreaper does a signal tell that they are gone
        due = [worker.due for worker in self.workers.values() if worker.due is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def wait(self, timeout_s: float | None) -> None:
        """Until the client says something, a child dies, a signal comes, or timeout_s."""
        self.poll.poll(None if timeout_s is None else timeout_s * 1000)
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, 4096)

    def read_commands(self) -> None:
        try:
            data = os.read(0, 65536)
        except BlockingIOError:
            return
        if not data:
            self.why = self.why or "the client left"
            return
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            self.obey(json.loads(line))

    def obey(self, command: dict[str, Any]) -> None:
        match command.pop("do"):
            case "start":
                self.start_server(**command)
            case "worker":
                number = len(self.workers)
                log = os.path.join(self.directory, f"worker-{number}.log")
                self.workers[command["queue"]] = Worker(log=log, **command)
            case unknown:
                raise ValueError(f"expected start or worker, got {unknown!r}")

    def start_server(self, directory: str, program: str, grace_s: float, backoff_s: list[float]) -> None:
        self.grace_s, self.backoff_s = grace_s, backoff_s
        try:
            os.mkdir(directory, 0o700)  # fails where something is there already: it is ours alone
        except OSError as error:
            self.fail(f"its private directory cannot be made: {error}")
            return
        self.directory, self.socket = directory, os.path.join(directory, "server.sock")
        # fmt: off
        argv = [
            program,
            "--port", "0",
            "--unixsocket", self.socket, "--unixsocketperm", "700",
            "--dir", directory, "--save", "", "--appendonly", "no",
            "--maxmemory-policy", "noeviction", "--hz", "100",  # an idle server ends waits a tick late
            "--daemonize", "no", "--supervised", "no",
        ]
        # fmt: on
        self.server_asked = time.monotonic()
        self.server = spawn(argv, dict(os.environ), directory, self.server_log())
        self.groups.add(self.server)

    def server_log(self) -> str:
        return os.path.join(self.directory, "server.log")

    def greet(self) -> None:
        if answers(self.socket):
            self.ready = True
            say("ready", server=self.server)
        elif time.monotonic() - self.server_asked > START_S:
            self.fail(f"its server does not answer within {START_S:g} s", self.server_log())

    def fail(self, reason: str, log: str = "") -> None:
        self.why = self.why or reason
        say("failed", reason=reason, tail=tail(log) if log else "")

    def reap(self) -> Iterator[tuple[int, int]]:
        """(pid, exit code) of each child that has ended; minus the signal if one killed it."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                yield pid, os.waitstatus_to_exitcode(status)

    def bury(self, pid: int, code: int) -> None:
        """A child has ended though nobody told it to."""
        if pid == self.server:
            self.server = None
            self.fail(f"its server ended by itself ({code_text(code)})", self.server_log())
            return
        for worker in self.workers.values():
            if worker.pid == pid:
                again_in_s = worker.died(self.backoff_s)
                say(
                    "died",
                    queue=worker.queue,
                    how=code_text(code),
                    deaths=worker.deaths,
                    again_in_s=again_in_s,
                    tail=tail(worker.log, worker.log_start),
                )

    def orphaned(self) -> list[int]:
        """Groups whose head has ended: they must not go on beside the worker that comes next."""
        heads = {self.server, *(worker.pid for worker in self.workers.values())}
        return [group for group in self.groups if group not in heads]

    def kill_group(self, group: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        if not group_exists(group):
            self.groups.discard(group)

    def end(self) -> None:
        """End every process, remove the directory and say so; bounded by grace_s + BURIAL_S."""
        busy = self.let_workers_leave() if self.grace_s > 0 else []
        folders: set[str] = set()
        for worker in self.workers.values():
            if worker.pid in self.groups:
                folders |= arena_folders(worker.pid)
        deadline = time.monotonic() + BURIAL_S
        while self.groups and time.monotonic() < deadline:
            for group in tuple(self.groups):
                self.kill_group(group)
            for _ in self.reap():
                pass
            if self.groups:
                self.pause(0.01)
        for folder in folders:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)
        say("gone", why=self.why, busy=busy, left=sorted(self.groups))

    def let_workers_leave(self) -> list[str]:
        """Ask the workers to leave; returns the queues of those that have not after grace_s.

        Only the head of a group is asked: the others are for it to end.
        """
        running = {worker.pid: worker.queue for worker in self.workers.values() if worker.pid}
        for pid in running:
            os.kill(pid, signal.SIGTERM)  # not reaped yet, so still its own pid
        deadline = time.monotonic() + self.grace_s
        while running and (left_s := deadline - time.monotonic()) > 0:
            self.pause(left_s)
            for pid, _ in self.reap():
                running.pop(pid, None)
        return sorted(running.values())

    def pause(self, timeout_s: float) -> None:
        """Until a child dies, or timeout_s; the client is not listened to any more."""
        if select.select([self.wake], [], [], timeout_s)[0]:
            os.read(self.wake, 4096)


def code_text(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"killed by signal {-code}"


def main() -> None:
    guardian = Guardian()
    try:
        guardian.run()
    except BaseException as error:
        guardian.why = f"its guardian failed: {error!r}"
        raise
    finally:
        guardian.end()


if __name__ == "__main__":
    main()
