"""What is to be had of a model, written down beside it: whoever goes on with a download gets the same version."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from shared.jobs.types import FrozenModel

PLAN_FILE = "download.json"
#: Where the hub's client keeps what is coming in, below a model's folder; and how the names of such files end.
INCOMPLETE_DIR, INCOMPLETE_SUFFIX = Path(".cache/huggingface/download"), ".incomplete"

#: Called with the model's name, the bytes that are there, and those there will be.
OnProgress = Callable[[str, int, int], None]


class PlannedFile(FrozenModel):
    path: str
    size: int


class DownloadPlan(FrozenModel):
    """One version of a model, and the files of it that are needed."""

    commit: str
    files: tuple[PlannedFile, ...]

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
        """Of the files that are all there, which no download fetches again."""
        return sum(file.size for file in self.files if file_size(folder / file.path) == file.size)

    def downloaded_bytes(self, folder: Path) -> int:
        """With those that are coming in."""
        coming = sum(file_size(path) or 0 for path in (folder / INCOMPLETE_DIR).rglob(f"*{INCOMPLETE_SUFFIX}"))
        return min(self.total_bytes, self.complete_bytes(folder) + coming)


def format_bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def file_size(path: Path) -> int | None:
    """None where there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
