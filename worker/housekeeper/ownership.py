"""Whose the images are. An installation marks the folder or bucket of its own, and clears away in no other.

Its name is in Redis, with the records: where those are gone, or are others, so is the name.
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
#: Images of the latest day, of which one must be on record for all to be this installation's.
LOOKED_AT = 500
REMEDY = (
    "Nothing is removed there; jobs go on. Give this installation a folder or bucket of its own; or, if it is this "
    "one's, because its Redis was lost or SD_REDIS_PREFIX was changed, run "
    "`imagegen prune --take-over --older-than 365d`."
)


class StorageOwner(Enum):
    OURS = ""
    UNCLAIMED = "has no mark, and no images but ours"
    """Only while nobody has looked after it yet."""
    UNKNOWN = "has images that this Redis does not know, and no mark of whose they are"
    OTHER = "is marked as another installation's"

    @property
    def is_foreign(self) -> bool:
        return self in (StorageOwner.UNKNOWN, StorageOwner.OTHER)


@dataclass(frozen=True)
class Ownership:
    """Every method may raise StoreUnavailable, StorageUnavailable and StorageFull."""

    store: Store
    jobs: Jobs
    upkeep: JobHousekeeping
    images: ImageStore

    @classmethod
    def of(cls, store: Store, prefix: str, images: ImageStore) -> Self:
        return cls(store, Jobs(prefix), JobHousekeeping(prefix), images)

    def owner(self) -> StorageOwner:
        mark = self.images.storage.read(MARK)
        if mark is None:
            return StorageOwner.UNCLAIMED if self._knows_its_images() else StorageOwner.UNKNOWN
        return StorageOwner.OURS if mark.strip() == self._own_mark() else StorageOwner.OTHER

    def refusal(self) -> str | None:
        """Why nothing may be removed, and what to do."""
        owner = self.owner()
        return f"{self.images.storage.location} {owner.value}. {REMEDY}" if owner.is_foreign else None

    def claim(self) -> str | None:
        """The same, once what is free is marked."""
        if self.owner() is StorageOwner.UNCLAIMED:
            self._mark()
        return self.refusal()

    def take_over(self) -> None:
        """Whoever's it was."""
        self.images.storage.remove([MARK])
        self._mark()

    def _mark(self) -> None:
        """Unless somebody is quicker."""
        self.images.storage.create(MARK, self._own_mark(), MARK)

    def _own_mark(self) -> bytes:
        return self.store.run(self.upkeep.installation_id(uuid4().hex)).encode()

    def _knows_its_images(self) -> bool:
        """Also where there are none. Whoever comes from a version without marks has some of the latest on record."""
        for day in reversed(self.images.storage.list_days()):
            if latest := list(islice(self.images.list_files(day), LOOKED_AT)):
                records = self.store.run_all([self.jobs.read(file.job_id) for file in latest])
                return any(record is not None for record in records)
        return True
