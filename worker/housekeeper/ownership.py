"""Which installation owns the stored images. An installation marks its folder or bucket and deletes in no other.

Its id is in Redis with the job records: if those are lost, so is the id.
"""

from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Self
from uuid import uuid4

from shared.jobs.housekeeping import JobHousekeeping
from shared.jobs.operations import Jobs
from shared.redis.store import Store
from shared.storage.images import ImageStore

MARK = ".imagegen-installation"
#: How many images of the latest day are looked up; if one has a record, all belong to this installation.
SAMPLE_SIZE = 500
REMEDY = (
    "Nothing is deleted there; jobs go on. Give each installation its own folder or bucket. If this is the same "
    "installation and its Redis was lost or SD_REDIS_PREFIX changed, run "
    "`imagegen prune --take-over --older-than 365d`."
)


class StorageOwner(Enum):
    OURS = ""
    UNCLAIMED = "has no mark and no images but ours"
    """Before the first housekeeper has run."""
    UNKNOWN = "has images without a record in this Redis, and no mark of an installation"
    OTHER = "is marked as another installation's"

    @property
    def is_foreign(self) -> bool:
        return self in (StorageOwner.UNKNOWN, StorageOwner.OTHER)


@dataclass(frozen=True)
class Ownership:
    """Every method may raise StoreUnavailable, StorageUnavailable and StorageFull."""

    store: Store
    jobs: Jobs
    housekeeping: JobHousekeeping
    images: ImageStore

    @classmethod
    def of(cls, store: Store, prefix: str, images: ImageStore) -> Self:
        return cls(store, Jobs(prefix), JobHousekeeping(prefix), images)

    def owner(self) -> StorageOwner:
        mark = self.images.storage.read(MARK)
        if mark is None:
            return StorageOwner.UNCLAIMED if self._has_records_of_images() else StorageOwner.UNKNOWN
        return StorageOwner.OURS if mark.strip() == self._installation_mark() else StorageOwner.OTHER

    def refusal(self) -> str | None:
        """Return why nothing may be deleted, and what to do; None if deleting is allowed."""
        owner = self.owner()
        return f"{self.images.storage.location} {owner.value}. {REMEDY}" if owner.is_foreign else None

    def claim(self) -> str | None:
        """Mark unclaimed storage, then return the refusal."""
        if self.owner() is StorageOwner.UNCLAIMED:
            self._mark()
        return self.refusal()

    def take_over(self) -> None:
        """Mark the storage as this installation's, whatever its mark says."""
        self.images.storage.remove([MARK])
        self._mark()

    def _mark(self) -> None:
        """Does nothing if another process has created the mark meanwhile."""
        self.images.storage.create(MARK, self._installation_mark(), MARK)

    def _installation_mark(self) -> bytes:
        return self.store.run(self.housekeeping.installation_id(uuid4().hex)).encode()

    def _has_records_of_images(self) -> bool:
        """Also true without images. After an upgrade from a version without marks, recent images have records."""
        for day in reversed(self.images.storage.list_days()):
            if latest := list(islice(self.images.list_files(day), SAMPLE_SIZE)):
                records = self.store.run_all([self.jobs.read(file.job_id) for file in latest])
                return any(record is not None for record in records)
        return True
