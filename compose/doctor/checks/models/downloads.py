"""Checks that the models are on disk, and that unfinished downloads make progress."""

import time
from collections.abc import Iterator, Set

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.installation import Installation
from shared.errors import ConfigurationError
from shared.models.catalogue import ModelState
from worker.models.catalogue import Catalogue
from worker.models.download_plans import DownloadPlan, format_bytes, is_downloading
from worker.models.sources import STARTER_NAME, ModelSource

#: More are only counted.
MAX_BROKEN = 3
REPAIR = "`imagegen models list` names all; replace the files, or remove them."
#: A running download writes 10 MiB at a time: at 50 kB/s every 210 s.
STALLED_SECONDS = 300.0


def check(installation: Installation) -> Iterator[Finding]:
    if not installation.models:
        yield ok(f"{', '.join(installation.settings.backends)} needs no model on this machine.")
    sources = dict.fromkeys((*installation.models, *ModelSource.all_named(installation.settings)))
    for source in sources:
        yield _check_download(source) if source.is_remote else _check_folder(source)
    if installation.local_backends:
        yield from _check_catalogue(installation, {source.model_id for source in sources})


def _check_catalogue(installation: Installation, named: Set[str]) -> Iterator[Finding]:
    """Broken models, which requests cannot choose, except those that settings name."""
    entries = Catalogue.of(installation.settings).scan()
    broken = [entry for name, entry in entries.items() if entry.state is ModelState.BROKEN and name not in named]
    for entry in broken[:MAX_BROKEN]:
        yield warning(f"The model {entry.name} in SD_MODEL_DIR is broken. {entry.reason}", REPAIR)
    if len(broken) > MAX_BROKEN:
        yield warning(f"{len(broken) - MAX_BROKEN} more models in SD_MODEL_DIR are broken.", REPAIR)


def _check_folder(source: ModelSource) -> Finding:
    try:
        source.ensure_downloaded()
    except ConfigurationError as error:
        return problem(error.detail, f"Change {source.setting}: docs/models.md lists its values.")
    kind = "the bundled model" if source.model_id == STARTER_NAME else "a local folder"
    return ok(f"{source.setting} is {source.model_id}, {kind}.")


def _check_download(source: ModelSource) -> Finding:
    folder, name = source.folder, source.repository
    if (folder / source.index).is_file():
        return ok(f"{name} is complete.")
    if (plan := DownloadPlan.read(folder)) is None:
        return warning(
            f"{name} is not downloaded yet.",
            f"Its worker downloads it at its start; or now: `imagegen models pull {name}`.",
        )
    progress = (
        f"{name} is incomplete ({format_bytes(plan.downloaded_bytes(folder))} of {format_bytes(plan.total_bytes)})"
    )
    if not is_downloading(folder):
        return warning(
            f"{progress}; its download was interrupted.",
            f"It continues when the worker starts, or now with `imagegen models pull {name}`.",
        )
    stalled = time.time() - max(file.stat().st_mtime for file in folder.rglob("*"))
    if stalled > STALLED_SECONDS:
        return warning(
            f"{progress}, and its download has not advanced for {stalled:.0f} s.",
            "See `outbound`. The download retries by itself; a restart keeps complete files.",
        )
    return ok(f"{progress}; the download is running.")
