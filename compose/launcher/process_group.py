"""The process group of all services, and its guard, which ends the group when the launcher dies."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from subprocess import DEVNULL, PIPE, STDOUT
from types import TracebackType
from typing import Self

#: A shell, because it takes a fraction of an interpreter's memory. Its standard input closes when the launcher ends,
#: also by kill -9. Its standard output is a pipe to read from, which closes when every service has ended.
_GUARD = "trap '' INT TERM HUP; read -r _; kill -TERM 0; { sleep 10; kill -KILL 0; } & read -r _ <&1; kill -KILL 0"


class ProcessGroup:
    """Kills what is left in the group when the `with` block ends."""

    def __enter__(self) -> Self:
        read_end, self._write_end = os.pipe()
        os.set_inheritable(self._write_end, True)
        self._guard = subprocess.Popen(("/bin/sh", "-c", _GUARD), stdin=PIPE, stdout=read_end, process_group=0)
        os.close(read_end)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()
        os.close(self._write_end)

    def spawn(self, command: Sequence[str], env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command,
            env=env,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            process_group=self._guard.pid,
            pass_fds=(self._write_end,),
        )
