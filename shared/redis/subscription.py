"""Receives the messages of a channel of Redis."""

import asyncio
from collections.abc import AsyncIterator

from redis.asyncio.connection import AbstractConnection

#: A connection that is silent for so long is asked whether it still works, and given up after as long again.
SILENCE_SECONDS = 10.0


async def subscribe(connection: AbstractConnection, channel: str) -> AsyncIterator[str | None]:
    """The messages as they come, and None as soon as none is missed any more.

    Raises ConnectionError and TimeoutError, also for a connection that was lost without a word. redis-py's own loop
    takes several timers for each message.
    """
    async with asyncio.timeout(SILENCE_SECONDS):
        await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_command("SUBSCRIBE", channel, check_health=False)
    is_asked = False
    while True:
        reply = await connection.read_response(timeout=SILENCE_SECONDS, push_request=True)
        match reply:
            case None if is_asked:
                raise TimeoutError
            case None:
                await connection.send_command("PING", check_health=False)
            case ["subscribe", *_]:
                yield None
            case ["message", _, str(text)]:
                yield text
        is_asked = reply is None
