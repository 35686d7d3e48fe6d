"""Keeps processes running: starts them in waves, logs what they print, restarts those that die, stops all in order.

One thread decides everything, from a queue of events. Each process has a thread that reads its output to the end, so
that whatever becomes of one of them, no other is kept from printing. This process lives as long as the service and
imports little: no settings, no asyncio.
"""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import assert_never

from compose.launcher.console import ProcessOutput
from compose.launcher.plan import Plan, Service, Wave
from compose.launcher.process_group import ProcessGroup

#: A process that ran this long before it died is restarted at once, others after a growing pause.
STABLE_SECONDS = 60.0
MAX_PAUSE_SECONDS = 30.0
#: How long a killed process may take to be gone; one in the midst of a system call of a dead disk takes for ever.
KILL_SECONDS = 5.0
#: Longer lines are logged in pieces.
MAX_LINE_BYTES = 65_536


class StartFailed(Exception):
    """A process ended before it was ready."""

    def __init__(self, service: Service, code: int) -> None:
        super().__init__(f"{service.name} could not start (exit code {code}); its last lines above say why.")


@dataclass(frozen=True)
class Ready:
    supervised: "Supervised"


@dataclass(frozen=True)
class Ended:
    """The process has exited and all of its output is logged."""

    supervised: "Supervised"
    code: int


@dataclass(frozen=True)
class StopRequested:
    pass


Events = SimpleQueue[Ready | Ended | StopRequested]


class Supervised:
    """One service, its process of the moment, and the thread that reads what that prints."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.was_ready = False
        self.restart_at: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: Thread | None = None
        self._started_at = 0.0
        self._pause = 0.0

    def start(self, group: ProcessGroup, voice: ProcessOutput, events: Events) -> None:
        self.restart_at, self._started_at = None, time.monotonic()
        self._process = group.spawn(self.service.command, {**os.environ, **self.service.env, "PYTHONUNBUFFERED": "1"})
        self._reader = Thread(target=self._read, args=(self._process, voice, events), daemon=True)
        self._reader.start()

    def stop(self, voice: ProcessOutput) -> None:
        """Ask, wait, insist."""
        if self._process is None or self._reader is None or not self._reader.is_alive():
            return
        self._process.terminate()
        self._reader.join(self.service.grace_seconds)
        if self._reader.is_alive():
            voice.say(self.service.name, "does not stop when asked; killing it")
            self._process.kill()
            self._reader.join(KILL_SECONDS)

    def schedule_restart(self) -> float:
        """In how many seconds."""
        now = time.monotonic()
        stable = now - self._started_at > STABLE_SECONDS
        self._pause = 0.0 if stable else min(2 * self._pause + 0.5, MAX_PAUSE_SECONDS)
        self.restart_at = now + self._pause
        return self._pause

    def _read(self, process: subprocess.Popen[bytes], voice: ProcessOutput, events: Events) -> None:
        is_ready, shown = False, re.compile(self.service.shown)
        for line in _lines(process):
            if line.strip():
                (voice.say if shown.search(line) else voice.note)(self.service.name, line.rstrip())
            if not is_ready and self.service.ready in line:
                is_ready = True
                events.put(Ready(self))
        events.put(Ended(self, process.wait()))


class Supervisor:
    def __init__(self, plan: Plan, group: ProcessGroup, voice: ProcessOutput, events: Events) -> None:
        """A StopRequested in `events` ends it."""
        self._plan = plan
        self._group = group
        self._voice = voice
        self._events = events
        self._supervised: list[Supervised] = []
        self._stopping = False

    def run(self) -> None:
        """Until a stop is requested. Raises StartFailed. Nothing is left running either way."""
        try:
            for wave in self._plan.waves:
                self._start(wave)
            while not self._stopping:
                self._handle_next()
            self._voice.say("imagegen", "Stopping…")
        except StartFailed:
            # What the others say of their end would hide why this one failed.
            self._voice.hush()
            raise
        finally:
            self._stop([one for one in self._supervised if not one.service.stops_last])
            self._stop(self._supervised)

    def _start(self, wave: Wave) -> None:
        starting = [] if self._stopping else [Supervised(service) for service in wave.services]
        self._supervised += starting
        for one in starting:
            one.start(self._group, self._voice, self._events)
        while not (self._stopping or all(one.was_ready for one in starting)):
            self._handle_next()
        if wave.announcement and not self._stopping:
            self._voice.announce(wave.announcement)

    def _handle_next(self) -> None:
        due = min((one.restart_at for one in self._supervised if one.restart_at is not None), default=None)
        try:
            event = self._events.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
        except Empty:
            self._restart_due()
            return
        match event:
            case Ready(one):
                one.was_ready = True
            case Ended(one, code):
                self._ended(one, code)
            case StopRequested():
                self._stopping = True
            case _:
                assert_never(event)

    def _ended(self, one: Supervised, code: int) -> None:
        if not one.was_ready:
            raise StartFailed(one.service, code)
        pause = one.schedule_restart()
        self._voice.say(one.service.name, f"ended unexpectedly (exit code {code}); starting it again in {pause:g} s")

    def _restart_due(self) -> None:
        now = time.monotonic()
        for one in self._supervised:
            if one.restart_at is not None and one.restart_at <= now:
                one.start(self._group, self._voice, self._events)

    def _stop(self, those: list[Supervised]) -> None:
        stops = [Thread(target=one.stop, args=(self._voice,)) for one in those]
        for stop in stops:
            stop.start()
        for stop in stops:
            stop.join()


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Until the process and all that it started have closed their output. An endless line is given in pieces."""
    if process.stdout is None:
        raise RuntimeError("the process was started without a pipe")
    with process.stdout as stdout:
        while line := stdout.readline(MAX_LINE_BYTES):
            yield line.decode(errors="replace")
