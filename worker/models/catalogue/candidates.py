"""What may be a model on disk."""

import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from worker.models.overrides import OVERRIDES_FILE

#: Size, modification time in nanoseconds, and inode of a file by its path below the folder.
Signature = tuple[tuple[str, int, int, int], ...]


class CandidateKind(StrEnum):
    """In the order of inspection: files may need a folder as their base, and pairs claim a file."""

    FOLDER = "folder"
    PLANNED = "planned"
    """A folder whose download is not complete."""
    PAIR = "pair"
    """A folder with an imagegen.json that may name a transformer and its base."""
    FILE = "file"
    PICKLE = "pickle"
    OUTSIDE = "outside"
    """A symbolic link to a place outside, or to nothing."""


@dataclass(frozen=True)
class Candidate:
    name: str
    kind: CandidateKind
    path: Path
    signature: Signature = ()
    """Changes whenever a file of the candidate does."""
    sidecar: Path | None = None
    downloading: bool = False
    """Whether another program is downloading it, by the file beside it."""

    @property
    def full_name(self) -> str:
        """The name with the file's extension, if another model has the name without it."""
        return (
            f"{self.name}{self.path.suffix}" if self.kind in (CandidateKind.FILE, CandidateKind.PICKLE) else self.name
        )

    @property
    def size(self) -> int:
        return sum(size for path, size, *_ in self.signature if not path.endswith(OVERRIDES_FILE))

    @property
    def age(self) -> float:
        """Seconds since one of its files changed."""
        return time.time() - max((modified for _, _, modified, _ in self.signature), default=0) / 1e9
