"""The connection on which an API process hears of all events."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shared.errors import StoreUnavailable
from shared.redis import subscription
from shared.redis.store import async_connections
from shared.redis.subscription import Ping
from tests.support.redis_double import RedisDouble, on_event_loop, redis_double

SUBSCRIBED = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
PONG = b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"
PINGED = b"*3\r\n$7\r\nmessage\r\n$7\r\nc:pings\r\n$0\r\n\r\n"
MESSAGE = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\ntext\r\n"


@asynccontextmanager
async def subscribed(url: str, silence_seconds: float, ping: Ping) -> AsyncIterator[AsyncIterator[str | None]]:
    connection = async_connections(url)()
    try:
        messages = subscription.subscribe(connection, "c", ping)
        assert await anext(messages) is None, "from here on nothing is missed"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subscription, "SILENCE_SECONDS", silence_seconds)
            yield messages
    finally:
        await connection.disconnect()


def only_subscribes(_: int, command: list[str]) -> bytes | None:
    return SUBSCRIBED if command[0] == "SUBSCRIBE" else None


def answers_pings(_: int, command: list[str]) -> bytes | None:
    return SUBSCRIBED if command[0] == "SUBSCRIBE" else PONG + MESSAGE


async def heard_elsewhere() -> None:
    """The store publishes on another server than the one that is listened to."""


async def store_is_away() -> None:
    raise StoreUnavailable


def commands(server: RedisDouble) -> list[str]:
    return [command[0] for command in server.received]


@on_event_loop
async def test_a_silent_connection_to_another_server_than_the_store_has_is_given_up() -> None:
    async with (
        redis_double(answers_pings) as server,
        subscribed(server.url, 0.05, heard_elsewhere) as messages,
    ):
        with pytest.raises(TimeoutError):
            await anext(messages)

    assert commands(server) == ["SUBSCRIBE"]


@on_event_loop
async def test_a_silent_connection_that_hears_what_the_store_publishes_is_kept() -> None:
    async with redis_double(only_subscribes) as server:

        async def publish() -> None:
            server.send_all(PINGED + MESSAGE)

        # Long enough for an answer, also on a busy machine.
        async with subscribed(server.url, 2.0, publish) as messages:
            assert await anext(messages) == "text"


@on_event_loop
async def test_without_the_store_a_connection_that_does_not_answer_is_given_up() -> None:
    async with (
        redis_double(only_subscribes) as server,
        subscribed(server.url, 0.05, store_is_away) as messages,
    ):
        with pytest.raises(TimeoutError):
            await anext(messages)

    assert commands(server) == ["SUBSCRIBE", "PING"]


@on_event_loop
async def test_without_the_store_a_connection_that_answers_is_kept() -> None:
    async with (
        redis_double(answers_pings) as server,
        subscribed(server.url, 2.0, store_is_away) as messages,
    ):
        assert await anext(messages) == "text"

    assert commands(server) == ["SUBSCRIBE", "PING"]
