"""The connection to Redis that all requests of an API process share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis.exceptions

from shared.redis.pipelining import PipelinedConnection
from shared.redis.store import async_connections
from tests.stack import socket_folder
from tests.support.redis_double import bulk, on_event_loop, redis_double

#: Long enough for any reply that comes at all.
PATIENT = 20.0
#: For replies that never come; long enough for others on a busy machine.
SHORT = 2.0


@asynccontextmanager
async def connected(url: str, timeout_seconds: float = PATIENT) -> AsyncIterator[PipelinedConnection]:
    connection = PipelinedConnection(async_connections(url), timeout_seconds)
    try:
        yield connection
    finally:
        await connection.aclose()


def echo(_: int, command: list[str]) -> bytes:
    return bulk(command[-1])


def test_many_callers_share_one_connection_and_get_their_own_replies(redis_url: str) -> None:
    async def ask() -> tuple[list[str], set[str]]:
        async with connected(redis_url) as connection:
            texts = await asyncio.gather(*(connection.execute("ECHO", f"ünïcödé \x00\r\n {n}") for n in range(500)))
            ids = await asyncio.gather(*(connection.execute("CLIENT", "ID") for _ in range(20)))
            return texts, set(ids)

    texts, ids = asyncio.run(ask())

    assert texts == [f"ünïcödé \x00\r\n {n}" for n in range(500)]
    assert len(ids) == 1


def test_an_error_reaches_only_the_caller_whose_command_it_answers(redis_url: str) -> None:
    async def ask() -> list[object]:
        async with connected(redis_url) as connection:
            commands = (("ECHO", "before"), ("EVALSHA", "0" * 40, 0), ("NONSENSE",), ("ECHO", "after"))
            return await asyncio.gather(*(connection.execute(*parts) for parts in commands), return_exceptions=True)

    before, missing, unknown, after = asyncio.run(ask())

    assert (before, after) == ("before", "after")
    assert isinstance(missing, redis.exceptions.NoScriptError)
    assert isinstance(unknown, redis.exceptions.ResponseError)


@on_event_loop
async def test_commands_without_a_reply_are_sent_once_more_when_the_connection_is_lost() -> None:
    def lose_first(number: int, command: list[str]) -> bytes | None:
        if number == 0 and command[-1] == "2":
            raise ConnectionError
        return None if number == 0 and command[-1] == "1" else bulk(command[-1])

    async with redis_double(lose_first) as server, connected(server.url) as connection:
        replies = await asyncio.gather(*(connection.execute("ECHO", str(number)) for number in range(4)))

    assert replies == ["0", "1", "2", "3"]
    sent = [command[-1] for command in server.received]
    assert (sent.count("1"), sent.count("2")) == (2, 2)
    assert server.connections == 2


@on_event_loop
async def test_a_command_that_loses_two_connections_fails_and_the_next_one_opens_another() -> None:
    def lose_two(number: int, command: list[str]) -> bytes:
        if number < 2:
            raise ConnectionError
        return echo(number, command)

    async with redis_double(lose_two) as server, connected(server.url) as connection:
        with pytest.raises(redis.exceptions.ConnectionError):
            await connection.execute("ECHO", "unlucky")

        assert await connection.execute("ECHO", "lucky") == "lucky"


@on_event_loop
async def test_an_idle_connection_that_the_server_closes_is_opened_again() -> None:
    async with redis_double(echo) as server, connected(server.url) as connection:
        await connection.execute("ECHO", "before")
        server.close_all()
        assert await connection.execute("ECHO", "after") == "after"

    assert server.connections == 2


@on_event_loop
async def test_a_late_reply_is_never_taken_for_that_of_another_command() -> None:
    def silent_once(number: int, command: list[str]) -> bytes | None:
        return None if command[-1] == "late" else echo(number, command)

    async with redis_double(silent_once) as server, connected(server.url, SHORT) as connection:
        with pytest.raises(TimeoutError):
            await connection.execute("ECHO", "late")
        server.send_all(bulk("late"))

        replies = await asyncio.gather(*(connection.execute("ECHO", str(number)) for number in range(3)))

    assert replies == ["0", "1", "2"]
    assert server.connections == 2, "the silent one was given up"


@on_event_loop
async def test_a_caller_that_stops_waiting_shifts_no_reply() -> None:
    async with redis_double(echo) as server, connected(server.url) as connection:
        tasks = [asyncio.create_task(connection.execute("ECHO", str(number))) for number in range(5)]
        await asyncio.sleep(0)
        tasks[1].cancel()

        replies = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(replies.pop(1), asyncio.CancelledError)
    assert (replies, server.connections) == (["0", "2", "3", "4"], 1)


@on_event_loop
async def test_an_absent_server_is_reported_at_once_and_found_when_it_is_back() -> None:
    with socket_folder() as folder:
        path = f"{folder}/later"
        async with connected(f"unix://{path}?protocol=2") as connection:
            for _ in range(2):
                with pytest.raises(redis.exceptions.ConnectionError):
                    await connection.execute("ECHO", "away")
            async with redis_double(echo, path):
                assert await connection.execute("ECHO", "back") == "back"
