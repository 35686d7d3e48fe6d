"""Where images lie: `YYYY/MM/DD/<job id>-<index>.<format>` in their storage."""

import hashlib
import io
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from shared.errors import InvalidImage, StorageFull, StorageUnavailable
from shared.jobs.job import Image, Job
from shared.storage.image_headers import read_header
from shared.storage.inputs import InputStore
from shared.storage.object_store import DayFolder, ObjectStore

_IMAGE = re.compile(r"\d{4}/\d\d/\d\d/([0-9a-f-]{36})-(\d+)\.(?:png|jpeg|webp)")


def image_name(job: Job, index: int) -> str:
    """Made of the job's own id and date, never of a caller's text."""
    return f"{job.created_at:%Y/%m/%d}/{job.id}-{index}.{job.request.output_format}"


@dataclass(frozen=True)
class StoredFile:
    name: str
    job_id: str
    index: int
    size: int
    modified_at: datetime


@dataclass(frozen=True)
class ImageStore:
    """Images by their jobs. Every method may raise StorageUnavailable, unless it says otherwise."""

    storage: ObjectStore

    @property
    def inputs(self) -> InputStore:
        """What came with requests."""
        return InputStore(self.storage)

    def save(self, job: Job, index: int, data: bytes) -> bytes:
        """What the image is from now on: this one, or the one that another attempt has committed already.

        What a job has is never replaced, so nobody who wakes too late can take it from the one that is on record.
        A crash leaves the whole image or none, and it is safe when this returns. Raises StorageFull when the disk
        has no room or cannot be written.
        """
        name = image_name(job, index)
        while not self.storage.create(name, data, f"{job.id}-{index}.{job.attempt}"):
            held = self.storage.read(name)
            if held is not None and _is_whole(held):
                return held
            self.storage.remove([name])
        return data

    def stored_images(self, job: Job) -> tuple[Image, ...] | None:
        """The images that an attempt before this one has stored, if it stored all of them.

        A file is there whole or not at all (see `save`), so nothing but the files need tell of it. Where nobody can
        tell now, they are made again: raises nothing.
        """
        try:
            images = [self._stored(job, index) for index in range(job.request.num_images)]
        except (InvalidImage, StorageUnavailable):
            return None
        made = tuple(image for image in images if image is not None)
        return made if len(made) == len(images) else None

    def _stored(self, job: Job, index: int) -> Image | None:
        data = self.storage.read(image_name(job, index))
        if data is None:
            return None
        width, height = read_header(io.BytesIO(data), max_pixels=sys.maxsize).size
        return Image(
            index=index,
            media_type=job.request.output_format.media_type,
            width=width,
            height=height,
            seed=job.seed + index,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )

    def copy(self, source: Job, target: Job) -> bool:
        """Give a job the images of one that asked for the very same.

        False where one is gone or is not what was recorded, or there is no room for it: raises nothing.
        """
        try:
            for image in source.images:
                data = self.read(source, image)
                if data is None or self.save(target, image.index, data) != data:
                    return False
        except (StorageFull, StorageUnavailable):
            return False
        return True

    def discard(self, job: Job, indexes: Iterable[int]) -> None:
        """Remove images that this attempt has just saved, and that no record will ever name."""
        with suppress(OSError, StorageUnavailable):
            self.storage.remove(image_name(job, index) for index in indexes)

    def read(self, job: Job, image: Image) -> bytes | None:
        """The image; None when its file is gone or is not the very one that was recorded."""
        data = self.storage.read(image_name(job, image.index))
        return data if data is not None and hashlib.sha256(data).hexdigest() == image.sha256 else None

    def list_files(self, day: DayFolder) -> Iterator[StoredFile]:
        """The images of a day, in no order, as they are found. What others put there is theirs."""
        for file in self.storage.list_files(day.name):
            if image := _IMAGE.fullmatch(file.name):
                yield StoredFile(file.name, image[1], int(image[2]), file.size, file.modified_at)

    def remove(self, files: Iterable[StoredFile]) -> None:
        self.storage.remove(file.name for file in files)


def _is_whole(data: bytes) -> bool:
    try:
        read_header(io.BytesIO(data), max_pixels=sys.maxsize)
    except InvalidImage:
        return False
    return True
