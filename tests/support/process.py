"""Starts, watches and stops one process."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import psutil

from tests.support.fork_server import ForkedProcess, kind_of

START_SECONDS = 90


class Process:
    """A process in its own session, with the processes that it starts. Its output is read line by line."""

    #: Modules that are forked instead of executed: see tests.support.fork_server. Benchmarks execute all.
    forked_modules: ClassVar[tuple[str, ...]] = ()

    def __init__(self, command: list[str], cwd: Path, settings: Mapping[str, str] = {}, *, warm: bool = True) -> None:
        """`settings` are the only SD_ and OTEL_ variables that it gets.

        The child of a worker that is not `warm` imports its libraries itself, as in production.
        """
        self.lines: list[str] = []
        self._new_lines: queue.Queue[str | None] = queue.Queue()
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SD_", "OTEL_"))}
        self._popen = self._start(command, {**env, **settings}, cwd, warm=warm)
        self._leader = _process(self._popen.pid)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @staticmethod
    def _start(
        command: list[str], env: dict[str, str], cwd: Path, *, warm: bool
    ) -> "subprocess.Popen[str] | ForkedProcess":
        executable, *arguments = command
        if executable == sys.executable and arguments[0] == "-m" and arguments[1] in Process.forked_modules:
            return ForkedProcess(kind_of(arguments[1], env, warm=warm), arguments[1:], env, cwd)
        return subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def wait_for(self, *texts: str, seconds: float = START_SECONDS) -> None:
        """Wait until new lines contain all texts, in any order."""
        missing = set(texts)
        while missing:
            try:
                line = self._new_lines.get(timeout=seconds)
            except queue.Empty:
                raise AssertionError(f"no {missing} within {seconds} s in:\n{self.output}") from None
            if line is None:
                raise AssertionError(f"ended without {missing}:\n{self.output}")
            missing -= {text for text in missing if text in line}

    def wait(self, seconds: float = START_SECONDS) -> int:
        code = self._popen.wait(seconds)
        self._reader.join(seconds)
        return code

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def stop(self, seconds: float = 10) -> None:
        """Send SIGTERM, and SIGKILL if the process does not end."""
        self._popen.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the process and to all that it has started."""
        self._popen.kill()
        self._popen.wait()
        while session := list(self._session()):
            for process in session:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.wait()

    def _session(self) -> Iterator[psutil.Process]:
        # Another process may have the number of one that ended long ago, and a session of its own.
        if _process(self.pid) in (None, self._leader):
            yield from (process for process in psutil.process_iter() if self._is_in_session(process))

    def _is_in_session(self, process: psutil.Process) -> bool:
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            return os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE
        return False

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))
                self._new_lines.put(line)
        self._new_lines.put(None)


def _process(pid: int) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid)
    return None
