"""Store the input images of jobs as `inputs/<job id>/<hash>` until the job ends."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from shared.errors import InvalidImage, StorageUnavailable
from shared.jobs.job import Job
from shared.storage.object_store import HASH_PREFIX, ObjectStore, StagingArea, SubFolder

_PARENT = "inputs"
_FOLDER = re.compile(r"(\.?)([0-9a-f-]{36})")


@dataclass(frozen=True)
class InputFolder(SubFolder):
    """The input images of a job; `job_id` is None during the upload."""

    job_id: str | None


@dataclass(frozen=True)
class InputStore:
    """Stores input images by job. Names consist of hashes and the job's id, never of text from a caller."""

    storage: ObjectStore

    def create_staging_area(self) -> StagingArea:
        return self.storage.create_staging_area(_PARENT)

    def read(self, job: Job, reference: str) -> bytes:
        """Raises StorageUnavailable, and InvalidImage if the file is gone or is not the accepted one."""
        data = self.storage.read(f"{_PARENT}/{job.id}/{reference.removeprefix(HASH_PREFIX)}")
        if data is None:
            raise InvalidImage("An input image of the request is gone.")
        if reference != HASH_PREFIX + hashlib.sha256(data).hexdigest():
            raise InvalidImage("An input image of the request is damaged.")
        return data

    def discard(self, job: Job) -> None:
        """Remove the input images of a job. The housekeeper finds those that cannot be removed now."""
        if job.request.image:
            with suppress(StorageUnavailable):
                self.storage.remove_folder(f"{_PARENT}/{job.id}")

    def remove(self, folder: InputFolder) -> None:
        """Raises StorageUnavailable."""
        self.storage.remove_folder(f"{_PARENT}/{folder.name}")

    def list_folders(self) -> Iterator[InputFolder]:
        """All folders, in any order. Raises StorageUnavailable."""
        for folder in self.storage.list_folders(_PARENT):
            if name := _FOLDER.fullmatch(folder.name):
                job_id = None if name[1] else name[2]
                yield InputFolder(folder.name, folder.files, folder.bytes, folder.modified_at, job_id)
