"""How the shared state in Redis is reached: operations as values, and what runs them.

Each operation is one Lua script and so one atomic step and one round trip. It is written once, as a value; the API
runs it on asyncio, workers run it on threads.
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

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.errors import ConfigurationError, RateLimited, StoreUnavailable
from shared.redis.clock import StoreClock

#: Longest wait for one answer; a healthy server answers in under a millisecond.
REPLY_TIMEOUT_SECONDS = 2.0
#: How old what is known of the server's clock may be.
CLOCK_SECONDS = 5.0


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
    """Every script by its folder and name. Read when a process starts: later there may be no file handle left."""
    folder = Path(__file__).with_name("lua")
    scripts = folder.glob("*/*.lua")
    return {f"{file.parent.name}/{file.stem}": file.read_text(encoding="utf-8") for file in scripts}


@cache
def _source(script: str) -> str:
    """The script with what it includes in place: scripts on the server cannot share code."""
    return _INCLUDE.sub(lambda found: _source(found[1]), _files()[script])


class Store:
    """Runs operations for workers. Safe to share between threads."""

    def __init__(self, client: redis.Redis) -> None:
        _files()
        self.client = client
        self._clock = StoreClock()
        self._script = cache(lambda name: client.register_script(_source(name)))

    def run(self, operation: Operation[T]) -> T:
        """Raises StoreUnavailable when the server does not answer or cannot write."""
        with _translated():
            reply = self._script(operation.script)(keys=operation.keys, args=operation.args)
        return operation.decode(reply)

    def run_all(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """Several in one round trip, each an atomic step of its own.

        Raises StoreUnavailable when the server does not answer, or cannot write one of them; others may be done.
        """
        pipeline = self.client.pipeline(transaction=False)
        for each in operations:
            pipeline.evalsha(self._script(each.script).sha, len(each.keys), *each.keys, *each.args)
        with _translated():
            replies = pipeline.execute(raise_on_error=False)
            return [self._settled(each, reply) for each, reply in zip(operations, replies, strict=True)]

    def now(self) -> datetime:
        """The server's time; carried on by this machine's clock while the server does not answer."""
        asked_at = time.monotonic()
        if self._clock.age(asked_at) > CLOCK_SECONDS:
            with suppress(redis.exceptions.RedisError):
                seconds, microseconds = self.client.time()
                self._clock.sync(seconds * 1000 + microseconds / 1000, asked_at)
        return self._clock.now()

    def _settled(self, operation: Operation[T], reply: Any) -> T:
        if isinstance(reply, redis.exceptions.NoScriptError):
            return self.run(operation)
        if isinstance(reply, Exception):
            raise reply
        return operation.decode(reply)


class AsyncStore:
    """Runs operations for the API. Those that are asked for in the same turn of the loop share a round trip."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        _files()
        self.client = client
        self._script = cache(lambda name: client.register_script(_source(name)))
        self._asked: list[tuple[Operation[Any], asyncio.Future[Any]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self, operation: Operation[T]) -> T:
        """Raises StoreUnavailable when the server does not answer, cannot write, or no connection is free in time."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        if not self._asked:
            loop.call_soon(self._send_soon)
        self._asked.append((operation, reply))
        with _translated():
            # Waiting for a connection and for the answer share the one limit.
            async with asyncio.timeout(REPLY_TIMEOUT_SECONDS):
                return operation.decode(await reply)

    def _send_soon(self) -> None:
        asked, self._asked = self._asked, []
        task = asyncio.create_task(self._send(asked))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, asked: Sequence[tuple[Operation[Any], asyncio.Future[Any]]]) -> None:
        if len(asked) == 1:
            # A pipeline costs as much again.
            ((operation, reply),) = asked
            _settle(reply, await self._alone(operation))
            return
        pipeline = self.client.pipeline(transaction=False)
        for each, _ in asked:
            pipeline.evalsha(self._script(each.script).sha, len(each.keys), *each.keys, *each.args)
        try:
            replies = await pipeline.execute(raise_on_error=False)
        except Exception as error:
            replies = [error] * len(asked)
        for (operation, reply), answer in zip(asked, replies, strict=True):
            if isinstance(answer, redis.exceptions.NoScriptError):
                answer = await self._alone(operation)
            _settle(reply, answer)

    async def _alone(self, operation: Operation[Any]) -> Any:
        """The reply, also from a server that does not know the script yet, or what it raised."""
        try:
            return await self._script(operation.script)(keys=operation.keys, args=operation.args)
        except Exception as error:
            return error


def _settle(reply: asyncio.Future[Any], answer: Any) -> None:
    # Who asked may have stopped waiting.
    if reply.done():
        return
    if isinstance(answer, Exception):
        reply.set_exception(answer)
    else:
        reply.set_result(answer)


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


#: Answers of a server that is there but full, a replica, unable to save, or still starting. redis-py has classes of its
#: own for some, and takes the word that begins the message away from these.
_CANNOT_WRITE = (
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)
_CANNOT_WRITE_WORDS = ("MISCONF", "NOREPLICAS", "BUSY", "UNKILLABLE", "UNBLOCKED")


def require_redis(url: str) -> bool:
    """Whether it answers: one that is not there yet may come.

    Raises ConfigurationError for no server, or one that refuses the login or whose certificate is not believed.
    """
    if not url:
        raise ConfigurationError("SD_REDIS_URL is empty: name a Redis server, or start everything with `imagegen up`.")
    client = connect(url)
    try:
        client.ping()
    except (TypeError, ValueError):
        # What the address says after its ? becomes arguments of the connection.
        raise ConfigurationError("SD_REDIS_URL is wrong: it has an option that connections do not have.") from None
    except redis.exceptions.AuthenticationError:
        raise ConfigurationError("SD_REDIS_URL is wrong: the Redis server refuses its user name or password.") from None
    except redis.exceptions.RedisError as error:
        if (refusal := _refusal_of_tls(error)) is not None:
            raise ConfigurationError(refusal) from None
        return False
    finally:
        client.close()
    return True


def _refusal_of_tls(error: BaseException | None) -> str | None:
    match error:
        case None:
            return None
        case ssl.SSLCertVerificationError():
            return (
                f"SD_REDIS_URL is wrong, or SD_CA_FILE is: the server's certificate is not believed "
                f"({error.verify_message})."
            )
        case ssl.SSLError():
            return (
                f"SD_REDIS_URL is wrong, or SD_REDIS_CERT_FILE is: the server ends the TLS handshake ({error.reason})."
            )
        case _:
            return _refusal_of_tls(error.__cause__ or error.__context__)


def connect(url: str) -> redis.Redis:
    # A connection that the server closed while it was idle is opened again: every operation may be repeated.
    retry = Retry(NoBackoff(), 1, supported_errors=(redis.exceptions.ConnectionError,))
    return redis.Redis.from_url(url, retry=retry, **_CONNECTION)


def connect_async(url: str, connections: int = 32) -> redis.asyncio.Redis:
    """Callers beyond `connections` wait their turn; redis-py's default pool would raise at 100."""
    retry = redis.asyncio.retry.Retry(NoBackoff(), 1, supported_errors=(redis.exceptions.ConnectionError,))
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url, max_connections=connections, timeout=REPLY_TIMEOUT_SECONDS, retry=retry, **_CONNECTION
    )
    return redis.asyncio.Redis(connection_pool=pool)


_CONNECTION: dict[str, Any] = {
    "decode_responses": True,
    "socket_timeout": REPLY_TIMEOUT_SECONDS,
    "socket_connect_timeout": REPLY_TIMEOUT_SECONDS,
    "health_check_interval": 15,
}
