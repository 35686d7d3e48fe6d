"""Clearing away by hand: `imagegen prune`."""

import re
from datetime import UTC, datetime, timedelta

from compose.launcher import redis_url_of
from shared.errors import ConfigurationError
from shared.images import ImageStore
from shared.jobs import Jobs
from shared.settings import LauncherSettings
from shared.storage import API_PATIENCE, open_home
from shared.store import Store, connect, require_redis
from shared.upkeep import Upkeep
from worker.housekeeper.retention import Removed, Retention, Rules

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def prune(settings: LauncherSettings, age: timedelta, *, dry_run: bool) -> Removed:
    """Remove finished jobs and pictures older than `age`, but none that are pinned.

    Raises ConfigurationError where there is no Redis to ask, StoreUnavailable and StorageUnavailable.
    """
    url = redis_url_of(settings)
    if url is None:
        raise ConfigurationError(
            f"The service is not running with SD_DATA_DIR={settings.data_dir}: start it with `imagegen up`, or name "
            "its server with SD_REDIS_URL."
        )
    require_redis(url)
    jobs, upkeep = Jobs(settings.redis_prefix), Upkeep(settings.redis_prefix)
    images = ImageStore(open_home(settings, API_PATIENCE))
    retention = Retention(Store(connect(url)), jobs, upkeep, images, lambda: datetime.now(UTC))
    return retention.apply(Rules(jobs_for=age, pictures_for=age, most_bytes=None), dry_run=dry_run)


def age_of(text: str) -> timedelta:
    """From `12h`, `7d` or `4w`. Raises ConfigurationError."""
    found = re.fullmatch(r"(\d{1,5})([hdw])", text.strip().lower())
    if found is None:
        raise ConfigurationError(f"{text} is no age; write it like 12h, 7d or 4w.")
    return int(found.group(1)) * _UNITS[found.group(2)]
