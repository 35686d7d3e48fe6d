"""One connection to Redis that all requests of a process share."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hiredis
import redis.exceptions
from redis.asyncio.connection import AbstractConnection

MakeConnection = Callable[[], AbstractConnection]
#: Its stub allows one part only.
_pack: Callable[[tuple[str | int, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]


def is_of_replica(error: redis.exceptions.ResponseError) -> bool:
    """Whether the server refused to write because it is a replica; before Redis 7, scripts say so at the end."""
    return isinstance(error, redis.exceptions.ReadOnlyError) or ": -READONLY " in str(error)


@dataclass(eq=False, slots=True)
class _Command:
    packed: bytes
    reply: asyncio.Future[Any]
    expires: float
    is_repeated: bool = False

    def settle(self, reply: Any) -> None:
        # The caller may have stopped waiting.
        if self.reply.done():
            return
        if isinstance(reply, Exception):
            self.reply.set_exception(reply)
        else:
            self.reply.set_result(reply)


class PipelinedConnection:
    """Sends each command at once; the replies come in the same order.

    redis-py takes a connection out of a pool for each command, with a task, a lock and several timers of its own: that
    took a quarter of the time in which the API answered a poll.

    The first command opens the connection, and so does the first one after it was lost. Commands may be repeated: those
    that await their reply when the connection is lost are sent once more. A replica that is asked to write loses it.
    """

    def __init__(self, make_connection: MakeConnection, timeout_seconds: float) -> None:
        self._make_connection = make_connection
        self._timeout_seconds = timeout_seconds
        #: Called when the server has become a replica.
        self.on_replica: Callable[[], None] = lambda: None
        self._unsent: deque[_Command] = deque()
        self._sent: deque[_Command] = deque()
        self._changed = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        #: Limits how long the present connection is used; without a deadline while replies come in time.
        self._use: asyncio.Timeout | None = None
        #: One timer, for the oldest command.
        self._timer: asyncio.TimerHandle | None = None

    async def execute(self, *parts: str | int) -> Any:
        """The reply. Raises RedisError for an error, also of the connection, and TimeoutError for none in time."""
        loop = asyncio.get_running_loop()
        command = _Command(_pack(parts), loop.create_future(), loop.time() + self._timeout_seconds)
        self._unsent.append(command)
        self._changed.set()
        if self._serving is None or self._serving.done():
            self._serving = loop.create_task(self._serve())
        if self._timer is None:
            self._timer = loop.call_at(command.expires, self._expire)
        return await command.reply

    async def aclose(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)

    async def _serve(self) -> None:
        while True:
            await self._changed.wait()
            connection = self._make_connection()
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await connection.connect()  # type: ignore[no-untyped-call]
            except Exception as error:
                self._fail_unsent(error)
                await connection.disconnect(nowait=True)
                continue
            try:
                async with asyncio.timeout(None) as self._use:
                    await self._exchange(connection)
            except Exception as error:
                self._repeat_sent(error)
            finally:
                self._use = None
                await connection.disconnect(nowait=True)

    async def _exchange(self, connection: AbstractConnection) -> None:
        """Send and receive until the connection is lost."""
        receiving = asyncio.create_task(self._receive(connection))
        receiving.add_done_callback(lambda _: self._changed.set())
        try:
            while not receiving.done():
                self._changed.clear()
                if self._unsent:
                    packed = b"".join([command.packed for command in self._unsent])
                    self._sent += self._unsent
                    self._unsent.clear()
                    await connection.send_packed_command(packed, check_health=False)
                await self._changed.wait()
            await receiving
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _receive(self, connection: AbstractConnection) -> None:
        while True:
            try:
                reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
            except redis.exceptions.ResponseError as error:
                # A server that has become a replica keeps its connections; its name may lead to its successor by now.
                if is_of_replica(error) and not self._sent[0].is_repeated:
                    self.on_replica()
                    raise
                reply = error
            self._sent.popleft().settle(reply)

    def _fail_unsent(self, error: Exception) -> None:
        for command in self._unsent:
            command.settle(error)
        self._unsent.clear()
        self._changed.clear()

    def _repeat_sent(self, error: Exception) -> None:
        while self._sent:
            command = self._sent.pop()
            if command.is_repeated:
                command.settle(error)
            elif not command.reply.done():
                command.is_repeated = True
                self._unsent.appendleft(command)
        if not self._unsent:
            self._changed.clear()

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        now, pending = loop.time(), [*self._sent, *self._unsent]
        for command in pending:
            if command.expires <= now:
                command.settle(TimeoutError())
        if self._use is not None and any(command.expires <= now for command in self._sent):
            # Nothing may ever come over this connection again.
            self._use.reschedule(now)
            self._use = None
        following = (command.expires for command in pending if command.expires > now)
        self._timer = loop.call_at(expires, self._expire) if (expires := next(following, None)) else None
