"""Access to the shared state in Redis: operations as values, and the stores that run them.

An operation is one Lua script: one atomic step and one round trip. It is written once, as a value; the API runs it on
asyncio, workers run it on threads.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import hiredis
import redis
import redis.asyncio
import redis.asyncio.retry
import redis.exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.errors import ConfigurationError, RateLimited, StoreUnavailable
from shared.redis.clock import StoreClock

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


class Store:
    """Runs operations for workers. Thread-safe."""

    def __init__(self, client: redis.Redis) -> None:
        _files()
        self.client = client
        self._clock = StoreClock()
        self._script = cache(lambda name: client.register_script(_source(name)))

    def run(self, operation: Operation[T]) -> T:
        """Raises StoreUnavailable when the server does not reply or cannot write."""
        with _translated():
            reply = self._script(operation.script)(keys=operation.keys, args=operation.args)
        return operation.decode(reply)

    def run_all(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """Run several in one round trip, each atomic by itself.

        Raises StoreUnavailable when the server does not reply or cannot write one of them; others may be done.
        """
        pipeline = self.client.pipeline(transaction=False)
        for operation in operations:
            _add(pipeline, self._script(operation.script).sha, operation)
        with _translated():
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

    def _decoded(self, operation: Operation[T], reply: Any) -> T:
        if isinstance(reply, redis.exceptions.NoScriptError):
            return self.run(operation)
        if isinstance(reply, Exception):
            raise reply
        return operation.decode(reply)


class AsyncStore:
    """Runs operations for the API. Operations of the same turn of the event loop share a round trip."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        _files()
        self.client = client
        self._script = cache(lambda name: client.register_script(_source(name)))
        self._pending: list[tuple[Operation[Any], asyncio.Future[Any]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self, operation: Operation[T]) -> T:
        """Raises StoreUnavailable when the server does not reply or cannot write, or no connection is free in time."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        if not self._pending:
            loop.call_soon(self._send_soon)
        self._pending.append((operation, reply))
        with _translated():
            # The timeout includes the wait for a connection.
            async with asyncio.timeout(REPLY_TIMEOUT_SECONDS):
                return operation.decode(await reply)

    def _send_soon(self) -> None:
        pending, self._pending = self._pending, []
        task = asyncio.create_task(self._send(pending))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, pending: Sequence[tuple[Operation[Any], asyncio.Future[Any]]]) -> None:
        if len(pending) == 1:
            # A pipeline would cost twice as much.
            ((operation, reply),) = pending
            _resolve(reply, await self._run_alone(operation))
            return
        pipeline = self.client.pipeline(transaction=False)
        for operation, _ in pending:
            _add(pipeline, self._script(operation.script).sha, operation)
        try:
            replies = await pipeline.execute(raise_on_error=False)
        except Exception as error:
            replies = [error] * len(pending)
        for (operation, reply), result in zip(pending, replies, strict=True):
            if isinstance(result, redis.exceptions.NoScriptError):
                result = await self._run_alone(operation)
            _resolve(reply, result)

    async def _run_alone(self, operation: Operation[Any]) -> Any:
        """The reply or the error it raised; loads the script if the server does not have it."""
        try:
            return await self._script(operation.script)(keys=operation.keys, args=operation.args)
        except Exception as error:
            return error


def _add(pipeline: Any, sha: str, operation: Operation[Any]) -> None:
    pipeline.evalsha(sha, len(operation.keys), *operation.keys, *operation.args)


def _resolve(reply: asyncio.Future[Any], result: Any) -> None:
    # The caller may have stopped waiting.
    if reply.done():
        return
    if isinstance(result, Exception):
        reply.set_exception(result)
    else:
        reply.set_result(result)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, TimeoutError) as error:
        raise StoreUnavailable from error
    except redis.exceptions.ResponseError as error:
        word, _, wait_ms = str(error).partition(" ")
        if word == "RATE":
            raise RateLimited(seconds=int(wait_ms) / 1000) from None
        if not isinstance(error, _CANNOT_WRITE) and word not in _CANNOT_WRITE_WORDS:
            raise
        raise StoreUnavailable from error


#: Errors of a server that is full, a replica, unable to save or still starting. redis-py has classes for some of
#: them and removes the first word of their messages.
_CANNOT_WRITE = (
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)
_CANNOT_WRITE_WORDS = ("MISCONF", "NOREPLICAS", "BUSY", "UNKILLABLE", "UNBLOCKED")


def require_redis(url: str) -> bool:
    """Whether the server replies; one that does not may still start.

    Raises ConfigurationError for a missing URL, a refused login or an untrusted certificate.
    """
    if not url:
        raise ConfigurationError("SD_REDIS_URL is empty: name a Redis server, or start everything with `imagegen up`.")
    client = connect(url)
    try:
        client.ping()
    except (TypeError, ValueError):
        # The query of the URL becomes arguments of the connection.
        raise ConfigurationError("SD_REDIS_URL is wrong: its query has an unknown option.") from None
    except redis.exceptions.AuthenticationError:
        raise ConfigurationError("SD_REDIS_URL is wrong: the Redis server refuses its user name or password.") from None
    except redis.exceptions.RedisError as error:
        if (problem := _tls_problem(error)) is not None:
            raise ConfigurationError(problem) from None
        return False
    finally:
        client.close()
    return True


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


def connect(url: str) -> redis.Redis:
    # Reopens a connection that the server closed while it was idle: every operation may be repeated.
    retry = Retry(NoBackoff(), 1, supported_errors=(redis.exceptions.ConnectionError,))
    return redis.Redis.from_url(url, retry=retry, **_CONNECTION)


def connect_async(url: str, connections: int = 32) -> redis.asyncio.Redis:
    """Callers beyond `connections` wait; redis-py's default pool raises at 100 connections."""
    retry = redis.asyncio.retry.Retry(NoBackoff(), 1, supported_errors=(redis.exceptions.ConnectionError,))
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url, max_connections=connections, timeout=REPLY_TIMEOUT_SECONDS, retry=retry, **_CONNECTION
    )
    pool.connection_class = _packing_in_c(pool.connection_class)
    return redis.asyncio.Redis(connection_pool=pool)


def _packing_in_c(connection: Any) -> Any:
    """The same class of connections, with commands packed by hiredis, as redis-py does without asyncio.

    A new job has forty arguments: packing them in Python takes an eighth of the time in which the API accepts it.
    """

    class Connection(connection):  # type: ignore[misc]
        def pack_command(self, name: str | bytes, *args: Argument | bytes | float) -> list[bytes]:
            # "SCRIPT LOAD" is two arguments.
            return [hiredis.pack_command((*name.split(), *args))]

    return Connection


_CONNECTION: dict[str, Any] = {
    "decode_responses": True,
    "socket_timeout": REPLY_TIMEOUT_SECONDS,
    "socket_connect_timeout": REPLY_TIMEOUT_SECONDS,
    "health_check_interval": 15,
}
