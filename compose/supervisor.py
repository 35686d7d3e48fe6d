"""Keeps processes running: starts them, shows what they say, starts them again when they die, stops them in order."""

import asyncio
import os
import re
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from contextlib import suppress

from compose.services import Service
from compose.voice import Voice

#: A process that ran this long before it died is started again at once, sooner ones after a growing pause.
STABLE_SECONDS = 60.0
MAX_PAUSE_SECONDS = 30.0


class StartFailed(Exception):
    """A process ended before it was ready."""

    def __init__(self, service: Service, code: int) -> None:
        super().__init__(f"{service.name} could not start (exit code {code}); its last lines above say why.")


class Guard:
    """The process group that everything lives in, and the process that ends it when this one is gone."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.group = process.pid

    @classmethod
    async def start(cls) -> "Guard":
        command = (sys.executable, "-m", "compose.guard")
        return cls(await asyncio.create_subprocess_exec(*command, stdin=PIPE, process_group=0))

    async def dismiss(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()


class Supervised:
    """One service: its process, and the task that keeps it alive."""

    def __init__(self, service: Service, guard: Guard, voice: Voice) -> None:
        self.service = service
        self._guard = guard
        self._voice = voice
        self._process: Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when it is ready. Raises StartFailed."""
        reader = await self._spawn()
        await self._until_ready(reader)
        self._keeper = asyncio.create_task(self._keep(reader))

    async def stop(self) -> None:
        """Ask, wait, insist."""
        if self._keeper is not None:
            self._keeper.cancel()
        if self._process is None or self._process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            self._process.terminate()
        drained = asyncio.create_task(self._drain(self._process))
        try:
            await asyncio.wait_for(self._process.wait(), self.service.grace_seconds)
        except TimeoutError:
            self._voice.say(self.service.name, "does not stop when asked; killing it")
            self._process.kill()
            await self._process.wait()
        await drained

    async def _spawn(self) -> asyncio.StreamReader:
        env = {**os.environ, **self.service.env, "PYTHONUNBUFFERED": "1"}
        self._process = await asyncio.create_subprocess_exec(
            *self.service.command, env=env, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, process_group=self._guard.group
        )
        if self._process.stdout is None:
            raise RuntimeError("the process was started without a pipe")
        return self._process.stdout

    async def _until_ready(self, reader: asyncio.StreamReader) -> None:
        while line := await _next_line(reader):
            self._tell(line)
            if self.service.ready in line:
                return
        raise StartFailed(self.service, await self._exit_code())

    async def _keep(self, reader: asyncio.StreamReader) -> None:
        pause = 0.0
        while True:
            begin = time.monotonic()
            while line := await _next_line(reader):
                self._tell(line)
            code = await self._exit_code()
            pause = 0.0 if time.monotonic() - begin > STABLE_SECONDS else min(2 * pause + 0.5, MAX_PAUSE_SECONDS)
            self._voice.say(
                self.service.name, f"ended unexpectedly (exit code {code}); starting it again in {pause:g} s"
            )
            await asyncio.sleep(pause)
            reader = await self._spawn()

    async def _drain(self, process: Process) -> None:
        while process.stdout is not None and (line := await _next_line(process.stdout)):
            self._tell(line)

    async def _exit_code(self) -> int:
        return await self._process.wait() if self._process is not None else 0

    def _tell(self, line: str) -> None:
        if line.strip():
            tell = self._voice.say if re.search(self.service.shown, line) else self._voice.note
            tell(self.service.name, line.rstrip())


async def _next_line(reader: asyncio.StreamReader) -> str:
    """The next line with its end, '' when there are no more. An endless line is given in pieces."""
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        line = error.partial
    except asyncio.LimitOverrunError as error:
        line = await reader.readexactly(error.consumed)
    return line.decode(errors="replace")
