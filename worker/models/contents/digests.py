"""Hashes of weights on disk, remembered as long as their files stay as they are: reading gigabytes takes seconds."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from worker.models.checkpoints.header import InvalidHeader, read_header
from worker.models.checkpoints.tensor_names import Role
from worker.models.contents.kept_rows import KeptRows

FILE = "digests.json"
CHUNK = 8 << 20


@dataclass(frozen=True)
class Content:
    """The weights in a file, or those of one part of it, at one moment."""

    path: Path
    """Without symbolic links."""
    state: tuple[int, int, int, int]
    """Device, inode, size and time of modification: equal for a file under different names."""
    role: Role | None = None
    """The part; None for the whole file."""

    @classmethod
    def of(cls, path: Path, role: Role | None = None) -> Self:
        """Raises OSError."""
        real = path.resolve(strict=True)
        found = real.stat()
        return cls(real, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns), role)

    @property
    def size(self) -> int:
        return self.state[2]

    @property
    def is_current(self) -> bool:
        try:
            return Content.of(self.path, self.role) == self
        except OSError:
            return False


class Digests:
    """Not thread-safe."""

    def __init__(self, folder: Path | None) -> None:
        """Without a folder, hashes are kept until this process ends."""
        self._rows = KeptRows(folder / FILE if folder else None)

    def are_equal(self, one: Content, other: Content) -> bool:
        """False also if a file has changed since."""
        if (one.state, one.role) == (other.state, other.role):
            return True
        # The parts of files have other sizes than the files.
        if one.role != other.role or (one.role is None and one.size != other.size):
            return False
        digests = [self._of(content) for content in (one, other)]
        return None not in digests and digests[0] == digests[1]

    def _of(self, content: Content) -> str | None:
        subject = (str(content.path), *content.state[1:], content.role)
        match self._rows.get(*subject):
            case [str(digest)]:
                return digest
        with suppress(OSError, InvalidHeader):
            digest = _digest(content)
            if content.is_current:
                self._rows.put([digest], *subject)
                return digest
        return None


def _digest(content: Content) -> str:
    digest = hashlib.sha256()
    with content.path.open("rb") as file:
        for start, length, label in [(0, content.size, "")] if content.role is None else _tensors(content):
            digest.update(label.encode())
            for chunk in _read(file, start, length):
                digest.update(chunk)
    return digest.hexdigest()


def _tensors(content: Content) -> list[tuple[int, int, str]]:
    """Where each tensor of the part is, under its name within the part."""
    tensors = read_header(content.path).parts.get(content.role or Role.OTHER, {})
    return [(one.start, one.length, f"{inner} {one.dtype} {one.shape}\n") for inner, one in sorted(tensors.items())]


def _read(file: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    file.seek(start)
    while length > 0 and (chunk := file.read(min(CHUNK, length))):
        length -= len(chunk)
        yield chunk
