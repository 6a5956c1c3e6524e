"""Connecting to the server: a client that was seen to work, or an error that says why not."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.client import Pipeline
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry

from lastcall.errors import ConfigError, ServerReadOnly, ServerTooOld, ServerUnreachable, WrongPassword
from lastcall.settings import Settings

REDIS_NEEDED = (7, 0)
VALKEY_NEEDED = (7, 2)
_CONNECT_TIMEOUT_S = 5.0
_NEEDED = "Redis >= 7.0 or Valkey >= 7.2"

# What a server says that cannot do now what it is asked for. Some of it redis-py knows by a class, some by its words.
_READ_ONLY = (ReadOnlyError, MasterDownError)
_SAYS_READ_ONLY = "UNBLOCKED"  # to who blocks while it becomes a replica
_NOT_NOW = (ClusterDownError, TryAgainError)
_SAYS_NOT_NOW = ("NOREPLICAS", "MISCONF", "BUSY ")


class Refusal(redis.ConnectionError):
    """The server answered, but cannot do it now. Waits bear it as they bear a server that is away.

    read_only: it is a replica, for now or for good. out_of_memory: it is full. Else `str()` tells.
    """

    def __init__(self, said: str, *, read_only: bool = False, out_of_memory: bool = False) -> None:
        super().__init__(said)
        self.read_only, self.out_of_memory = read_only, out_of_memory


class Server(redis.Redis):
    """A client that raises Refusal for what the server refuses only now."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command. Raises redis-py's errors, and Refusal."""
        try:
            with _interruptible(self.connection_pool):
                return super().execute_command(*_packable(args), **options)  # type: ignore[no-untyped-call]
        except OutOfMemoryError as error:
            raise Refusal(str(error), out_of_memory=True) from error
        except ResponseError as error:
            said = str(error)
            if isinstance(error, _READ_ONLY) or said.startswith(_SAYS_READ_ONLY):
                # Where the name of the server stands for whoever is the master now, the next connection finds it.
                self.connection_pool.disconnect(inuse_connections=False)
                raise Refusal(said, read_only=True) from error
            if isinstance(error, _NOT_NOW) or said.startswith(_SAYS_NOT_NOW):
                raise Refusal(said) from error
            raise

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        """Several commands in one round trip."""
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _Pipeline(Pipeline):
    def execute_command(self, *args: Any, **options: Any) -> Any:
        return super().execute_command(*_packable(args), **options)  # type: ignore[no-untyped-call]

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        with _interruptible(self.connection_pool):
            return super().execute(raise_on_error)


@contextmanager
def _interruptible(pool: redis.ConnectionPool) -> Iterator[None]:
    """What a signal's handler may raise in (Ctrl-C, say): the answer may be on its way still, to a connection that is
    idle then, and the next command would take it for its own."""
    try:
        yield
    except redis.RedisError:
        raise
    except BaseException:
        pool.disconnect(inuse_connections=False)
        raise


def _packable(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """hiredis asks for a number's repr, in which a signal's handler may raise, does not look, and ends the process."""
    return tuple(repr(arg) if type(arg) is int or type(arg) is float else arg for arg in args)


def connect(settings: Settings, *, replica: bool = False, **redis_options: Any) -> redis.Redis:
    """A client of the settings' server; answers are bytes.

    replica: a server that takes no writes will do.
    redis_options: for redis.Redis, over the defaults: 5 s to connect, 30 s for an answer (a call
    that blocks must block for less), 3 quick retries when the connection is lost.
    Raises ServerUnreachable, WrongPassword, ServerReadOnly (a replica), ServerTooOld, ConfigError, after some 5 s at
    most where nothing answers. What the server refuses only now, the client raises as Refusal.
    """
    if settings.url is None:
        raise ConfigError("url (LASTCALL_URL)", "set to reach a server", "none", "such as redis://host:6379/0")
    options: dict[str, Any] = {
        "decode_responses": False,
        # RESP3 answers some commands in other types; one protocol, one shape of answers.
        "protocol": 2,
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "socket_timeout": 30.0,
        # Everything that lastcall sends may be sent again (its scripts know what they have done);
        # but not after a timeout, which would make 30 s two minutes.
        "retry": Retry(ExponentialWithJitterBackoff(base=0.1, cap=1.0), 3, (redis.ConnectionError,)),
    }
    if not settings.url.startswith("unix:"):
        options["socket_keepalive"] = True
    options |= redis_options
    # Asked by a client of its own: it need not wait as long, nor try as often, as one at work.
    hasty = {"socket_timeout": _CONNECT_TIMEOUT_S, "retry": Retry(NoBackoff(), 0)}
    try:
        with redis.Redis.from_url(settings.url, **(options | hasty)) as asking:
            _check(asking, settings.redacted_url, replica)
    except (TypeError, ValueError) as error:  # redis-py's, for parameters that it does not know
        if isinstance(error, ConfigError):
            raise
        raise ConfigError("url (LASTCALL_URL)", "one that redis-py takes", settings.redacted_url, str(error)) from error
    client: redis.Redis = Server.from_url(settings.url, **options)
    return client


def _check(client: redis.Redis, url: str, replica: bool) -> None:
    try:
        client.ping()
        information = client.info("server")
        replication: dict[str, Any] = client.info("replication")
    # Before ConnectionError, which it is one of.
    except AuthenticationError as error:
        raise WrongPassword(url, str(error)) from error
    except NoPermissionError as error:
        raise WrongPassword(url, f"this user may not do what lastcall needs: {error}") from error
    except ResponseError as error:
        if "DB index is out of range" in str(error):
            raise ConfigError("url (LASTCALL_URL)", "of a database that the server has", url, str(error)) from error
        raise ServerUnreachable(url, f"it answered {str(error)!r}") from error
    except redis.TimeoutError as error:
        raise ServerUnreachable(url, f"no answer in time, {error}") from error
    except (redis.RedisError, OSError) as error:
        raise ServerUnreachable(url, str(error) or type(error).__name__) from error
    check_version(information)
    if replication.get("role") == "slave" and not replica:
        master = f"{replication.get('master_host')}:{replication.get('master_port')}"
        raise ServerReadOnly(url, f"it is a replica of {master}")


def check_version(information: dict[str, Any]) -> None:
    """Raise ServerTooOld for a server whose INFO shows that it lacks what the ledger uses."""
    # Valkey reports 7.2.4 as redis_version for ever, and its own beside it.
    if "valkey_version" in information or information.get("server_name") == "valkey":
        name, needed = "Valkey", VALKEY_NEEDED
        version = str(information.get("valkey_version", ""))
    else:
        name, needed = "Redis", REDIS_NEEDED
        version = str(information.get("redis_version", ""))
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < needed:
        raise ServerTooOld(f"{name} {version or 'of an unknown version'}", _NEEDED)
