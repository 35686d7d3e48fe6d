"""Checks where images, models and jobs are stored: free space, write access, and whose images they are."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.installation import Installation, missing_models
from shared.errors import ConfigurationError, StorageUnavailable, StoreUnavailable
from shared.redis.store import Store, connect
from shared.settings.launcher import LauncherSettings
from shared.storage import API_TIMEOUTS, WEBHOOK_TIMEOUTS, open_storage
from shared.storage.images import ImageStore
from worker.housekeeper.ownership import REMEDY, Ownership
from worker.models.download_plans import format_bytes

#: A few hundred images.
LOW_BYTES = 1 << 30
FREE_SPACE = (
    "Free space (`imagegen prune --older-than 30d`, `imagegen models list`), or name another disk with {setting}."
)


def check(installation: Installation) -> Iterator[Finding]:
    settings = installation.settings
    folders = {"SD_OUTPUT_DIR": settings.output_dir, "SD_DATA_DIR": settings.data_dir}
    if settings.output_url:
        del folders["SD_OUTPUT_DIR"]
        yield _check_bucket(settings)
    if missing_models(settings):
        folders["SD_MODEL_DIR"] = settings.model_dir
    for setting, folder in folders.items():
        yield _check_folder(setting, folder, settings.min_free_bytes)
    if installation.redis_url is not None:
        yield from _check_ownership(settings, Store(connect(installation.redis_url)))


def _check_ownership(settings: LauncherSettings, store: Store) -> Iterator[Finding]:
    """Finds images of another installation. Other checks report a store or storage that does not respond."""
    with suppress(ConfigurationError, StorageUnavailable, StoreUnavailable):
        images = ImageStore(open_storage(settings, WEBHOOK_TIMEOUTS))
        owner = Ownership.of(store, settings.redis_prefix, images).owner()
        if owner.is_foreign:
            yield warning(f"{images.storage.location} {owner.value}.", REMEDY)


def _check_bucket(settings: LauncherSettings) -> Finding:
    try:
        usage = open_storage(settings, API_TIMEOUTS).disk_usage()
    except ConfigurationError as error:
        return problem(error.detail, "Correct the setting; AWS_ENDPOINT_URL is the storage's address unless it is AWS.")
    bucket = f"SD_OUTPUT_URL={settings.output_url}"
    if usage.error:
        return problem(f"{bucket} does not respond.", "Correct AWS_ENDPOINT_URL, or check the storage and the network.")
    return ok(f"{bucket} is writable.")


def _check_folder(setting: str, folder: Path, min_free_bytes: int) -> Finding:
    location = f"{setting}={folder}"
    try:
        existing = _nearest_existing(folder.absolute())
        # Only writing proves it: root may write everywhere except on a read-only or full disk.
        with tempfile.TemporaryFile(dir=existing):
            free = shutil.disk_usage(existing).free
    except OSError as error:
        remedy = f"Give this user write access, or change {setting}."
        return problem(f"{location} is not writable: {error.strerror}.", remedy)
    remedy = FREE_SPACE.format(setting=setting)
    if free < min_free_bytes:
        return problem(
            f"{location} has {format_bytes(free)} free; below SD_MIN_FREE_BYTES ({format_bytes(min_free_bytes)}) no "
            "job is accepted.",
            remedy,
        )
    if free < LOW_BYTES:
        return warning(f"{location} has only {format_bytes(free)} free.", remedy)
    return ok(f"{location} is writable, {format_bytes(free)} free.")


def _nearest_existing(folder: Path) -> Path:
    """The folder itself, or the parent in which it will be created."""
    return next((path for path in (folder, *folder.parents) if path.exists()), folder)
