"""What is old goes: job records, pictures, and what crashes left behind."""

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from shared.images import ImageStore, StoredFile
from shared.inputs import InputFolder
from shared.jobs import Jobs, JobSnapshot
from shared.store import Store
from shared.upkeep import Upkeep

logger = logging.getLogger(__name__)

BATCH = 500
#: No job runs for as long as this, so no file of a running job is older.
LEFTOVER_AGE = timedelta(days=1, hours=1)
#: No request takes as long as this to bring its pictures, or from then on to become a job.
ARRIVAL_AGE = timedelta(hours=1)


@dataclass(frozen=True)
class Rules:
    """None keeps for ever."""

    jobs_for: timedelta | None
    pictures_for: timedelta | None
    most_bytes: int | None


@dataclass(frozen=True)
class Removed:
    jobs: int
    files: int
    bytes: int


class Retention:
    """Pinned jobs keep their record and their pictures. A file that is being sent is sent to its end (POSIX)."""

    def __init__(
        self, store: Store, jobs: Jobs, upkeep: Upkeep, images: ImageStore, now: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._upkeep = upkeep
        self._images = images
        self._now = now

    def apply(self, rules: Rules, *, dry_run: bool = False) -> Removed:
        """Remove what the rules let go, or only count it. Raises StoreUnavailable and StorageUnavailable."""
        inputs = list(self._images.inputs.folders())
        files = {file.name: file for file in self._doomed_files(rules, sum(folder.bytes for folder in inputs))}
        abandoned = [folder for folder in inputs if self._is_abandoned(folder)]
        if not dry_run:
            self._images.remove(files.values())
            for folder in abandoned:
                self._images.inputs.remove(folder)
            self._images.home.tidy()
        jobs = sum(1 for _ in self._old_jobs(rules, dry_run))
        size = sum(file.size for file in files.values()) + sum(folder.bytes for folder in abandoned)
        return Removed(jobs, len(files) + sum(folder.files for folder in abandoned), size)

    def _is_abandoned(self, inputs: InputFolder) -> bool:
        """Whether no job will need them: it has ended, or there is none and will not be."""
        job = self._store.run(self._jobs.read(inputs.job_id)) if inputs.job_id is not None else None
        if job is not None:
            return job.job.state.is_terminal
        return inputs.modified_at < self._now() - ARRIVAL_AGE

    def _old_jobs(self, rules: Rules, dry_run: bool) -> Iterator[str]:
        """Ids begin with the time of their creation, so that the oldest jobs are simply the first ones."""
        if rules.jobs_for is None:
            return
        last, limit = "", first_id_at(self._now() - rules.jobs_for)
        while ids := self._store.run(self._upkeep.older_than(limit, last, BATCH)):
            last = ids[-1]
            for job_id in ids:
                if self._store.run(self._upkeep.forget(job_id, dry_run=dry_run)):
                    yield job_id

    def _doomed_files(self, rules: Rules, input_bytes: int) -> Iterator[StoredFile]:
        files = sorted(self._images.files(), key=lambda file: file.modified_at)
        yield from self._leftovers(files)
        yield from self._orphans(files, rules)
        pictures = [file for file in files if file.job_id is not None]
        if rules.pictures_for is not None:
            oldest = self._now() - rules.pictures_for
            yield from (file for file in pictures if file.modified_at < oldest and not self._is_pinned(file))
        if rules.most_bytes is not None:
            excess = sum(file.size for file in files) + input_bytes - rules.most_bytes
            yield from _beyond((file for file in pictures if not self._is_pinned(file)), excess)

    def _leftovers(self, files: Iterable[StoredFile]) -> Iterator[StoredFile]:
        """Temporary files of workers that died."""
        oldest = self._now() - LEFTOVER_AGE
        return (file for file in files if file.job_id is None and file.modified_at < oldest)

    def _orphans(self, files: Iterable[StoredFile], rules: Rules) -> Iterator[StoredFile]:
        """Pictures that no job will ever own to: of a worker that died between writing and recording.

        Looked for in their second day only, so that a large archive is not read over and over; pictures older than
        their job's record are kept on purpose.
        """
        youngest, oldest = self._now() - LEFTOVER_AGE, self._now() - 2 * LEFTOVER_AGE
        if rules.jobs_for is not None and rules.jobs_for <= 2 * LEFTOVER_AGE:
            return
        for file in files:
            if file.job_id is not None and oldest < file.modified_at < youngest and not self._is_on_record(file):
                yield file

    def _is_on_record(self, file: StoredFile) -> bool:
        job = self._read(file)
        return job is not None and file.index in {image.index for image in job.job.images}

    def _is_pinned(self, file: StoredFile) -> bool:
        job = self._read(file)
        return job is not None and job.pinned

    def _read(self, file: StoredFile) -> JobSnapshot | None:
        return self._store.run(self._jobs.read(file.job_id)) if file.job_id is not None else None


def _beyond(files: Iterable[StoredFile], excess: int) -> Iterator[StoredFile]:
    """The oldest files, until `excess` bytes are found."""
    for file in files:
        if excess <= 0:
            return
        excess -= file.size
        yield file


def first_id_at(moment: datetime) -> str:
    """The lowest UUIDv7 of a millisecond (RFC 9562, 5.7)."""
    milliseconds = int(moment.astimezone(UTC).timestamp() * 1000)
    return str(uuid.UUID(int=milliseconds << 80))
