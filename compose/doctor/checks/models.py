"""Whether the models are here, and whether they are coming where they are not."""

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.surroundings import Surroundings
from shared.errors import ConfigurationError
from worker.models.download_plans import DownloadPlan, format_bytes
from worker.models.sources import STARTER_NAME, ModelSource

#: A download that is alive writes 10 MiB at a time: at 50 kB/s every 210 s.
QUIET_SECONDS = 300.0


def look(here: Surroundings) -> Iterator[Finding]:
    if not here.models:
        yield ok(f"{', '.join(here.settings.backends)} needs no model here.")
    for source in here.models:
        yield _remote(source) if source.is_remote else _own(source)


def _own(source: ModelSource) -> Finding:
    try:
        source.ensure_downloaded()
    except ConfigurationError as error:
        return problem(error.detail, f"Change {source.setting}: docs/models.md says what it takes.")
    kind = "the bundled model" if source.model_id == STARTER_NAME else "a folder of yours"
    return ok(f"{source.setting} is {source.model_id}, {kind}.")


def _remote(source: ModelSource) -> Finding:
    folder, name = source.folder, source.repository
    if (folder / source.index).is_file():
        return ok(f"{name} is complete.")
    if (plan := DownloadPlan.read(folder)) is None:
        return warning(
            f"{name} is not downloaded yet.",
            f"Its worker does that when it starts; or now: `imagegen models pull {name}`.",
        )
    there = f"{format_bytes(plan.downloaded_bytes(folder))} of {format_bytes(plan.total_bytes)} of {name} are there"
    if not _is_being_fetched(folder):
        return warning(
            f"{there}; the download was cut off.",
            f"It goes on when its worker starts, or now with `imagegen models pull {name}`.",
        )
    quiet = time.time() - max(file.stat().st_mtime for file in folder.rglob("*"))
    if quiet > QUIET_SECONDS:
        return warning(
            f"{there}, and nothing has come for {quiet:.0f} s.",
            "Look at what `outbound` says. The download tries again by itself; a restart keeps what is whole.",
        )
    return ok(f"{there}, and more is coming.")


def _is_being_fetched(folder: Path) -> bool:
    """Who downloads has a lock on the folder. To have it for a moment makes nobody fail."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
