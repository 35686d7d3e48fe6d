"""Access to the shared state in Redis: operations as values, and the stores that run them.

An operation is one Lua script: one atomic step and one round trip. It is written once, as a value; the API runs it on
asyncio, workers run it on threads.
"""

import hashlib
import logging
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl, urlsplit

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.errors import ConfigurationError, RateLimited, StoreUnavailable
from shared.redis.clock import StoreClock
from shared.redis.pipelining import MakeConnection, PipelinedConnection, is_of_replica

logger = logging.getLogger(__name__)

#: A healthy server replies in under a millisecond.
REPLY_TIMEOUT_SECONDS = 2.0
#: How often the server's clock is read at most.
CLOCK_SYNC_SECONDS = 5.0


T = TypeVar("T")
Argument = str | int


@dataclass(frozen=True)
class Operation(Generic[T]):
    """`script` names a file in shared/redis/lua; `decode` turns its reply into a value."""

    script: str
    keys: Sequence[str]
    args: Sequence[Argument]
    decode: Callable[[Any], T]


_INCLUDE = re.compile(r"^-- include (\w+/\w+)$", re.MULTILINE)


@cache
def _files() -> dict[str, str]:
    """Every script by folder and name. Read at start: later the process may have no file handle left."""
    folder = Path(__file__).with_name("lua")
    scripts = folder.glob("*/*.lua")
    return {f"{file.parent.name}/{file.stem}": file.read_text(encoding="utf-8") for file in scripts}


@cache
def _source(script: str) -> str:
    """The script with its includes in place: scripts on the server cannot share code."""
    return _INCLUDE.sub(lambda found: _source(found[1]), _files()[script])


@cache
def digest_of(script: str) -> str:
    """The name under which servers know the script."""
    return hashlib.sha1(_source(script).encode(), usedforsecurity=False).hexdigest()


class Store:
    """Runs operations for workers. Thread-safe."""

    def __init__(self, client: redis.Redis) -> None:
        _files()
        self.client = client
        self._clock = StoreClock()

    def run(self, operation: Operation[T]) -> T:
        """Raises StoreUnavailable when the server does not reply or cannot write."""
        with self._translated():
            count, arguments = len(operation.keys), (*operation.keys, *operation.args)
            try:
                reply = self.client.evalsha(digest_of(operation.script), count, *arguments)
            except redis.exceptions.NoScriptError:
                reply = self.client.eval(_source(operation.script), count, *arguments)
        return operation.decode(reply)

    def run_all(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """Run several in one round trip, each atomic by itself.

        Raises StoreUnavailable when the server does not reply or cannot write one of them; others may be done.
        """
        pipeline = self.client.pipeline(transaction=False)
        for operation in operations:
            keys, args = operation.keys, operation.args
            pipeline.evalsha(digest_of(operation.script), len(keys), *keys, *args)
        with self._translated():
            replies = pipeline.execute(raise_on_error=False)
            return [self._decoded(*pair) for pair in zip(operations, replies, strict=True)]

    def now(self) -> datetime:
        """The server's time, extrapolated by this machine's clock while the server does not reply."""
        requested_at = time.monotonic()
        if self._clock.age(requested_at) > CLOCK_SYNC_SECONDS:
            with suppress(redis.exceptions.RedisError):
                seconds, microseconds = self.client.time()
                self._clock.sync(seconds * 1000 + microseconds / 1000, requested_at)
        return self._clock.now()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with _translated():
            try:
                yield
            except redis.exceptions.ResponseError as error:
                # A server that has become a replica keeps its connections; its name may lead to its successor by now.
                if is_of_replica(error):
                    self.client.connection_pool.disconnect(inuse_connections=False)
                raise

    def _decoded(self, operation: Operation[T], reply: Any) -> T:
        if isinstance(reply, redis.exceptions.NoScriptError):
            return self.run(operation)
        if isinstance(reply, Exception):
            raise reply
        return operation.decode(reply)


class AsyncStore:
    """Runs operations for the API. All of them share one connection."""

    def __init__(self, make_connection: MakeConnection) -> None:
        _files()
        self._connection = PipelinedConnection(make_connection, REPLY_TIMEOUT_SECONDS)

    async def run(self, operation: Operation[T]) -> T:
        """Raises StoreUnavailable when the server does not reply in time or cannot write."""
        arguments = len(operation.keys), *operation.keys, *operation.args
        with _translated():
            try:
                reply = await self._connection.execute("EVALSHA", digest_of(operation.script), *arguments)
            except redis.exceptions.NoScriptError:
                reply = await self._connection.execute("EVAL", _source(operation.script), *arguments)
        return operation.decode(reply)

    def on_replica(self, call: Callable[[], None]) -> None:
        """Call this whenever the server has become a replica, whose name may lead to its successor by now."""
        self._connection.on_replica = call

    async def aclose(self) -> None:
        await self._connection.aclose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, TimeoutError) as error:
        raise StoreUnavailable from error
    except redis.exceptions.InvalidResponse as error:
        logger.warning("the server that responds in place of Redis is not Redis: %s", error)
        raise StoreUnavailable from error
    except redis.exceptions.ResponseError as error:
        word, _, wait_ms = str(error).partition(" ")
        if word == "RATE":
            raise RateLimited(seconds=int(wait_ms) / 1000) from None
        if _is_ours(error):
            raise
        if not may_pass(error):
            # Permissions, another server behind the name, a proxy without a server: they change, like a password.
            _log_refusal(str(error), int(time.monotonic() / 60))
        raise StoreUnavailable from error


