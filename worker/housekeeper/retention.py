"""Retention: deletes old job records and images, and files that crashes left behind."""

import heapq
import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from shared.jobs.housekeeping import JobHousekeeping
from shared.jobs.operations import Jobs
from shared.jobs.snapshots import JobSnapshot
from shared.redis.store import Store
from shared.storage.images import ImageStore, StoredFile
from shared.storage.object_store import STAGING_FOLDER, DayFolder

BATCH = 500
#: How many files of a day are sorted at a time; bounds the memory.
SORT_LIMIT = 10_000
#: Writing a file and sending a request take less time than this.
LEFTOVER_AGE = timedelta(days=1, hours=1)


@dataclass(frozen=True)
class RetentionRules:
    """None keeps everything."""

    keep_jobs_for: timedelta | None
    keep_images_for: timedelta | None
    max_bytes: int | None


@dataclass(frozen=True)
class RemovalCounts:
    jobs: int
    files: int
    bytes: int


@dataclass
class _Run:
    rules: RetentionRules
    now: datetime
    dry_run: bool
    end: float
    """By time.monotonic; the next round continues."""
    files: int = 0
    bytes: int = 0

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.end

    def count(self, files: int, size: int) -> None:
        self.files += files
        self.bytes += size


class Retention:
    """Deletes images by the rules alone, never because they have no record: it may be in another Redis.

    Keeps images of pinned jobs and of jobs that have not ended. A download in progress is completed.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        images: ImageStore,
        owns_images: Callable[[], bool],
    ) -> None:
        """Images are left alone unless `owns_images()`."""
        self._store = store
        self._jobs = Jobs(prefix)
        self._housekeeping = JobHousekeeping(prefix)
        self._images = images
        self._owns_images = owns_images
        self._sizes: dict[str, tuple[int | None, int]] = {}
        """Version and total size of each day."""

    def apply(
        self, rules: RetentionRules, now: datetime, *, dry_run: bool = False, seconds: float = math.inf
    ) -> RemovalCounts:
        """Delete what the rules do not keep at this time; a dry run counts what is too old.

        Raise StoreUnavailable and StorageUnavailable.
        """
        run = _Run(rules, now, dry_run, time.monotonic() + seconds)
        owns_images = self._owns_images()
        input_bytes = self._remove_inputs(run, owns_images)
        if owns_images:
            self._remove_leftovers(run)
            if rules.keep_images_for is not None:
                self._remove_old(run, now - rules.keep_images_for)
            if rules.max_bytes is not None and not dry_run:
                self._remove_beyond(run, rules.max_bytes - input_bytes)
        jobs = sum(1 for _ in self._old_jobs(run))
        return RemovalCounts(jobs, run.files, run.bytes)

    def _old_jobs(self, run: _Run) -> Iterator[str]:
        """Delete old jobs and yield their ids, which begin with the time of creation and so sort by age."""
        if run.rules.keep_jobs_for is None:
            return
        last, limit = "", first_id_at(run.now - run.rules.keep_jobs_for)
        while ids := self._store.run(self._housekeeping.list_older_than(limit, last, BATCH)):
            last = ids[-1]
            for job_id in ids:
                if self._store.run(self._housekeeping.delete_job(job_id, dry_run=run.dry_run)):
                    yield job_id

    def _remove_inputs(self, run: _Run, owns_images: bool) -> int:
        """Delete inputs that no job or upload needs any more. Return how many bytes the others take."""
        kept, oldest = 0, run.now - LEFTOVER_AGE
        for folder in self._images.inputs.list_folders():
            if folder.job_id is None:
                is_over = owns_images and folder.modified_at < oldest
            else:
                is_over = self._store.run(self._housekeeping.inputs_unneeded(folder.job_id))
            if not is_over:
                kept += folder.bytes
                continue
            run.count(folder.files, folder.bytes)
            if not run.dry_run:
                self._images.inputs.remove(folder)
        return kept

    def _remove_leftovers(self, run: _Run) -> None:
        """Delete files of workers that died while writing them."""
        oldest, storage = run.now - LEFTOVER_AGE, self._images.storage
        for file in storage.list_files(STAGING_FOLDER):
            if file.modified_at < oldest:
                run.count(1, file.size)
                if not run.dry_run:
                    storage.remove([file.name])

    def _remove_old(self, run: _Run, oldest: datetime) -> None:
        """Delete old images; no file is older than its day's folder."""
        for day in self._images.storage.list_days():
            if run.is_over or day.name > f"{oldest:%Y/%m/%d}":
                return
            self._remove(run, (file for file in self._images.list_files(day) if file.modified_at < oldest))
            if not run.dry_run:
                self._images.storage.remove_day_if_empty(day)

    def _remove_beyond(self, run: _Run, max_bytes: int) -> None:
        """Delete the oldest days, and the oldest files of the next one, until the rest fits."""
        days = self._images.storage.list_days()
        self._sizes = {day.name: self._day_size(day) for day in days}
        excess = sum(size for _, size in self._sizes.values()) - max_bytes
        for day in days:
            if run.is_over or excess <= 0:
                return
            whole = self._sizes[day.name][1] <= excess
            files = self._images.list_files(day) if whole else self._oldest_first(day)
            excess -= self._remove(run, files, excess)
            self._images.storage.remove_day_if_empty(day)

    def _day_size(self, day: DayFolder) -> tuple[int | None, int]:
        version, size = self._sizes.get(day.name, (None, 0))
        if version is not None and version == day.version:
            return version, size
        return day.version, sum(file.size for file in self._images.list_files(day))

    def _oldest_first(self, day: DayFolder) -> Iterator[StoredFile]:
        last = (datetime.min.replace(tzinfo=UTC), "")
        while files := heapq.nsmallest(
            SORT_LIMIT, (file for file in self._images.list_files(day) if _age_key(file) > last), _age_key
        ):
            yield from files
            last = _age_key(files[-1])

    def _remove(self, run: _Run, files: Iterator[StoredFile], excess: float = math.inf) -> int:
        """Delete files until `excess` bytes are freed. Return how many bytes were freed."""
        freed = 0
        while freed < excess and not run.is_over and (batch := list(islice(files, BATCH))):
            to_delete = list[StoredFile]()
            for file in self._unprotected(batch):
                if freed >= excess:
                    break
                to_delete.append(file)
                freed += file.size
            run.count(len(to_delete), sum(file.size for file in to_delete))
            if not run.dry_run:
                self._images.remove(to_delete)
        return freed

    def _unprotected(self, files: Iterable[StoredFile]) -> Iterator[StoredFile]:
        files = list(files)
        records = self._store.run_all([self._jobs.read(file.job_id) for file in files])
        return (file for file, record in zip(files, records, strict=True) if not _protects_images(record))


def _protects_images(record: JobSnapshot | None) -> bool:
    """Whether a job is pinned or has not ended."""
    return record is not None and (record.pinned or not record.job.state.is_terminal)


def _age_key(file: StoredFile) -> tuple[datetime, str]:
    return file.modified_at, file.name


def first_id_at(moment: datetime) -> str:
    """Return the lowest UUIDv7 of a millisecond (RFC 9562, 5.7); there are none before 1970."""
    milliseconds = max(0, int(moment.astimezone(UTC).timestamp() * 1000))
    return str(uuid.UUID(int=milliseconds << 80))
