"""Connecting: a client that works, or an error that says what came and what to do."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.connection import Connection

from lastcall.connect import Refusal, check_version, connect
from lastcall.errors import ConfigError, ServerReadOnly, ServerTooOld, ServerUnreachable, WrongPassword
from lastcall.settings import Settings
from tests.servers import Server

PASSWORD = "p@ss/wörd #1"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(password=PASSWORD) as server:
        yield server


class FakeServer:
    """Answers as a Redis of some version would: +PONG, its INFO, and errors."""

    def __init__(self, information: str, ping: bytes = b"+PONG\r\n") -> None:
        body = information.replace("\n", "\r\n").encode()
        self.answers = {b"PING": ping, b"INFO": b"$%d\r\n%s\r\n" % (len(body), body)}
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._socket.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # close() was called
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            while header := lines.readline():
                words = []
                for _ in range(int(header[1:])):
                    size = int(lines.readline()[1:])
                    words.append(lines.read(size + 2)[:-2])
                answer = self.answers.get(words[0].upper(), b"-ERR unknown command\r\n")
                connection.sendall(answer)

    def __enter__(self) -> "FakeServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def test_a_client_works_over_tcp_and_over_the_socket(server: Server) -> None:
    for url in (server.tcp_url, server.unix_url):
        with connect(Settings(url=url)) as client:
            client.set("name", b"\xff")
            assert client.get("name") == b"\xff"
            assert client.hgetall("none") == {}


@pytest.mark.parametrize(
    ("said", "read_only", "out_of_memory"),
    [
        ("READONLY You can't write against a read only replica.", True, False),
        ("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)", True, False),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", True, False),
        ("OOM command not allowed when used memory > 'maxmemory'.", False, True),
        ("NOREPLICAS Not enough good replicas to write.", False, False),
        ("MISCONF Errors writing to the AOF file: No space left on device", False, False),
        ("BUSY Redis is busy running a script.", False, False),
        ("CLUSTERDOWN The cluster is down", False, False),
    ],
)
def test_what_the_server_refuses_only_now_is_told_apart(said: str, read_only: bool, out_of_memory: bool) -> None:
    with FakeServer("redis_version:7.4.0\n") as fake, connect(Settings(url=fake.url)) as client:
        fake.answers[b"LPUSH"] = f"-{said}\r\n".encode()
        with pytest.raises(Refusal) as caught:
            client.lpush("list", 1)
        assert isinstance(caught.value, redis.ConnectionError)
        assert (caught.value.read_only, caught.value.out_of_memory) == (read_only, out_of_memory)
        fake.answers[b"LPUSH"] = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            client.lpush("list", 1)


def test_a_replica_is_refused() -> None:
    information = "redis_version:7.4.0\nrole:slave\nmaster_host:10.0.0.7\nmaster_port:6379\n"
    with FakeServer(information) as fake, pytest.raises(ServerReadOnly, match=r"it is a replica of 10\.0\.0\.7:6379"):
        connect(Settings(url=fake.url))


def test_the_password_may_come_from_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    for url in (f"redis://127.0.0.1:{server.port}/0", f"unix://{server.socket_path}"):
        settings = Settings.load(url, password_file=tmp_path / "password")
        with connect(settings) as client:
            assert client.ping()


def test_kombu_reaches_the_same_server_through_settings_broker(server: Server) -> None:
    kombu_connection: Any = Connection
    for url in (server.tcp_url, server.unix_url):
        url = url.replace("/0", "/5").replace("db=0", "db=5")
        settings = Settings(url=url)
        with kombu_connection(settings.broker) as connection:
            connection.SimpleQueue("test_connect").put(url)
        with connect(settings) as client:
            assert client.llen("test_connect") == 1
            client.flushdb()


def test_the_database_of_the_url_is_the_one_that_is_used(server: Server) -> None:
    with connect(Settings(url=server.tcp_url.replace("/0", "/7"))) as client:
        client.set("where", "seven")
    with server.client() as client:
        assert client.get("where") is None
        client.select(7)
        assert client.get("where") == b"seven"


def test_the_sockets_are_kept_alive_and_options_of_the_caller_win(server: Server) -> None:
    with connect(Settings(url=server.tcp_url), socket_timeout=7.5, client_name="me") as client:
        options = client.connection_pool.connection_kwargs
        assert options["socket_keepalive"] is True
        assert options["socket_connect_timeout"] == 5
        assert options["socket_timeout"] == 7.5
        assert client.client_getname() in ("me", b"me")


def test_a_lost_connection_is_made_again(server: Server) -> None:
    with connect(Settings(url=server.tcp_url)) as client:
        client.ping()
        before = client.client_id()
        server.client().client_kill_filter(_id=before)
        assert client.client_id() > before


@pytest.mark.parametrize("how", ["alone", "in a pipeline"])
def test_a_command_that_was_interrupted_leaves_its_answer_to_no_other(
    server: Server, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    client = connect(Settings(url=server.unix_url))
    client.ping()  # by a connection that the next command has as well
    asked, came = threading.Event(), []
    get_connection = client.connection_pool.get_connection

    def noted(*args: Any, **options: Any) -> Any:
        asked.set()
        return get_connection(*args, **options)

    with server.paused():
        # When the command was sent:
        monkeypatch.setattr(redis.Redis, "parse_response", interrupted)
        monkeypatch.setattr(redis.client.Pipeline, "parse_response", interrupted)
        pipeline = client.pipeline(transaction=False).echo("first")
        with pytest.raises(KeyboardInterrupt):
            client.echo("first") if how == "alone" else pipeline.execute()
        monkeypatch.undo()
        monkeypatch.setattr(client.connection_pool, "get_connection", noted)
        thread = threading.Thread(target=lambda: came.append(client.echo("second")))
        thread.start()
        assert asked.wait(10)
    thread.join(10)
    assert came == [b"second"]
    client.close()


def test_numbers_are_sent_as_what_no_signal_breaks(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(Settings(url=server.unix_url))
    sent: list[Any] = []
    execute = redis.Redis.execute_command
    monkeypatch.setattr(
        redis.Redis,
        "execute_command",
        lambda self, *args, **options: sent.extend(args) or execute(self, *args, **options),
    )
    assert client.eval("return {ARGV[1], ARGV[2]}", 0, 1 << 70, 0.25) == [b"%d" % (1 << 70), b"0.25"]
    pipeline = client.pipeline()
    pipeline.set("name", 1, ex=5)
    sent += [arg for args, _ in pipeline.command_stack for arg in args]
    assert pipeline.execute() == [True]
    assert {type(arg) for arg in sent} == {str}  # hiredis crashes where a handler raises in the repr of a number
    client.close()


def test_no_url_is_an_error() -> None:
    with pytest.raises(ConfigError, match="LASTCALL_URL"):
        connect(Settings())


@pytest.mark.parametrize("userinfo", ["", ":wrong@", "nobody:wrong@"])
def test_a_wrong_password_is_told_without_showing_it(server: Server, userinfo: str) -> None:
    started = time.monotonic()
    for url in (
        f"redis://{userinfo}127.0.0.1:{server.port}/0",
        f"unix://{userinfo}{server.socket_path}",
    ):
        with pytest.raises(WrongPassword, match="LASTCALL_PASSWORD_FILE") as caught:
            connect(Settings(url=url))
        assert "wrong@" not in str(caught.value)
        assert caught.value.url == Settings(url=url).redacted_url
        assert (
            "NOAUTH" in caught.value.reason
            or "Authentication" in caught.value.reason
            or ("invalid username-password" in caught.value.reason)
        )
    assert time.monotonic() - started < 2, "it is of no use to try a wrong password again"


def test_a_password_that_the_server_does_not_want_is_told() -> None:
    with Server() as server, pytest.raises(WrongPassword, match="without any password configured"):
        connect(Settings(url=f"redis://:needless@127.0.0.1:{server.port}/0"))


def test_a_user_without_the_rights_is_told(server: Server) -> None:
    server.client().acl_setuser("guest", enabled=True, passwords=["+pw"], commands=["+ping"])
    with pytest.raises(WrongPassword, match=r"may not do what lastcall needs.*info"):
        connect(Settings(url=f"redis://guest:pw@127.0.0.1:{server.port}/0"))


def test_a_database_that_the_server_lacks_is_told(server: Server) -> None:
    with pytest.raises(ConfigError, match="database that the server has"):
        connect(Settings(url=server.tcp_url.replace("/0", "/99")))


def test_an_option_that_redis_py_does_not_know_is_told(server: Server) -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        connect(Settings(url=f"redis://127.0.0.1:{server.port}/0?nonsense=1"))


def test_a_port_where_nobody_listens_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ServerUnreachable, match=r"refused.*LASTCALL_URL") as caught:
        connect(Settings(url=f"redis://:secret@127.0.0.1:{port}/0"))
    assert caught.value.url == f"redis://:***@127.0.0.1:{port}/0"
    assert isinstance(caught.value, ConnectionError)
    assert "secret" not in str(caught.value)


def test_a_missing_socket_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(ServerUnreachable, match="No such file"):
        connect(Settings(url=f"unix://{tmp_path}/none"))


def test_a_host_without_an_address_is_unreachable() -> None:
    with pytest.raises(ServerUnreachable, match=r"host\.invalid"):
        connect(Settings(url="redis://host.invalid"))


def test_a_server_that_hangs_is_unreachable_in_some_seconds(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lastcall.connect._CONNECT_TIMEOUT_S", 0.2)
    with server.paused(), pytest.raises(ServerUnreachable, match="no answer in time"):
        connect(Settings(url=server.url))
    connect(Settings(url=server.url)).close()


def test_a_server_that_was_killed_is_unreachable_until_it_is_back() -> None:
    with Server() as server:
        settings = Settings(url=server.url)
        server.kill()
        with pytest.raises(ServerUnreachable):
            connect(settings)
        server.start()
        connect(settings).close()


@pytest.mark.parametrize(
    ("information", "found"),
    [
        ("redis_version:6.2.14", "Redis 6.2.14"),
        ("redis_version:2.8.0\nredis_mode:standalone", "Redis 2.8.0"),
        ("redis_version:7.2.4\nserver_name:valkey\nvalkey_version:7.1.9", "Valkey 7.1.9"),
        ("other:1", "Redis of an unknown version"),
    ],
)
def test_an_old_server_is_refused(information: str, found: str) -> None:
    with (
        FakeServer(f"# Server\n{information}\n") as fake,
        pytest.raises(ServerTooOld) as caught,
    ):
        connect(Settings(url=fake.url))
    assert caught.value.found == found
    assert str(caught.value) == (
        f"lastcall needs Redis >= 7.0 or Valkey >= 7.2, the server is {found}: upgrade the server"
    )


@pytest.mark.parametrize(
    "information",
    [
        "redis_version:7.0.0",
        "redis_version:7.4.1",
        "redis_version:8.0.0-rc1",
        "redis_version:10.0",
        "redis_version:7.2.4\nserver_name:valkey\nvalkey_version:7.2.0",
        "redis_version:7.2.4\nserver_name:valkey\nvalkey_version:10.1.0",
    ],
)
def test_a_server_of_a_good_version_is_taken(information: str) -> None:
    with FakeServer(f"# Server\n{information}\n") as fake:
        connect(Settings(url=fake.url)).close()


def test_valkeys_own_version_counts_not_the_one_for_redis_clients() -> None:
    with pytest.raises(ServerTooOld, match=r"Valkey 7\.0"):
        check_version({"redis_version": "7.2.4", "valkey_version": "7.0.1"})


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"-ERR unknown command 'PING'\r\n", "it answered .*unknown command"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "Protocol error|Invalid"),
    ],
)
def test_something_that_is_no_redis_is_unreachable(answer: bytes, reason: str) -> None:
    with FakeServer("", ping=answer) as fake, pytest.raises(ServerUnreachable, match=reason):
        connect(Settings(url=fake.url))


def test_a_server_that_is_full_of_clients_is_unreachable() -> None:
    with Server(options={"maxclients": "1"}) as server:
        taken = server.client()
        taken.ping()
        with pytest.raises(ServerUnreachable, match="max number of clients"):
            connect(Settings(url=server.url))


def test_the_error_of_redis_py_is_the_cause(tmp_path: Path) -> None:
    with pytest.raises(ServerUnreachable) as caught:
        connect(Settings(url=f"unix://{tmp_path}/none"))
    assert isinstance(caught.value.__cause__, redis.RedisError)
