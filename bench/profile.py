"""Draws flame graphs of an API and a worker that many clients keep busy.

`python -m bench.profile [--seconds N] [--folder F]` writes api.svg and worker.svg. Both processes start under py-spy,
which then needs no privileges; it samples from outside and slows them by a few percent.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench.service import UNLIMITED, VALKEY
from bench.worker.throughput import jobs_per_second
from tests.stack import Stack, valkey_server
from tests.support.process import Process

SAMPLES_PER_SECOND = 250
JOBS_PER_ROUND = 200


class Profiled(Stack):
    """A stack whose processes run under py-spy, which writes a flame graph on SIGINT."""

    def run(self, command: list[str], **settings: str) -> Process:
        graph = self.folder / f"{'api' if 'api.main' in command else 'worker'}.svg"
        options = ["--subprocesses", "--rate", str(SAMPLES_PER_SECOND), "--output", str(graph)]
        return super().run([_py_spy(), "record", *options, "--", *command], **settings)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description="Draw flame graphs.")
    parser.add_argument("--seconds", type=float, default=20, help="how long to keep both busy (default: 20)")
    parser.add_argument(
        "--folder", type=Path, default=Path("profiles"), help="folder for the graphs (default: profiles)"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="imagegen-bench-") as name, valkey_server(Path(name), *VALKEY) as url:
        folder = Path(name)
        with Profiled(url, folder, SD_BACKENDS="null", **UNLIMITED) as stack:
            stack.start_worker("null")
            stack.start_api()
            done, end = 0, time.monotonic() + options.seconds
            while time.monotonic() < end:
                asyncio.run(jobs_per_second(stack.api.url, JOBS_PER_ROUND))
                done += JOBS_PER_ROUND
                print(f"{done} jobs", flush=True)
            for process in (stack.api.process, stack.worker):
                process.send(signal.SIGINT)
                process.wait_for("Wrote flamegraph data")
        for graph in sorted(folder.glob("*.svg")):
            print(f"wrote {shutil.copy(graph, options.folder)}")


def _py_spy() -> str:
    path = shutil.which("py-spy", path=Path(sys.executable).parent) or shutil.which("py-spy")
    if path is None:
        sys.exit("py-spy is not installed: `make profile` installs it.")
    return path


if __name__ == "__main__":
    main()
