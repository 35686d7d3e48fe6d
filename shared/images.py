"""Where pictures lie: `outputs/YYYY/MM/DD/<job id>-<index>.<format>`."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from shared.disk import writing
from shared.inputs import InputStore
from shared.schemas import Frozen, Image, Job, Timings

_PICTURE = re.compile(r"([0-9a-f-]{36})-(\d+)\.(?:png|jpeg|webp)")


class Made(Frozen):
    """The pictures of a job, complete on disk."""

    images: tuple[Image, ...]
    """Those that are withheld among them."""
    timings: Timings
    warnings: tuple[str, ...] = ()


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

    def note_made(self, job: Job, made: Made) -> None:
        """Leave word beside the pictures of a job that they are complete, until that is on record."""
        # Not synced to disk: it matters when a process dies. After a power cut the job is simply done again.
        with suppress(OSError):
            self._note(job).write_text(made.model_dump_json(), encoding="utf-8")

    def made(self, job: Job) -> Made | None:
        """What a worker that died left behind of this job, if every picture of it is whole."""
        try:
            made = Made.model_validate_json(self._note(job).read_bytes())
        except (OSError, ValidationError):
            return None
        whole = (image.flagged or self.read(job, image) is not None for image in made.images)
        return made if all(whole) else None

    def forget_made(self, job: Job) -> None:
        with suppress(OSError):
            self._note(job).unlink()

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

    def _note(self, job: Job) -> Path:
        return self.path(job, 0).with_name(f".{job.id}.json")
