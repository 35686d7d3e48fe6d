"""A bench with a housekeeper, on real records and real files."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from shared.jobs.housekeeping import JobHousekeeping
from shared.jobs.job import Job
from shared.observability import tracing
from shared.settings.housekeeper import HousekeeperSettings
from shared.storage.folder import FolderStore
from shared.storage.images import ImageStore
from tests.api.images import encoded, scene
from tests.worker.bench import Bench
from worker.housekeeper.app import Housekeeper, claim_storage
from worker.housekeeper.leases import Reaper
from worker.housekeeper.ownership import MARK, Ownership
from worker.housekeeper.retention import RemovalCounts, Retention, RetentionRules
from worker.records.recovery import JobRecovery

_numbers = itertools.count()
DAY = timedelta(days=1)
IMAGE = encoded(scene())
KEEP_ALL = RetentionRules(keep_jobs_for=None, keep_images_for=None, max_bytes=None)
DELETE_ALL = RetentionRules(timedelta(0), timedelta(0), 0)


class HousekeeperBench(Bench):
    @property
    def housekeeping(self) -> JobHousekeeping:
        return JobHousekeeping(self.prefix)

    def expire_lease(self, job: Job) -> None:
        """As if its worker had not renewed the lease for too long."""
        self.store.client.zadd(f"{self.prefix}leases", {job.id: 1}, xx=True)

    def reaper(self) -> Reaper:
        return Reaper(self.store, self.jobs, self.housekeeping, JobRecovery(self.store, self.jobs))

    def reap(self) -> int:
        """Two rounds: the first one only looks for expired leases. Returns how many jobs they handled."""
        reaper = self.reaper()
        return reaper.reap() + reaper.reap()

    def apply_retention(
        self, rules: RetentionRules, *, after: timedelta = timedelta(0), dry_run: bool = False
    ) -> RemovalCounts:
        return self.retention().apply(rules, datetime.now(UTC) + after, dry_run=dry_run)

    def retention(self, storage: FolderStore | None = None) -> Retention:
        images = ImageStore(storage or FolderStore(self.folder))
        return Retention(self.store, self.prefix, images, partial(claim_storage, self.ownership()))

    def age_upload(self, job_id: str) -> None:
        self.store.client.zadd(f"{self.prefix}uploads", {job_id: 1}, xx=True)

    @property
    def files(self) -> list[Path]:
        return [path for path in super().files if path.name != MARK]

    def ownership(self) -> Ownership:
        return Ownership.of(self.store, self.prefix, ImageStore(FolderStore(self.folder)))


@contextmanager
def housekeeping(settings: HousekeeperSettings) -> Iterator[None]:
    """A housekeeper on threads of this process, until the end of the block."""
    housekeeper = Housekeeper(settings, lambda: tracing.start_tracing("test", {}))
    thread = threading.Thread(target=housekeeper.run)
    thread.start()
    try:
        yield
    finally:
        housekeeper.stop()
        thread.join()


@pytest.fixture
def bench(redis_url: str, tmp_path: Path) -> HousekeeperBench:
    return HousekeeperBench(redis_url, f"housekeeper{next(_numbers)}:", tmp_path / "outputs")


@pytest.fixture
def other(bench: HousekeeperBench, redis_url: str) -> HousekeeperBench:
    """Another installation in the same folder: another prefix, or a Redis that was lost."""
    return HousekeeperBench(redis_url, f"housekeeper{next(_numbers)}:", bench.folder)
