"""What is old goes: job records, images, and what crashes left behind."""

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
#: Of one day, so many are put in order at a time: the bound of what is in memory.
SORTED = 10_000
#: Nobody writes a file or sends a request for as long as this.
LEFTOVER_AGE = timedelta(days=1, hours=1)


@dataclass(frozen=True)
class RetentionRules:
    """None keeps for ever."""

    keep_jobs_for: timedelta | None
    keep_images_for: timedelta | None
    max_bytes: int | None


@dataclass(frozen=True)
class RemovalCounts:
    jobs: int
    files: int
    bytes: int


@dataclass
class _Round:
    rules: RetentionRules
    dry_run: bool
    end: float
    """By time.monotonic; what is left then is left to the next round."""
    files: int = 0
    bytes: int = 0

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.end

    def count(self, files: int, size: int) -> None:
        self.files += files
        self.bytes += size


class Retention:
    """Images go by the rules alone, never because there is no record of them: it may be in another Redis.

    Those of pinned jobs stay, and those of jobs that have not ended. A file that is being sent is sent to its end.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        images: ImageStore,
        is_ours: Callable[[], bool],
        now: Callable[[], datetime],
    ) -> None:
        """Where `is_ours` says no, images are left alone."""
        self._store = store
        self._jobs = Jobs(prefix)
        self._upkeep = JobHousekeeping(prefix)
        self._images = images
        self._is_ours = is_ours
        self._now = now
        self._sizes: dict[str, tuple[int | None, int]] = {}
        """Of each day, with the version that was looked at."""

    def apply(self, rules: RetentionRules, *, dry_run: bool = False, seconds: float = math.inf) -> RemovalCounts:
        """Remove what the rules let go, or count what is too old. Raises StoreUnavailable and StorageUnavailable."""
        this = _Round(rules, dry_run, time.monotonic() + seconds)
        is_ours = self._is_ours()
        input_bytes = self._remove_inputs(this, is_ours)
        if is_ours:
            self._remove_leftovers(this)
            if rules.keep_images_for is not None:
                self._remove_old(this, self._now() - rules.keep_images_for)
            if rules.max_bytes is not None and not dry_run:
                self._remove_beyond(this, rules.max_bytes - input_bytes)
        jobs = sum(1 for _ in self._old_jobs(rules, dry_run))
        return RemovalCounts(jobs, this.files, this.bytes)

    def _old_jobs(self, rules: RetentionRules, dry_run: bool) -> Iterator[str]:
        """Ids begin with the time of their creation, so that the oldest jobs are simply the first ones."""
        if rules.keep_jobs_for is None:
            return
        last, limit = "", first_id_at(self._now() - rules.keep_jobs_for)
        while ids := self._store.run(self._upkeep.list_older_than(limit, last, BATCH)):
            last = ids[-1]
            for job_id in ids:
                if self._store.run(self._upkeep.delete_job(job_id, dry_run=dry_run)):
                    yield job_id

    def _remove_inputs(self, this: _Round, is_ours: bool) -> int:
        """Those that no job needs, and on its way in is nobody any more; how many bytes the others take."""
        kept, oldest = 0, self._now() - LEFTOVER_AGE
        for folder in self._images.inputs.list_folders():
            if folder.job_id is None:
                is_over = is_ours and folder.modified_at < oldest
            else:
                is_over = self._store.run(self._upkeep.inputs_unneeded(folder.job_id))
            if not is_over:
                kept += folder.bytes
                continue
            this.count(folder.files, folder.bytes)
            if not this.dry_run:
                self._images.inputs.remove(folder)
        return kept

    def _remove_leftovers(self, this: _Round) -> None:
        """Of workers that died while they wrote."""
        oldest, storage = self._now() - LEFTOVER_AGE, self._images.storage
        for file in storage.list_files(STAGING_FOLDER):
            if file.modified_at < oldest:
                this.count(1, file.size)
                if not this.dry_run:
                    storage.remove([file.name])

    def _remove_old(self, this: _Round, oldest: datetime) -> None:
        """No file is older than the day that it lies in."""
        for day in self._images.storage.list_days():
            if this.is_over or day.name > f"{oldest:%Y/%m/%d}":
                return
            self._remove(this, (file for file in self._images.list_files(day) if file.modified_at < oldest))
            if not this.dry_run:
                self._images.storage.remove_day_if_empty(day)

    def _remove_beyond(self, this: _Round, max_bytes: int) -> None:
        """The oldest days, and of the last one of them the oldest files."""
        days = self._images.storage.list_days()
        self._sizes = {day.name: self._seen(day) for day in days}
        excess = sum(size for _, size in self._sizes.values()) - max_bytes
        for day in days:
            if this.is_over or excess <= 0:
                return
            whole = self._sizes[day.name][1] <= excess
            files = self._images.list_files(day) if whole else self._in_order(day)
            excess -= self._remove(this, files, excess)
            self._images.storage.remove_day_if_empty(day)

    def _seen(self, day: DayFolder) -> tuple[int | None, int]:
        version, size = self._sizes.get(day.name, (None, 0))
        if version is not None and version == day.version:
            return version, size
        return day.version, sum(file.size for file in self._images.list_files(day))

    def _in_order(self, day: DayFolder) -> Iterator[StoredFile]:
        """Oldest first."""
        last = (datetime.min.replace(tzinfo=UTC), "")
        while files := heapq.nsmallest(
            SORTED, (file for file in self._images.list_files(day) if _age(file) > last), _age
        ):
            yield from files
            last = _age(files[-1])

    def _remove(self, this: _Round, files: Iterator[StoredFile], excess: float = math.inf) -> int:
        """As many of them as free so many bytes, or all; how many bytes these took."""
        freed = 0
        while freed < excess and not this.is_over and (batch := list(islice(files, BATCH))):
            going = list[StoredFile]()
            for file in self._loose(batch):
                if freed >= excess:
                    break
                going.append(file)
                freed += file.size
            this.count(len(going), sum(file.size for file in going))
            if not this.dry_run:
                self._images.remove(going)
        return freed

    def _loose(self, files: Iterable[StoredFile]) -> Iterator[StoredFile]:
        files = list(files)
        records = self._store.run_all([self._jobs.read(file.job_id) for file in files])
        return (file for file, record in zip(files, records, strict=True) if not _holds(record))


def _holds(record: JobSnapshot | None) -> bool:
    """Whether a job must keep its images."""
    return record is not None and (record.pinned or not record.job.state.is_terminal)


def _age(file: StoredFile) -> tuple[datetime, str]:
    return file.modified_at, file.name


def first_id_at(moment: datetime) -> str:
    """The lowest UUIDv7 of a millisecond (RFC 9562, 5.7)."""
    milliseconds = int(moment.astimezone(UTC).timestamp() * 1000)
    return str(uuid.UUID(int=milliseconds << 80))
