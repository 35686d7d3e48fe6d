"""Where pictures lie: `outputs/YYYY/MM/DD/<job id>-<index>.<format>`."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from shared.errors import StorageFull
from shared.schemas import Job, OutputFormat

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})


@dataclass(frozen=True)
class ImageStore:
    """Pictures as files under `root`. Names are made of the job's own id and date, never of a caller's text."""

    root: Path

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
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno in _NO_ROOM:
                raise StorageFull(f"The picture could not be written: {error.strerror}.") from error
            raise
        return path


def format_of(media_type: str) -> OutputFormat:
    return OutputFormat(media_type.removeprefix("image/"))
