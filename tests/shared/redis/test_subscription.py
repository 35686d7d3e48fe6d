"""The connection on which an API process hears of all events."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shared.redis import subscription
from shared.redis.store import async_connections
from tests.support.redis_double import on_event_loop, redis_double

SUBSCRIBED = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
PONG = b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"
MESSAGE = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\ntext\r\n"


@asynccontextmanager
async def subscribed(url: str, silence_seconds: float) -> AsyncIterator[AsyncIterator[str | None]]:
    connection = async_connections(url)()
    try:
        messages = subscription.subscribe(connection, "c")
        assert await anext(messages) is None, "from here on nothing is missed"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subscription, "SILENCE_SECONDS", silence_seconds)
            yield messages
    finally:
        await connection.disconnect()


@on_event_loop
async def test_a_connection_that_is_silent_and_does_not_answer_is_given_up() -> None:
    def answer(_: int, command: list[str]) -> bytes | None:
        return SUBSCRIBED if command[0] == "SUBSCRIBE" else None

    async with redis_double(answer) as server, subscribed(server.url, 0.05) as messages:
        with pytest.raises(TimeoutError):
            await anext(messages)

    assert [command[0] for command in server.received] == ["SUBSCRIBE", "PING"]


@on_event_loop
async def test_a_connection_that_is_silent_and_answers_is_kept() -> None:
    def answer(_: int, command: list[str]) -> bytes:
        return SUBSCRIBED if command[0] == "SUBSCRIBE" else PONG + MESSAGE

    # Long enough for an answer, also on a busy machine.
    async with redis_double(answer) as server, subscribed(server.url, 2.0) as messages:
        assert await anext(messages) == "text"

    assert [command[0] for command in server.received] == ["SUBSCRIBE", "PING"]
