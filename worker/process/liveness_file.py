"""Shows that a worker serves, to whoever looks at a file: a probe must not have to ask over Redis."""

from pathlib import Path
from typing import Any

from celery import Celery, bootsteps

EVERY_SECONDS = 2.0


def add_liveness_file(app: Celery, file: Path | None) -> None:
    """Touch the file for as long as Celery's timer runs, which with a pool of processes is the loop that takes jobs."""
    if file is None:
        return
    shown = file

    class LivenessFile(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Timer",)

        def start(self, worker: Any) -> None:
            worker.timer.call_repeatedly(EVERY_SECONDS, shown.touch)

        def stop(self, worker: Any) -> None:  # noqa: ARG002 - Celery's own signature
            shown.unlink(missing_ok=True)

    app.steps["worker"].add(LivenessFile)
