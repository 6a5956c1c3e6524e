"""A TCP proxy for tests, between clients and a server: it cuts, delays, stalls, goes away and comes back.

It reads what clients send as Redis commands, so that a test says which one is cut, and where:

with Proxy(server.port) as proxy:
    cut = proxy.cut(script("put"), "after")     # applied, but its reply is lost
    ...
    cut.happened.wait(10)
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from lastcall.state.scripts import script as _script

Command = Sequence[bytes]
How = Literal["before", "after", "middle"]


def runs(name: str, when: Callable[[Command], bool] = lambda argv: True) -> Callable[[Command], bool]:
    """Matches commands that run a script of the ledger. when: also looks at its ARGV."""
    wanted = _script(name)
    first = {b"EVALSHA": wanted.sha.encode(), b"EVAL": wanted.source.encode()}

    def matches(command: Command) -> bool:
        if len(command) < 3 or first.get(command[0].upper()) != command[1]:
            return False
        return when(command[3 + int(command[2]) :])

    return matches


class Cut:
    """A connection that is to be cut at a command. how: "before" the command is passed on; "after" it was, its reply
    is lost; in the "middle" of the reply. times: how often, one after the other."""

    def __init__(self, matches: Callable[[Command], bool], how: How, nth: int, times: int) -> None:
        self.matches, self.how, self.nth, self.times = matches, how, nth, times
        self.done = 0
        self.happened = threading.Event()  # all of it


class Proxy:
    """Listens on a port of 127.0.0.1 and passes on to `port` there. delay_s: before each piece of a reply."""

    def __init__(self, port: int, *, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self._target = ("127.0.0.1", port)
        self._cuts: list[Cut] = []
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.up()

    def url(self, of: str) -> str:
        """A URL of the server, by way of this proxy."""
        parts = urlsplit(of)
        userinfo, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{userinfo}{at}127.0.0.1:{self.port}"))

    def cut(self, matches: Callable[[Command], bool], how: How, *, nth: int = 1, times: int = 1) -> Cut:
        """Cut the connection at the nth command from now on that matches, and at the `times` - 1 after that."""
        cut = Cut(matches, how, nth, times)
        with self._lock:
            self._cuts.append(cut)
        return cut

    def drop(self) -> None:
        """Cut every connection that there is."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.close()

    @contextlib.contextmanager
    def stalled(self, *, forget: bool = False) -> Iterator[None]:
        """Inside, nothing goes through in either direction; afterwards what was held is passed on.

        forget: or is not, and the connections are cut.
        """
        self._flowing.clear()
        try:
            yield
        finally:
            if forget:
                self.drop()
            self._flowing.set()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Inside, every connection is cut and new ones are refused."""
        self.down()
        try:
            yield
        finally:
            self.up()

    def up(self) -> None:
        """Listen, on the port that it had before, if any."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def down(self) -> None:
        """Refuse new connections, and cut those that there are."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
            listener.close()
        self.drop()

    close = down

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._flowing.set()
        self.down()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()  # the server is away, and so is this
                continue
            server.settimeout(None)
            link = _Link(self, client, server)
            with self._lock:
                self._links.add(link)
            if self._listener is not listener:  # it went down meanwhile
                link.close()
            link.start()

    def _due(self, command: Command) -> Cut | None:
        """The cut that is to be made at this command."""
        with self._lock:
            for cut in self._cuts:
                if cut.done < cut.times and cut.matches(command):
                    cut.nth -= 1
                    if cut.nth <= 0:
                        cut.done += 1
                        return cut
        return None


class _Link:
    """One connection: a thread for each direction."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._cut: Cut | None = None
        self._running = 2
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        for pump in (self._requests, self._replies):
            threading.Thread(target=self._run, args=(pump,), daemon=True).start()

    def close(self) -> None:
        for one in (self._client, self._server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self._proxy._lock:
            self._proxy._links.discard(self)

    def _run(self, pump: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            pump()
        self.close()
        if self._cut is not None and self._cut.done >= self._cut.times:
            self._cut.happened.set()
        with self._proxy._lock:
            self._running -= 1
            last = not self._running
        if last:
            self._client.close()
            self._server.close()

    def _requests(self) -> None:
        buffer = bytearray()
        while data := self._client.recv(1 << 16):
            buffer += data
            while (end := _command_end(buffer)) is not None:
                raw = bytes(buffer[: end[0]])
                del buffer[: end[0]]
                cut = self._proxy._due(end[1])
                if cut is not None:
                    self._cut = cut
                    if cut.how == "before":
                        return
                self._proxy._flowing.wait()
                self._server.sendall(raw)

    def _replies(self) -> None:
        while data := self._server.recv(1 << 16):
            cut = self._cut
            if cut is not None:
                if cut.how == "middle":
                    self._client.sendall(data[: max(1, len(data) // 2)])
                return
            if self._proxy.delay_s:
                threading.Event().wait(self._proxy.delay_s)
            self._proxy._flowing.wait()
            self._client.sendall(data)


def _command_end(buffer: bytearray) -> tuple[int, list[bytes]] | None:
    """Where the first command in the buffer ends, and its words; None where it is not there as a whole."""
    head = buffer.find(b"\r\n")
    if head < 0:
        return None
    if buffer[:1] != b"*":
        return head + 2, bytes(buffer[:head]).split()  # an inline command
    at, words = head + 2, []
    for _ in range(int(buffer[1:head])):
        head = buffer.find(b"\r\n", at)
        if head < 0:
            return None
        size = int(buffer[at + 1 : head])
        if len(buffer) < head + 2 + size + 2:
            return None
        words.append(bytes(buffer[head + 2 : head + 2 + size]))
        at = head + 2 + size + 2
    return at, words
