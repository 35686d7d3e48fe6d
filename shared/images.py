"""Where pictures lie: `outputs/YYYY/MM/DD/<job id>-<index>.<format>`."""

import hashlib
import io
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shared.disk import writing
from shared.errors import InvalidImage
from shared.headers import read_header
from shared.inputs import InputStore
from shared.schemas import Image, Job

_PICTURE = re.compile(r"([0-9a-f-]{36})-(\d+)\.(?:png|jpeg|webp)")


@dataclass(frozen=True)
class StoredFile:
    """`job_id` and `index` are None for what is not a picture."""

    path: Path
    job_id: str | None
    index: int | None
    size: int
    modified_at: datetime


@dataclass(frozen=True)
class ImageStore:
    """Pictures as files under `root`. Names are made of the job's own id and date, never of a caller's text."""

    root: Path

    @property
    def inputs(self) -> InputStore:
        """The home of what came with requests."""
        return InputStore(self.root / "inputs")

    def path(self, job: Job, index: int) -> Path:
        name = f"{job.id}-{index}.{job.request.output_format}"
        return self.root / f"{job.created_at:%Y/%m/%d}" / name

    def save(self, job: Job, index: int, data: bytes) -> Path:
        """Write so that a crash leaves the whole picture or none, and the picture is on disk when this returns.

        Raises StorageFull when the disk has no room or cannot be written.
        """
        path = self.path(job, index)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with writing():
                path.parent.mkdir(parents=True, exist_ok=True)
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink()
        return path

    def made(self, job: Job) -> tuple[Image, ...] | None:
        """The pictures that an attempt before this one has stored, if it stored all of them.

        A file is there whole or not at all (see `save`), so nothing but the files need tell of it.
        """
        try:
            return tuple(self._stored(job, index) for index in range(job.request.num_images))
        except (OSError, InvalidImage):
            return None

    def _stored(self, job: Job, index: int) -> Image:
        data = self.path(job, index).read_bytes()
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

    def discard(self, job: Job) -> None:
        """Remove pictures that no record will ever name."""
        for index in range(job.request.num_images):
            with suppress(OSError):
                self.path(job, index).unlink(missing_ok=True)

    def read(self, job: Job, image: Image) -> bytes | None:
        """The picture; None when its file is gone or is not the very one that was recorded."""
        try:
            data = self.path(job, image.index).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == image.sha256 else None

    def files(self) -> Iterator[StoredFile]:
        """Every file below the root but inputs, in no order. Those that vanish meanwhile are left out."""
        for path in self.root.rglob("*"):
            if self.inputs.root in path.parents:
                continue
            with suppress(FileNotFoundError):
                about = path.stat(follow_symlinks=False)
                if stat.S_ISREG(about.st_mode):
                    picture = _PICTURE.fullmatch(path.name)
                    modified = datetime.fromtimestamp(about.st_mtime, UTC)
                    job_id, index = (picture[1], int(picture[2])) if picture else (None, None)
                    yield StoredFile(path, job_id, index, about.st_size, modified)

    def drop_empty_folders(self) -> None:
        """Of days that have passed; today's may be about to receive a picture."""
        today = self.root / f"{datetime.now(UTC):%Y/%m/%d}"
        for folder in sorted(self.root.glob("*/*/*"), reverse=True):
            if folder.is_dir() and folder < today:
                with suppress(OSError):
                    folder.rmdir()
