"""A container's workers, `python -m compose.container.worker_group`: one, or with several GPUs, one for each.

With one it becomes that worker. With several it ends them all as soon as one ends, and the container's engine starts
them again.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from shared.jobs.types import Backend
from shared.workers.gpus import WorkerSlot, visible_gpus, worker_slots

TICK_SECONDS = 1.0
#: A worker touches its file every two seconds while it serves.
FRESH_SECONDS = 10.0
ALIVE_FILE = "SD_ALIVE_FILE"


def command(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "worker.main", name)


class WorkerGroup:
    def __init__(self, slots: Sequence[WorkerSlot], alive_file: str, environment: dict[str, str]) -> None:
        self._alive_file = Path(alive_file) if alive_file else None
        self._workers: list[subprocess.Popen[bytes]] = []
        self._files: list[Path] = []
        for slot in slots:
            own = {**environment, **slot.settings}
            if self._alive_file:
                self._files.append(self._alive_file.with_name(f"{self._alive_file.name}-{slot.name}"))
                own[ALIVE_FILE] = str(self._files[-1])
            self._workers.append(subprocess.Popen(command(slot.name), env=own))

    def run(self) -> int:
        """Wait until one ends, and end the others. Returns the exit code of the first."""
        while not (codes := [code for worker in self._workers if (code := worker.poll()) is not None]):
            self._report()
            time.sleep(TICK_SECONDS)
        self.stop()
        for worker in self._workers:
            worker.wait()
        return codes[0]

    def stop(self) -> None:
        for worker in self._workers:
            with suppress(ProcessLookupError):
                worker.terminate()

    def _report(self) -> None:
        """The container is healthy while all its workers serve."""
        if self._alive_file and all(_is_fresh(file) for file in self._files):
            # A full disk makes the container unhealthy; the workers go on.
            with suppress(OSError):
                self._alive_file.touch()


def _is_fresh(file: Path) -> bool:
    try:
        return time.time() - file.stat().st_mtime < FRESH_SECONDS
    except OSError:
        return False


def main(environment: dict[str, str]) -> int:
    name = environment.get("SD_BACKEND") or Backend.SD
    if name not in [*Backend]:
        # The worker says what is wrong with the setting.
        os.execvpe(sys.executable, command(name), environment)  # noqa: S606
    slots = list(worker_slots(Backend(name), environment.get("SD_DEVICE") or "auto", visible_gpus(environment)))
    if len(slots) == 1:
        (slot,) = slots
        os.execvpe(sys.executable, command(slot.name), {**environment, **slot.settings})  # noqa: S606
    group = WorkerGroup(slots, environment.get(ALIVE_FILE, ""), environment)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: group.stop())
    return group.run()


if __name__ == "__main__":
    sys.exit(main(dict(os.environ)))
