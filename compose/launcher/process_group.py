"""The process group that all services live in, and the guard that ends it when the launcher is gone."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from subprocess import DEVNULL, PIPE, STDOUT
from types import TracebackType
from typing import Self

#: A shell, because it takes a fraction of an interpreter's memory. Its standard input ends with the launcher, also
#: after kill -9; what it has as standard output, a pipe to read from, ends when every service has.
_GUARD = "trap '' INT TERM HUP; read -r _; kill -TERM 0; { sleep 10; kill -KILL 0; } & read -r _ <&1; kill -KILL 0"


class ProcessGroup:
    """Leaving it kills what is left in it."""

    def __enter__(self) -> Self:
        emptied, self._alive = os.pipe()
        os.set_inheritable(self._alive, True)
        self._guard = subprocess.Popen(("/bin/sh", "-c", _GUARD), stdin=PIPE, stdout=emptied, process_group=0)
        os.close(emptied)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()
        os.close(self._alive)

    def spawn(self, command: Sequence[str], env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command,
            env=env,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            process_group=self._guard.pid,
            pass_fds=(self._alive,),
        )
