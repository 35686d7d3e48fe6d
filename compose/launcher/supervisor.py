"""Keeps processes running: starts them in stages, logs their output, restarts those that die, stops all in order.

One thread makes all decisions, from a queue of events. A thread per process reads its output to the end, so that no
process blocks another one's output. This process lives as long as the service and imports little: no settings, no
asyncio.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import assert_never

from compose.launcher.console import ProcessOutput
from compose.launcher.plan import Plan, Service, Stage
from compose.launcher.process_group import ProcessGroup

#: A process that ran this long before it died is restarted at once, others after a growing delay.
STABLE_SECONDS = 60.0
MAX_DELAY_SECONDS = 30.0
#: How long processes may take to end once nobody wants to wait: what they sent to others may still be answered.
HURRY_SECONDS = 10.0
#: A signal that comes close behind another may reach another thread, which does not wake the one that handles it.
SIGNAL_SECONDS = 0.5
#: How long a killed process may take to end; one that waits for a dead disk never ends.
KILL_SECONDS = 5.0
STOPPING = (
    "Stopping; running jobs may finish within SD_SHUTDOWN_GRACE_SECONDS. Ctrl-C again stops at once: they run again "
    "after the next start."
)
#: The exit code of a program that cannot be executed, as shells have it.
NOT_STARTED = 126
#: Longer lines are logged in chunks.
MAX_LINE_BYTES = 65_536


class StartFailed(Exception):
    """A process ended before it was ready."""

    def __init__(self, service: Service, code: int) -> None:
        super().__init__(f"{service.name} could not start (exit code {code}); its last lines above say why.")


@dataclass(frozen=True)
class Ready:
    process: "SupervisedProcess"


@dataclass(frozen=True)
class Ended:
    """The process has exited and all of its output is logged."""

    process: "SupervisedProcess"
    code: int


@dataclass(frozen=True)
class StopRequested:
    is_ctrl_c: bool


@dataclass(frozen=True)
class Stopped:
    """The process was to stop and has ended, or cannot even be killed."""

    process: "SupervisedProcess"


Events = SimpleQueue[Ready | Ended | StopRequested | Stopped]


class SupervisedProcess:
    """A service, its current process, and the thread that reads the output."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.was_ready = False
        self.restart_at: float | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._reader: Thread | None = None
        self._started_at = 0.0
        self._delay = 0.0

    def start(self, group: ProcessGroup, output: ProcessOutput, events: Events) -> None:
        self.restart_at, self._started_at = None, time.monotonic()
        try:
            self._popen = group.spawn(self.service.command, {**os.environ, **self.service.env, "PYTHONUNBUFFERED": "1"})
        except OSError as error:
            # The system may allow no further process for a moment, or its program is being replaced.
            output.show(self.service.name, f"{self.service.command[0]} cannot be started: {error.strerror}")
            events.put(Ended(self, NOT_STARTED))
            return
        self._reader = Thread(target=self._read, args=(self._popen, output, events), daemon=True)
        self._reader.start()

    def stop(self, number: signal.Signals, seconds: float, output: ProcessOutput, events: Events) -> None:
        """Send the signal, wait, kill; on a thread of its own."""
        Thread(target=self._stop, args=(number, seconds, output, events), daemon=True).start()

    def _stop(self, number: signal.Signals, seconds: float, output: ProcessOutput, events: Events) -> None:
        if self._popen is not None and self._reader is not None and self._reader.is_alive():
            self._popen.send_signal(number)
            self._reader.join(seconds)
            if self._reader.is_alive():
                output.show(self.service.name, "does not stop; killing it")
                self._popen.kill()
                self._reader.join(KILL_SECONDS)
        events.put(Stopped(self))

    def schedule_restart(self) -> float:
        """Returns the delay in seconds."""
        now = time.monotonic()
        is_stable = now - self._started_at > STABLE_SECONDS
        self._delay = 0.0 if is_stable else min(2 * self._delay + 0.5, MAX_DELAY_SECONDS)
        self.restart_at = now + self._delay
        return self._delay

    def _read(self, popen: subprocess.Popen[bytes], output: ProcessOutput, events: Events) -> None:
        is_ready, shown = False, re.compile(self.service.shown)
        for line in _lines(popen):
            if line.strip():
                (output.show if shown.search(line) else output.record)(self.service.name, line.rstrip())
            if not is_ready and self.service.ready in line:
                is_ready = True
                events.put(Ready(self))
        events.put(Ended(self, popen.wait()))


class Supervisor:
    def __init__(self, plan: Plan, group: ProcessGroup, output: ProcessOutput, events: Events) -> None:
        """A StopRequested in `events` ends it."""
        self._plan = plan
        self._group = group
        self._output = output
        self._events = events
        self._processes: list[SupervisedProcess] = []
        self._is_stopping = False

    def run(self) -> None:
        """Runs until a stop is requested and leaves no process behind. Raises StartFailed."""
        try:
            for stage in self._plan.stages:
                self._start(stage)
            while not self._is_stopping:
                self._handle_next()
            self._output.show("imagegen", STOPPING)
        except StartFailed:
            # The last lines of the other processes would hide why this one failed.
            self._output.mute()
            raise
        finally:
            self._stop([process for process in self._processes if not process.service.stops_last])
            self._stop(self._processes)

    def _start(self, stage: Stage) -> None:
        starting = [] if self._is_stopping else [SupervisedProcess(service) for service in stage.services]
        self._processes += starting
        for process in starting:
            process.start(self._group, self._output, self._events)
        while not (self._is_stopping or all(process.was_ready for process in starting)):
            self._handle_next()
        if stage.announcement and not self._is_stopping:
            self._output.announce(stage.announcement)

    def _handle_next(self) -> None:
        due = min((process.restart_at for process in self._processes if process.restart_at is not None), default=None)
        try:
            event = self._events.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
        except Empty:
            self._restart_due()
            return
        match event:
            case Ready(process):
                process.was_ready = True
            case Ended(process, code):
                self._handle_end(process, code)
            case StopRequested():
                self._is_stopping = True
            case Stopped():
                # Only `_stop` asks for it.
                pass
            case _:
                assert_never(event)

    def _handle_end(self, process: SupervisedProcess, code: int) -> None:
        if not process.was_ready:
            raise StartFailed(process.service, code)
        delay = process.schedule_restart()
        self._output.show(process.service.name, f"ended unexpectedly (exit code {code}); restarting in {delay:g} s")

    def _restart_due(self) -> None:
        now = time.monotonic()
        for process in self._processes:
            if process.restart_at is not None and process.restart_at <= now:
                process.start(self._group, self._output, self._events)

    def _stop(self, processes: list[SupervisedProcess]) -> None:
        left = set(processes)
        for process in processes:
            process.stop(signal.SIGTERM, process.service.grace_seconds, self._output, self._events)
        while left:
            try:
                event = self._events.get(timeout=SIGNAL_SECONDS)
            except Empty:
                continue
            match event:
                case Stopped(process):
                    left.discard(process)
                case StopRequested(is_ctrl_c=True):
                    self._output.show("imagegen", "Stopping at once.")
                    for process in left:
                        process.stop(signal.SIGINT, HURRY_SECONDS, self._output, self._events)


def _lines(popen: subprocess.Popen[bytes]) -> Iterator[str]:
    """Until the process and all its children have closed their output. Splits endless lines."""
    if popen.stdout is None:
        raise RuntimeError("the process was started without a pipe")
    with popen.stdout as stdout:
        while line := stdout.readline(MAX_LINE_BYTES):
            yield line.decode(errors="replace")
