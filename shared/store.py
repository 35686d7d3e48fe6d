"""How the shared state in Redis is reached: operations as values, and what runs them.

Each operation is one Lua script and so one atomic step and one round trip. It is written once, as a value; the API
runs it on asyncio, workers run it on threads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Generic, TypeVar

import redis
import redis.asyncio
import redis.exceptions

from shared.errors import StoreUnavailable

#: Longest wait for one answer; a healthy server answers in under a millisecond.
ANSWER_SECONDS = 2.0


T = TypeVar("T")
Argument = str | int


@dataclass(frozen=True)
class Operation(Generic[T]):
    """`script` names a file in shared/lua; `decode` turns its reply into a value."""

    script: str
    keys: Sequence[str]
    args: Sequence[Argument]
    decode: Callable[[Any], T]


@cache
def _source(script: str) -> str:
    return resources.files("shared").joinpath("lua", f"{script}.lua").read_text(encoding="utf-8")


class Store:
    """Runs operations for workers. Safe to share between threads."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def run(self, operation: Operation[T]) -> T:
        """Raises StoreUnavailable when the server does not answer."""
        script = self.client.register_script(_source(operation.script))
        try:
            reply = script(keys=operation.keys, args=operation.args)
        except (
            redis.exceptions.ConnectionError,
            redis.exceptions.TimeoutError,
            redis.exceptions.BusyLoadingError,
        ) as error:
            raise StoreUnavailable from error
        return operation.decode(reply)


class AsyncStore:
    """Runs operations for the API."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.client = client

    async def run(self, operation: Operation[T]) -> T:
        """Raises StoreUnavailable when the server does not answer or no connection is free in time."""
        script = self.client.register_script(_source(operation.script))
        try:
            reply = await script(keys=operation.keys, args=operation.args)
        except (
            redis.exceptions.ConnectionError,
            redis.exceptions.TimeoutError,
            redis.exceptions.BusyLoadingError,
        ) as error:
            raise StoreUnavailable from error
        return operation.decode(reply)


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
