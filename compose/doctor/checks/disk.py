"""Where images, models and jobs are kept."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.surroundings import Surroundings, missing
from shared.errors import ConfigurationError, StorageUnavailable, StoreUnavailable
from shared.redis.store import Store, connect
from shared.settings.launcher import LauncherSettings
from shared.storage import API_TIMEOUTS, WEBHOOK_TIMEOUTS, open_storage
from shared.storage.images import ImageStore
from worker.housekeeper.ownership import REMEDY, Ownership
from worker.models.download_plans import format_bytes

#: Some hundred images.
LITTLE_BYTES = 1 << 30
ROOM = "Make room (`imagegen prune --older-than 30d`, `imagegen models list`), or name another disk with {setting}."


def look(here: Surroundings) -> Iterator[Finding]:
    settings = here.settings
    folders = {"SD_OUTPUT_DIR": settings.output_dir, "SD_DATA_DIR": settings.data_dir}
    if settings.output_url:
        del folders["SD_OUTPUT_DIR"]
        yield _bucket(settings)
    if missing(settings):
        folders["SD_MODEL_DIR"] = settings.model_dir
    for setting, folder in folders.items():
        yield _judged(setting, folder, settings.min_free_bytes)
    if here.redis_url is not None:
        yield from _strange(settings, Store(connect(here.redis_url)))


def _strange(settings: LauncherSettings, store: Store) -> Iterator[Finding]:
    """Images of another installation. What does not answer is told of elsewhere."""
    with suppress(ConfigurationError, StorageUnavailable, StoreUnavailable):
        images = ImageStore(open_storage(settings, WEBHOOK_TIMEOUTS))
        owner = Ownership.of(store, settings.redis_prefix, images).owner()
        if owner.is_foreign:
            yield warning(f"{images.storage.location} {owner.value}.", REMEDY)


def _bucket(settings: LauncherSettings) -> Finding:
    try:
        usage = open_storage(settings, API_TIMEOUTS).disk_usage()
    except ConfigurationError as error:
        return problem(error.detail, "Correct the setting; AWS_ENDPOINT_URL says where the storage is, if not at AWS.")
    place = f"SD_OUTPUT_URL={settings.output_url}"
    if usage.error:
        return problem(
            f"{place} does not answer.", "Correct AWS_ENDPOINT_URL, or see to the storage and the way to it."
        )
    return ok(f"{place} can be written.")


def _judged(setting: str, folder: Path, least: int) -> Finding:
    place = f"{setting}={folder}"
    try:
        there = _nearest(folder.absolute())
        # Only this proves it: root may write everywhere but on a disk that is read-only or full.
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        return problem(
            f"{place} cannot be written: {error.strerror}.", f"Let this user write there, or change {setting}."
        )
    remedy = ROOM.format(setting=setting)
    if free < least:
        return problem(
            f"{place} has {format_bytes(free)} free; below {format_bytes(least)} (SD_MIN_FREE_BYTES) no job is taken.",
            remedy,
        )
    if free < LITTLE_BYTES:
        return warning(f"{place} has only {format_bytes(free)} free.", remedy)
    return ok(f"{place} can be written, {format_bytes(free)} free.")


def _nearest(folder: Path) -> Path:
    """The folder, or where it would be made."""
    return next((place for place in (folder, *folder.parents) if place.exists()), folder)
