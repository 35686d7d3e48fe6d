"""The measured processes, started like `imagegen up` does, each in its own folder."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.stack import Stack, valkey_server

PROMPT, STEPS, GUIDANCE, SEED = "a red heart on a blue background", 20, 4.0, 42
STARTER_REQUEST = {"prompt": PROMPT, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "seed": SEED}
#: The options of compose.launcher.services, with the files on the same disk.
MEMORY = ("--stream-node-max-bytes", "512", "--hash-max-listpack-value", "4096")
VALKEY = ("--appendonly", "yes", "--appendfsync", "everysec", *MEMORY)
#: All clients share one address. Requests are still counted.
UNLIMITED = {"SD_REQUESTS_PER_SECOND": "1000000", "SD_MAX_JOBS_PER_KEY": "1000000"}


@contextmanager
def service(backend: str, **settings: str) -> Iterator[Stack]:
    """An API, a worker of `backend` and a Valkey."""
    with starting(backend, **settings) as stack:
        stack.worker.wait_for("ready.")
        yield stack


@contextmanager
def starting(backend: str, **settings: str) -> Iterator[Stack]:
    """The same, while the worker may still load its model."""
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="imagegen-bench-")))
        url = exits.enter_context(valkey_server(folder, *VALKEY))
        stack = exits.enter_context(Stack(url, folder, SD_BACKENDS=backend, **UNLIMITED, **settings))
        stack.start_worker(backend, ready=False)
        stack.start_api()
        yield stack


class BareScript:
    """bench.bare as a process; `image` returns the seconds for one more image."""

    def __init__(self) -> None:
        arguments = [str(STEPS), str(GUIDANCE), str(SEED), PROMPT]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.bare", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read("ready")

    def image(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("again\n")
        self._process.stdin.flush()
        return float(self._read())

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _read(self, expected: str | None = None) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the bare script ended"
        assert expected in (None, line), f"the bare script said {line!r}"
        return line
