"""Where the images lie that came with a request, until its job has ended: `inputs/<job id>/<hash>` in their storage."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from shared.errors import InvalidImage, StorageUnavailable
from shared.jobs.job import Job
from shared.storage.object_store import HASH_PREFIX, ObjectStore, StagingArea

_PARENT = "inputs"
_FOLDER = re.compile(r"(\.?)([0-9a-f-]{36})")


@dataclass(frozen=True)
class InputFolder:
    """The inputs of a job; `job_id` is None while they are on their way in."""

    name: str
    job_id: str | None
    modified_at: datetime
    files: int
    bytes: int


@dataclass(frozen=True)
class InputStore:
    """Names are made of hashes and the job's own id, never of a caller's text."""

    storage: ObjectStore

    def create_staging_area(self) -> StagingArea:
        return self.storage.create_staging_area(_PARENT)

    def read(self, job: Job, reference: str) -> bytes:
        """Raises StorageUnavailable, and InvalidImage when the file is gone or is not the one that was accepted."""
        data = self.storage.read(f"{_PARENT}/{job.id}/{reference.removeprefix(HASH_PREFIX)}")
        if data is None:
            raise InvalidImage("An image that came with the request is gone.")
        if reference != HASH_PREFIX + hashlib.sha256(data).hexdigest():
            raise InvalidImage("An image that came with the request is damaged.")
        return data

    def discard(self, job: Job) -> None:
        """Remove what came with a job, if anything did. What cannot be removed now is found by the housekeeper."""
        if job.request.image:
            with suppress(StorageUnavailable):
                self.storage.remove_folder(f"{_PARENT}/{job.id}")

    def remove(self, folder: InputFolder) -> None:
        """Raises StorageUnavailable."""
        self.storage.remove_folder(f"{_PARENT}/{folder.name}")

    def list_folders(self) -> Iterator[InputFolder]:
        """All of them, in no order. Raises StorageUnavailable."""
        for folder in self.storage.list_folders(_PARENT):
            if name := _FOLDER.fullmatch(folder.name):
                job_id = None if name[1] else name[2]
                yield InputFolder(folder.name, job_id, folder.modified_at, folder.files, folder.bytes)
