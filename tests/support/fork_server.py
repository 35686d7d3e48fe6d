"""Forks processes of the service from one that has imported it: a start takes 0.1 s of CPU time instead of 1 s.

A forked process is as real as one that is executed: it has its own environment, folder, session and exit code. What
differs is that the modules below are imported already, so none of them may read the environment at import.
"""

import atexit
import functools
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

#: What `python -m` may be forked for.
MODULES = ("api.main", "celery", "worker.main", "worker.housekeeper.main", "tests.faults.quick_housekeeper")
#: All that those import, apart from their entry modules: these read the environment.
PRELOADED = (
    "api.app",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.concurrency.thread",
    "celery.worker.consumer",
    "kombu.transport.redis",
    "shared.storage",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "worker.app",
    "worker.cloud",
    "worker.housekeeper.app",
)
MAX_REQUEST_BYTES = 1 << 20
IS_SUPPORTED = hasattr(os, "pidfd_open")


class ForkedProcess:
    """What `subprocess.Popen` is for an executed process."""

    def __init__(self, arguments: list[str], env: dict[str, str], cwd: Path) -> None:
        reader, writer = os.pipe()
        self._status, status = os.pipe()
        request = json.dumps({"arguments": arguments, "env": env, "cwd": str(cwd)}).encode()
        server = _server()
        socket.send_fds(server, [request], [writer, status])
        os.close(writer)
        os.close(status)
        self.pid = int.from_bytes(server.recv(8))
        self.stdout: IO[str] = os.fdopen(reader, encoding="utf-8", errors="replace")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._wait(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(["fork", str(self.pid)], timeout or 0)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int.from_bytes(os.read(self._status, 4), signed=True)
            os.close(self._status)
        return self.returncode


@functools.cache
def _server() -> socket.socket:
    """The connection to this process's fork server, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST_BYTES)
    with theirs:
        command = [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())]
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SD_", "OTEL_"))}
        root = Path(__file__).parents[2]
        server = subprocess.Popen(command, cwd=root, env=env, pass_fds=[theirs.fileno()], start_new_session=True)
    atexit.register(server.wait)
    atexit.register(ours.close)
    return ours


def serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork for each request and report exit codes. Returns the request in the fork, None once the tests have ended."""
    children: dict[int, tuple[int, int]] = {}
    while True:
        ready, _, _ = select.select([requests.fileno(), *children], [], [])
        for descriptor in ready:
            if descriptor in children:
                pid, status = children.pop(descriptor)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.write(status, code.to_bytes(4, signed=True))
                os.close(status)
                os.close(descriptor)
                continue
            message, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 2)
            if not message:
                return None
            output, status = descriptors
            if (pid := os.fork()) == 0:
                os.setsid()
                os.dup2(output, 1)
                os.dup2(output, 2)
                os.closerange(3, 1024)
                return dict(json.loads(message))
            os.close(output)
            children[os.pidfd_open(pid)] = pid, status
            requests.send(pid.to_bytes(8))


def main() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        return
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    module, *sys.argv[1:] = request["arguments"]
    # As the last call of the main module: the interpreter ends as it does after `python -m`.
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
