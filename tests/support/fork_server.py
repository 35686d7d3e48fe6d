"""Forks processes of the service from ones that have imported it: a start takes 0.1 s of CPU time instead of 1 to 8 s.

A forked process is as real as one that is executed: it has its own environment, folder, session and exit code. What
differs is that the modules below are imported already, so none of them may read the environment at import, but for the
one in READS_ENVIRONMENT, which is imported again.

One server forks for all processes of a test run. Its environment names the sockets for requests, one for each kind of
process; the first request for a kind forks a server of that kind, which imports what such processes import.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

#: All that an API, a housekeeper and the parent of a worker import, apart from their entry modules: these read the
#: environment.
SERVICE = (
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
#: And what the child of a worker without a model imports, or a worker of the cloud.
WORKER = (*SERVICE, "worker.child", "worker.engines.null", "worker.engines.bfl.engine")
#: And what the child of a worker with a model imports.
MODELS = (
    *SERVICE,
    "worker.child",
    "worker.engines.diffusers.loading.local_models",
    "worker.engines.upscaling.enlarging",
    "worker.engines.upscaling.engine",
    "worker.engines.upscaling.upscalers",
    # What diffusers imports when the starter model is loaded.
    "diffusers.modular_pipelines.modular_pipeline",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
)
KINDS = {"service": SERVICE, "worker": WORKER, "models": MODELS}
#: What `python -m` may be forked for.
MODULES = ("api.main", "celery", "worker.main", "worker.housekeeper.main", "tests.faults.quick_housekeeper")
BACKENDS_WITH_MODELS = ("sd", "flux-local")
READS_ENVIRONMENT = "huggingface_hub.constants"
MAX_REQUEST_BYTES = 1 << 20
IS_SUPPORTED = hasattr(os, "pidfd_open")
#: The folder of the sockets.
VARIABLE = "IMAGEGEN_TEST_FORK_SERVER"


def kind_of(module: str, settings: Mapping[str, str], *, warm: bool) -> str:
    """The kind of server that forks such a process. If it is not `warm`, the child of a worker imports by itself."""
    if module != "worker.main" or not warm:
        return "service"
    return "models" if settings.get("SD_BACKEND") in BACKENDS_WITH_MODELS else "worker"


class ForkedProcess:
    """What `subprocess.Popen` is for an executed process."""

    def __init__(self, kind: str, arguments: list[str], env: dict[str, str], cwd: Path) -> None:
        reader, writer = os.pipe()
        self._status, status = os.pipe()
        request = json.dumps({"arguments": arguments, "env": env, "cwd": str(cwd)}).encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST_BYTES)
            server.connect(f"{os.environ[VARIABLE]}/{kind}")
            socket.send_fds(server, [request], [writer, status])
        os.close(writer)
        os.close(status)
        self.pid = self._read(8)
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
            self.returncode = self._read(4)
            os.close(self._status)
        return self.returncode

    def _read(self, size: int) -> int:
        number = os.read(self._status, size)
        if not number:
            raise RuntimeError("the fork server has ended; its traceback is in the output of the tests")
        return int.from_bytes(number, signed=True)


@contextmanager
def running(environment: Mapping[str, str]) -> Iterator[None]:
    """Start the server for this process and those that inherit its environment; it ends with the block."""
    lifetime, ours = os.pipe()
    with tempfile.TemporaryDirectory(prefix="imagegen-fork-") as folder:
        command = [sys.executable, "-m", __name__, str(lifetime), folder]
        root = Path(__file__).parents[2]
        server = subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, pass_fds=[lifetime], start_new_session=True
        )
        os.close(lifetime)
        assert server.stdout is not None
        with server.stdout as listening:
            listening.readline()
        os.environ[VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[VARIABLE]
            os.close(ours)
            server.wait()


def serve_kinds(lifetime: int, folder: str) -> tuple[str, socket.socket] | None:
    """Fork a server at the first request of each kind. Returns its kind in the fork, None once the tests have ended."""
    waiting = {}
    for kind in KINDS:
        requests = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        requests.bind(f"{folder}/{kind}")
        waiting[requests] = kind
    # Its reader goes on, and has nothing else to read.
    os.close(1)
    os.open(os.devnull, os.O_WRONLY)
    while True:
        ready, _, _ = select.select([lifetime, *(requests.fileno() for requests in waiting)], [], [])
        if lifetime in ready:
            break
        for requests in [requests for requests in waiting if requests.fileno() in ready]:
            kind = waiting.pop(requests)
            if os.fork() == 0:
                for others in waiting:
                    others.close()
                return kind, requests
            requests.close()
    with suppress(ChildProcessError):
        while True:
            os.wait()
    return None


def serve(lifetime: int, requests: socket.socket) -> dict[str, Any] | None:
    """Fork for each request and report exit codes. Returns the request in the fork, None once the tests have ended."""
    children: dict[int, tuple[int, int]] = {}
    while True:
        ready, _, _ = select.select([lifetime, requests.fileno(), *children], [], [])
        if lifetime in ready:
            # Of tests that were interrupted.
            for pid, _ in children.values():
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            return None
        for descriptor in ready:
            if descriptor == requests.fileno():
                message, (output, status), _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 2)
                if (pid := os.fork()) == 0:
                    os.setsid()
                    os.dup2(output, 1)
                    os.dup2(output, 2)
                    os.closerange(3, 1024)
                    return dict(json.loads(message))
                os.close(output)
                children[os.pidfd_open(pid)] = pid, status
                os.write(status, pid.to_bytes(8))
                continue
            pid, status = children.pop(descriptor)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            with suppress(BrokenPipeError):
                os.write(status, code.to_bytes(4, signed=True))
            os.close(status)
            os.close(descriptor)


def preload(names: Iterable[str]) -> None:
    """Import them without their warnings, which would stand between the results of the tests."""
    errors, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        for name in names:
            importlib.import_module(name)
    finally:
        os.dup2(errors, 2)
        os.close(errors)
        os.close(nothing)


def main() -> None:
    lifetime = int(sys.argv[1])
    found = serve_kinds(lifetime, sys.argv[2])
    if found is None:
        return
    kind, requests = found
    preload(KINDS[kind])
    # Collections of garbage leave all this alone, in the forks too: they would have to copy it.
    gc.collect()
    gc.freeze()
    request = serve(lifetime, requests)
    if request is None:
        return
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    if READS_ENVIRONMENT in sys.modules:
        importlib.reload(sys.modules[READS_ENVIRONMENT])
    module, *sys.argv[1:] = request["arguments"]
    # As the last call of the main module: the interpreter ends as it does after `python -m`.
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
