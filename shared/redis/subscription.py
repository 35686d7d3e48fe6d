"""Receives the messages of a channel of Redis."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from redis.asyncio.connection import AbstractConnection

from shared.errors import StoreUnavailable

#: A connection that is silent for so long is asked whether it still works, and given up after as long again.
SILENCE_SECONDS = 10.0

#: Sends a ping to all that listen to a channel, by another connection (see lua/jobs/ping_listeners.lua).
Ping = Callable[[], Awaitable[object]]


async def subscribe(connection: AbstractConnection, channel: str, ping: Ping) -> AsyncIterator[str | None]:
    """The messages as they come, and None as soon as none is missed any more.

    Raises ConnectionError and TimeoutError, also for a connection that was lost without a word, and for one to a server
    that answers but has been replaced. redis-py's own loop takes several timers for each message.
    """
    async with asyncio.timeout(SILENCE_SECONDS):
        await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_command("SUBSCRIBE", f"{channel}:pings", channel, check_health=False)
    is_asked = False
    while True:
        reply = await connection.read_response(timeout=SILENCE_SECONDS, push_request=True)
        match reply:
            case None if is_asked:
                raise TimeoutError
            case None:
                try:
                    await ping()
                except StoreUnavailable:
                    # This connection may still work.
                    await connection.send_command("PING", check_health=False)
            case ["subscribe", name, *_] if name == channel:
                yield None
            case ["message", name, str(text)] if name == channel:
                yield text
        is_asked = reply is None
