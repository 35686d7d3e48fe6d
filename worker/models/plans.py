"""What is to be had of a model, written down beside it: whoever goes on with a download gets the same version."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from shared.schemas import Frozen
from worker.models.pipelines import RemoteFile, Wanted

FILE = "download.json"
#: Ends the name of a file that is not all there.
PARTIAL = ".part"

#: Called with the model's name, the bytes that are there, and those there will be.
OnProgress = Callable[[str, int, int], None]


class PlannedFile(Frozen):
    source: str
    """Path in the repository."""
    path: str
    """Path in the model's folder."""
    size: int
    sha256: str | None = None

    def bytes_done(self, folder: Path) -> int:
        whole = folder / self.path
        return size_of(whole) or size_of(whole.with_name(whole.name + PARTIAL)) or 0


class Plan(Frozen):
    """One version of a model, and its files in the order in which they are had."""

    commit: str
    files: tuple[PlannedFile, ...]

    @classmethod
    def of(cls, commit: str, files: list[Wanted]) -> Self:
        return cls(commit=commit, files=tuple(_planned(entry.file, entry.path) for entry in files))

    @classmethod
    def found_in(cls, folder: Path) -> Self | None:
        try:
            return cls.model_validate_json((folder / FILE).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def write(self, folder: Path) -> None:
        partial = folder / f"{FILE}{PARTIAL}"
        partial.write_text(self.model_dump_json(indent=1))
        partial.rename(folder / FILE)

    @property
    def bytes_total(self) -> int:
        return sum(file.size for file in self.files)

    def bytes_done(self, folder: Path) -> int:
        return sum(file.bytes_done(folder) for file in self.files)


def readable(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def size_of(path: Path) -> int | None:
    """None where there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _planned(file: RemoteFile, path: str) -> PlannedFile:
    return PlannedFile(source=file.path, path=path, size=file.size, sha256=file.sha256)
