"""Where the pictures lie that came with a request, until its job has ended: `outputs/inputs/<job id>/<hash>`."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from shared.disk import writing
from shared.errors import InvalidImage
from shared.headers import Header, read_header
from shared.schemas import Job

_SCHEME = "sha256:"
_STAGED = "."
_FOLDER = re.compile(r"(\.?)([0-9a-f-]{36})")


@dataclass(frozen=True)
class Folder:
    """The inputs of a job; `job_id` is None where none was accepted for them yet."""

    name: str
    job_id: str | None
    modified_at: datetime
    files: int
    bytes: int


@dataclass(frozen=True)
class InputStore:
    """Names are made of hashes and the job's own id, never of a caller's text."""

    root: Path

    def stage(self) -> "Staged":
        return Staged(self.root)

    def read(self, job: Job, reference: str) -> bytes:
        """Raises InvalidImage when the file is gone or is not the one that was accepted."""
        try:
            data = (self.root / job.id / reference.removeprefix(_SCHEME)).read_bytes()
        except OSError:
            raise InvalidImage("A picture that came with the request is gone.") from None
        if reference != _SCHEME + hashlib.sha256(data).hexdigest():
            raise InvalidImage("A picture that came with the request is damaged.")
        return data

    def discard(self, name: str) -> None:
        """Remove a folder: a job's is named by its id."""
        shutil.rmtree(self.root / name, ignore_errors=True)

    def folders(self) -> Iterator[Folder]:
        """All of them, in no order. Those that vanish meanwhile are left out."""
        for path in self.root.glob("*"):
            name = _FOLDER.fullmatch(path.name)
            with suppress(FileNotFoundError, NotADirectoryError):
                files = [file.stat() for file in path.iterdir()]
                newest = max(about.st_mtime for about in (path.stat(), *files))
                size = sum(about.st_size for about in files)
                if name:
                    job_id = None if name[1] else name[2]
                    yield Folder(path.name, job_id, datetime.fromtimestamp(newest, UTC), len(files), size)


class Staged:
    """Pictures on their way in: in a folder of their own, which becomes that of a job in one step.

    Every method may raise StorageFull.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._folder = home / f"{_STAGED}{uuid4()}"
        self.holds_files = False

    def receive(self) -> "Arriving":
        with writing():
            self._folder.mkdir(parents=True, exist_ok=True)
            self.holds_files = True
            return Arriving(self._folder)

    def keep(self, job: Job) -> None:
        """When this returns they are on disk as the inputs of this job."""
        with writing():
            _sync(self._folder)
            self._folder.rename(self._home / job.id)
            self.holds_files = False
            _sync(self._home)

    def drop(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


@dataclass(frozen=True)
class Arrived:
    reference: str
    header: Header


class Arriving:
    """A file that comes in pieces. One that did not become a picture goes when it is closed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{_STAGED}{uuid4()}"
        self._hash = hashlib.sha256()
        self._file = self._path.open("w+b")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        return self._file.tell()

    def write(self, data: bytes) -> None:
        """Raises StorageFull."""
        self._hash.update(data)
        with writing():
            self._file.write(data)

    def content(self) -> bytes:
        self._file.seek(0)
        return self._file.read()

    def finish(self, max_pixels: int) -> Arrived:
        """Raises StorageFull, and InvalidImage for what is no picture or a larger one."""
        with writing():
            self._file.flush()
        self._file.seek(0)
        header = read_header(self._file, max_pixels)
        name = self._hash.hexdigest()
        with writing():
            os.fsync(self._file.fileno())
            self._path.rename(self._path.with_name(name))
        return Arrived(f"{_SCHEME}{name}", header)


def _sync(folder: Path) -> None:
    """Without this, a power cut may forget that a file was put there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