@lru_cache(maxsize=64)
def _log_refusal(reason: str, _minute: int) -> None:
    """Once a minute: some callers try again at once."""
    logger.warning("Redis refuses what the service needs: %s", reason)


def _is_ours(error: redis.exceptions.ResponseError) -> bool:
    """Whether a script failed for its own reasons, and would fail at every server."""
    is_denied = str(error).startswith("ACL failure in script")
    return "script" in str(error) and not (is_denied or may_pass(error))


def may_pass(error: redis.exceptions.ResponseError) -> bool:
    """Whether the error comes from the current state of the server, and not from the command."""
    in_script = _IN_SCRIPT.search(str(error))
    word = in_script[1] if in_script else str(error).partition(" ")[0]
    return isinstance(error, _CANNOT_WRITE) or word in _CANNOT_WRITE_WORDS


#: Errors of a server that is full, a replica, unable to save or still starting. redis-py has classes for some of
#: them and removes the first word of their messages.
_CANNOT_WRITE = (
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)
_CANNOT_WRITE_WORDS = ("OOM", "READONLY", "MISCONF", "NOREPLICAS", "BUSY", "UNKILLABLE", "UNBLOCKED")
#: Before Redis 7, the error of a script ends with that of its command.
_IN_SCRIPT = re.compile(r"@user_script: ?\d+: -([A-Z]+) ")


def require_redis(url: str) -> bool:
    """Whether the server replies; one that does not may still start.

    Raises ConfigurationError for a missing URL, a refused login or an untrusted certificate.
    """
    if not url:
        raise ConfigurationError("SD_REDIS_URL is empty: name a Redis server, or start everything with `imagegen up`.")
    _require_tls_files(dict(parse_qsl(urlsplit(url).query)))
    try:
        with connect(url) as client:
            client.ping()
            # Not every user may ask this.
            with suppress(redis.exceptions.ResponseError):
                if client.info("cluster").get("cluster_enabled"):
                    raise ConfigurationError(
                        "SD_REDIS_URL is wrong: the server is a Redis Cluster; name a single server."
                    )
    except UnicodeError:
        raise ConfigurationError("SD_REDIS_URL is wrong: no server can have its host name.") from None
    except (TypeError, ValueError, AttributeError):
        # The query of the URL becomes arguments of the connection.
        raise ConfigurationError("SD_REDIS_URL is wrong: its query has an unknown option or value.") from None
    except redis.exceptions.AuthenticationError:
        raise ConfigurationError("SD_REDIS_URL is wrong: the Redis server refuses its user name or password.") from None
    except redis.exceptions.InvalidResponse:
        raise ConfigurationError("SD_REDIS_URL is wrong: the server at this address is not Redis.") from None
    except redis.exceptions.RedisError as error:
        if (problem := _tls_problem(error)) is not None:
            raise ConfigurationError(problem) from None
        if isinstance(error, redis.exceptions.ResponseError) and not may_pass(error):
            raise ConfigurationError(f"SD_REDIS_URL is wrong: the Redis server answers `{error}`.") from None
        return False
    return True


def _require_tls_files(options: Mapping[str, str]) -> None:
    context = ssl.create_default_context()
    try:
        if "ssl_ca_certs" in options:
            context.load_verify_locations(options["ssl_ca_certs"])
    except OSError:
        raise ConfigurationError("SD_CA_FILE is wrong: the file has no readable certificate (PEM).") from None
    try:
        if "ssl_certfile" in options:
            # OpenSSL would ask at the terminal for the password of an encrypted key.
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"), password="")
    except (OSError, ValueError):
        raise ConfigurationError(
            "SD_REDIS_CERT_FILE or SD_REDIS_KEY_FILE is wrong: they must be a certificate and its key, which needs no "
            "password (PEM)."
        ) from None


def _tls_problem(error: BaseException | None) -> str | None:
    match error:
        case None:
            return None
        case ssl.SSLCertVerificationError():
            problem = f"the server's certificate is not trusted ({error.verify_message})"
            return f"SD_REDIS_URL or SD_CA_FILE is wrong: {problem}."
        case ssl.SSLError():
            return f"SD_REDIS_URL or SD_REDIS_CERT_FILE is wrong: the TLS handshake failed ({error.reason})."
        case _:
            return _tls_problem(error.__cause__ or error.__context__)


def connect(url: str, health_check_seconds: int = 15) -> redis.Redis:
    # Reopens a connection that the server closed while it was idle: every operation may be repeated.
    retry = Retry(NoBackoff(), 1, supported_errors=(redis.exceptions.ConnectionError,))
    return redis.Redis.from_url(url, retry=retry, health_check_interval=health_check_seconds, **_CONNECTION)


def async_connections(url: str) -> MakeConnection:
    """For the API. Whoever uses one notices when it is dead, without redis-py's timers for each command."""
    retry = redis.asyncio.retry.Retry(NoBackoff(), 1, supported_errors=(redis.exceptions.ConnectionError,))
    options = {**_CONNECTION, "socket_timeout": None, "health_check_interval": 0, "retry": retry}
    return redis.asyncio.ConnectionPool.from_url(url, **options).make_connection


_CONNECTION: dict[str, Any] = {
    "decode_responses": True,
    "socket_timeout": REPLY_TIMEOUT_SECONDS,
    "socket_connect_timeout": REPLY_TIMEOUT_SECONDS,
}
