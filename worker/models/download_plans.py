"""The plan of a download, saved beside its files: a resumed download continues with the same version."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from shared.jobs.types import FrozenModel

PLAN_FILE = "download.json"
#: Where the hub's client stores incomplete files below a model's folder, and their suffix.
INCOMPLETE_DIR, INCOMPLETE_SUFFIX = Path(".cache/huggingface/download"), ".incomplete"

#: Called with the model's name, the bytes downloaded so far, and the total.
OnProgress = Callable[[str, int, int], None]


class PlannedFile(FrozenModel):
    path: str
    size: int


class DownloadPlan(FrozenModel):
    """One version of a model, and the files that are needed."""

    commit: str
    files: tuple[PlannedFile, ...]
    """The index first."""
    licence: str | None = None
    """As the hub's card of the model says."""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        try:
            return cls.model_validate_json((folder / PLAN_FILE).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def write(self, folder: Path) -> None:
        new = folder / f"{PLAN_FILE}{INCOMPLETE_SUFFIX}"
        new.write_text(self.model_dump_json(indent=1))
        new.rename(folder / PLAN_FILE)

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)

    def complete_bytes(self, folder: Path) -> int:
        """Of complete files, which are not downloaded again."""
        return sum(file.size for file in self.files if file_size(folder / file.path) == file.size)

    def downloaded_bytes(self, folder: Path) -> int:
        """Of complete and incomplete files."""
        incomplete = (folder / INCOMPLETE_DIR).rglob(f"*{INCOMPLETE_SUFFIX}")
        return min(self.total_bytes, self.complete_bytes(folder) + sum(file_size(path) or 0 for path in incomplete))


def format_bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def file_size(path: Path) -> int | None:
    """None if the file does not exist."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def is_downloading(folder: Path) -> bool:
    """A download locks the folder. Taking the lock for an instant makes no download fail."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
