"""A file that a worker touches while it serves, so that a container's health check need not ask over Redis."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from celery import Celery, bootsteps

TOUCH_SECONDS = 2.0


def add_liveness_file(app: Celery, path: Path | None) -> None:
    """Touch the file while Celery's timer runs; in a pool of processes that is the loop that takes jobs."""
    if path is None:
        return
    file = path

    class LivenessFile(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Timer",)

        def start(self, worker: Any) -> None:
            worker.timer.call_repeatedly(TOUCH_SECONDS, file.touch)

        def stop(self, worker: Any) -> None:  # noqa: ARG002 - Celery's signature
            with suppress(OSError):
                file.unlink()

    app.steps["worker"].add(LivenessFile)
