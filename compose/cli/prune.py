"""`imagegen prune`: removes old jobs and images on request."""

import re
from datetime import timedelta

from compose.launcher.data_folder import embedded_redis_url, is_running
from shared.errors import ConfigurationError, StoreUnavailable
from shared.redis.store import Store, connect, require_redis
from shared.settings.launcher import LauncherSettings
from shared.storage import API_TIMEOUTS, open_storage
from shared.storage.images import ImageStore
from worker.housekeeper.ownership import Ownership
from worker.housekeeper.retention import RemovalCounts, Retention, RetentionRules

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def prune(settings: LauncherSettings, age: timedelta, *, dry_run: bool, take_over: bool) -> RemovalCounts:
    """Remove finished jobs and images older than `age`, except pinned ones.

    `take_over` first makes this installation the owner of the images. Raises ConfigurationError where it is not, or
    where no Redis is running; StorageUnavailable and StorageFull.
    """
    url = settings.redis_url or (is_running(settings.data_dir) and embedded_redis_url(settings.data_dir))
    if not url:
        raise ConfigurationError(
            f"imagegen is not running with SD_DATA_DIR={settings.data_dir.absolute()}: start it with `imagegen up`, or "
            "name its Redis with SD_REDIS_URL."
        )
    require_redis(url)
    # A server whose disk is full answers reads, but not the PING of a health check.
    store, images = Store(connect(url, health_check_seconds=0)), ImageStore(open_storage(settings, API_TIMEOUTS))
    ownership = Ownership.of(store, settings.redis_prefix, images)
    rules = RetentionRules(keep_jobs_for=age, keep_images_for=age, max_bytes=None)
    retention = Retention(store, settings.redis_prefix, images, lambda: True)
    try:
        if take_over and not dry_run:
            ownership.take_over()
        elif not take_over and (refusal := ownership.refusal()) is not None:
            raise ConfigurationError(refusal)
        return retention.apply(rules, store.now(), dry_run=dry_run)
    except StoreUnavailable:
        raise ConfigurationError(
            "The service's Redis server does not respond, or cannot write: `imagegen doctor` says why."
        ) from None


def parse_age(text: str) -> timedelta:
    """Parses `12h`, `7d` or `4w`. Raises ConfigurationError."""
    match = re.fullmatch(r"(\d{1,5})([hdw])", text.strip().lower())
    if match is None:
        raise ConfigurationError(f"{text} is not an age: write it like 12h, 7d or 4w.")
    return int(match.group(1)) * _UNITS[match.group(2)]
