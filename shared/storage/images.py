"""Store the images of jobs as `YYYY/MM/DD/<job id>-<index>.<format>`, and thumbnails beside them."""

import hashlib
import io
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from shared.errors import InvalidImage, StorageFull, StorageUnavailable
from shared.jobs.job import Image, Job
from shared.jobs.types import ApiProtocol
from shared.storage.image_headers import read_header
from shared.storage.inputs import InputStore
from shared.storage.object_store import DayFolder, File, ObjectStore

THUMBNAIL_MEDIA_TYPE = "image/jpeg"
#: Widths of thumbnails in pixels. Images that are not wider have none. Lists show the small ones. The large ones are
#: for language models, and exist for images that one of them asked for.
THUMBNAIL_WIDTH, PREVIEW_WIDTH = 320, 768
_WIDTHS = (THUMBNAIL_WIDTH, PREVIEW_WIDTH)
_IMAGE = re.compile(
    rf"\d{{4}}/\d\d/\d\d/([0-9a-f-]{{36}})-\d+(?:-{THUMBNAIL_WIDTH}|-{PREVIEW_WIDTH})?\.(?:png|jpeg|webp)"
)


def image_name(job: Job, index: int) -> str:
    """Consists of the job's id and date, never of text from a caller."""
    return f"{job.created_at:%Y/%m/%d}/{job.id}-{index}.{job.request.output_format}"


def thumbnail_name(job: Job, index: int, width: int = THUMBNAIL_WIDTH) -> str:
    return f"{job.created_at:%Y/%m/%d}/{job.id}-{index}-{width}.jpeg"


def thumbnail_widths(job: Job) -> tuple[int, ...]:
    """The widths in which the job's images are stored as well."""
    return _WIDTHS if job.origin is ApiProtocol.MCP else (THUMBNAIL_WIDTH,)


@dataclass(frozen=True)
class StoredFile(File):
    job_id: str


@dataclass(frozen=True)
class ImageStore:
    """Stores images by job. Every method may raise StorageUnavailable, unless it says otherwise."""

    storage: ObjectStore

    @property
    def inputs(self) -> InputStore:
        return InputStore(self.storage)

    def save(self, job: Job, index: int, data: bytes) -> bytes:
        """Store an image, and return the stored one: this image, or that of another attempt if it was faster.

        A stored image is never replaced, so an attempt that wakes up late cannot change an image on record. A crash
        leaves the whole image or none; when this returns, it survives a power failure. Raises StorageFull.
        """
        name = image_name(job, index)
        while not self.storage.create(name, data, f"{job.id}-{index}.{job.attempt}"):
            existing = self.storage.read(name)
            if existing is not None:
                if _has_valid_header(existing):
                    return existing
                self.storage.remove([name])
        return data

    def save_thumbnail(self, job: Job, index: int, width: int, data: bytes) -> None:
        """Store a thumbnail unless there is one: another attempt made the same. Raises StorageFull."""
        self.storage.create(thumbnail_name(job, index, width), data, f"{job.id}-{index}-{width}.{job.attempt}")

    def stored_images(self, job: Job) -> tuple[Image, ...] | None:
        """The images that an earlier attempt stored, if it stored all of them. Never raises.

        A file exists whole or not at all (see `save`), so the files alone prove it. If the storage does not answer,
        the images are rendered again.
        """
        try:
            images = [self._stored_image(job, index) for index in range(job.request.num_images)]
        except (InvalidImage, StorageUnavailable):
            return None
        stored = tuple(image for image in images if image is not None)
        return stored if len(stored) == len(images) else None

    def _stored_image(self, job: Job, index: int) -> Image | None:
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
        """Copy the images of a job with an identical request. Never raises.

        False if an image is gone or damaged, or the storage is full.
        """
        try:
            for image in source.images:
                data = self.read(source, image)
                if data is None or self.save(target, image.index, data) != data:
                    return False
                self._copy_thumbnails(source, target, image.index)
        except (StorageFull, StorageUnavailable):
            return False
        return True

    def _copy_thumbnails(self, source: Job, target: Job, index: int) -> None:
        for width in thumbnail_widths(target):
            thumbnail = self.storage.read(thumbnail_name(source, index, width))
            if thumbnail is not None:
                self.save_thumbnail(target, index, width, thumbnail)

    def discard(self, job: Job, indexes: Iterable[int]) -> None:
        """Remove images that this attempt saved and that no record will name."""
        with suppress(OSError, StorageUnavailable):
            self._remove(job, indexes)

    def remove_images(self, job: Job) -> None:
        """Remove the images of a finished job."""
        self._remove(job, (image.index for image in job.images))

    def _remove(self, job: Job, indexes: Iterable[int]) -> None:
        for index in indexes:
            self.storage.remove(thumbnail_name(job, index, width) for width in _WIDTHS)
            self.storage.remove([image_name(job, index)])

    def read(self, job: Job, image: Image) -> bytes | None:
        """None if the file is gone or is not the image on record."""
        data = self.storage.read(image_name(job, image.index))
        return data if data is not None and hashlib.sha256(data).hexdigest() == image.sha256 else None

    def list_files(self, day: DayFolder) -> Iterator[StoredFile]:
        """The images and thumbnails of a day in any order, without files of others."""
        for file in self.storage.list_files(day.name):
            if image := _IMAGE.fullmatch(file.name):
                yield StoredFile(file.name, file.size, file.modified_at, image[1])

    def remove(self, files: Iterable[StoredFile]) -> None:
        self.storage.remove(file.name for file in files)


def _has_valid_header(data: bytes) -> bool:
    try:
        read_header(io.BytesIO(data), max_pixels=sys.maxsize)
    except InvalidImage:
        return False
    return True
