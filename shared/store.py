"""How the shared state in Redis is reached: operations as values, and what runs them.

Each operation is one Lua script and so one atomic step and one round trip. It is written once, as a value; the API
runs it on asyncio, workers run it on threads.
"""

import asyncio
import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Generic, TypeVar

import redis
import redis.asyncio
import redis.exceptions

from shared.errors import ConfigurationError, RateLimited, StoreUnavailable

#: Longest wait for one answer; a healthy server answers in under a millisecond.
ANSWER_SECONDS = 2.0


T = TypeVar("T")
Argument = str | int


@dataclass(frozen=True)
class Operation(Generic[T]):
    """`script` names a file in shared/lua, or several with + between them, one after the other in one step.

    `decode` turns its reply into a value.
    """

    script: str
    keys: Sequence[str]
    args: Sequence[Argument]
    decode: Callable[[Any], T]


_INCLUDE = re.compile(r"^-- include (\w+)$", re.MULTILINE)


@cache
def _source(script: str) -> str:
    """The script with what it includes in place: scripts on the server cannot share code."""
    folder = resources.files("shared").joinpath("lua")
    text = "\n".join(folder.joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in script.split("+"))
    return _INCLUDE.sub(lambda found: _source(found[1]), text)


class Store:
    """Runs operations for workers. Safe to share between threads."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
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

    def _settled(self, operation: Operation[T], reply: Any) -> T:
        if isinstance(reply, redis.exceptions.NoScriptError):
            return self.run(operation)
        if isinstance(reply, Exception):
            raise reply
        return operation.decode(reply)


class AsyncStore:
    """Runs operations for the API."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.client = client
        self._script = cache(lambda name: client.register_script(_source(name)))

    async def run(self, operation: Operation[T]) -> T:
        """Raises StoreUnavailable when the server does not answer, cannot write, or no connection is free in time."""
        with _translated():
            # Waiting for a connection and for the answer share the one limit.
            async with asyncio.timeout(ANSWER_SECONDS):
                reply = await self._script(operation.script)(keys=operation.keys, args=operation.args)
        return operation.decode(reply)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, TimeoutError) as error:
        raise StoreUnavailable from error
    except redis.exceptions.ResponseError as error:
        told, _, wait_ms = str(error).partition(" ")
        if told == "RATE":
            raise RateLimited(seconds=int(wait_ms) / 1000) from None
        if not told.startswith(_CANNOT_WRITE):
            raise
        raise StoreUnavailable from error


#: Answers of a server that is there but full, a replica, unable to save, or still starting.
_CANNOT_WRITE = ("OOM", "READONLY", "MISCONF", "LOADING", "MASTERDOWN", "NOREPLICAS")


def require_redis(url: str) -> None:
    """Raises ConfigurationError for no server, or one that refuses the login or whose certificate is not believed.

    One that is not there yet may come.
    """
    if not url:
        raise ConfigurationError("SD_REDIS_URL is empty: name a Redis server, or start everything with `imagegen up`.")
    client = connect(url)
    try:
        client.ping()
    except redis.exceptions.AuthenticationError:
        raise ConfigurationError("SD_REDIS_URL is wrong: the Redis server refuses its user name or password.") from None
    except redis.exceptions.RedisError as error:
        if (refusal := _refusal_of_tls(error)) is not None:
            raise ConfigurationError(refusal) from None
    finally:
        client.close()


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
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        health_check_interval=15,
    )


def connect_async(url: str, connections: int = 32) -> redis.asyncio.Redis:
    """Callers beyond `connections` wait their turn; redis-py's default pool would raise at 100."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=ANSWER_SECONDS,
        decode_responses=True,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        health_check_interval=15,
    )
    return redis.asyncio.Redis(connection_pool=pool)
