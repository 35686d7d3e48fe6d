"""Files in a folder of this machine, or of a disk that machines share."""

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from shared.errors import StorageFull
from shared.storage.disk import writing
from shared.storage.home import Arriving, File, Room, SubFolder

STAGED = "."


@dataclass(frozen=True)
class Folder:
    root: Path

    def path(self, name: str) -> Path:
        return self.root / name

    def write(self, name: str, data: bytes) -> None:
        path = self.path(name)
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

    def read(self, name: str) -> bytes | None:
        try:
            return self.path(name).read_bytes()
        except OSError:
            return None

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self.path(name).unlink(missing_ok=True)

    def clear(self, folder: str) -> None:
        shutil.rmtree(self.path(folder), ignore_errors=True)

    def tidy(self) -> None:
        # Today's may be about to receive a picture.
        today = self.root / f"{datetime.now(UTC):%Y/%m/%d}"
        for folder in sorted(self.root.glob("*/*/*"), reverse=True):
            if folder.is_dir() and folder < today:
                with suppress(OSError):
                    folder.rmdir()

    def files(self) -> Iterator[File]:
        for path in self.root.rglob("*"):
            with suppress(FileNotFoundError):
                about = path.stat(follow_symlinks=False)
                if stat.S_ISREG(about.st_mode):
                    name = path.relative_to(self.root).as_posix()
                    yield File(name, about.st_size, datetime.fromtimestamp(about.st_mtime, UTC))

    def folders(self, parent: str) -> Iterator[SubFolder]:
        for path in self.path(parent).glob("*"):
            with suppress(FileNotFoundError, NotADirectoryError):
                files = [file.stat() for file in path.iterdir()]
                newest = max(about.st_mtime for about in (path.stat(), *files))
                size = sum(about.st_size for about in files)
                yield SubFolder(path.name, len(files), size, datetime.fromtimestamp(newest, UTC))

    def stage(self, parent: str) -> "StagedFolder":
        return StagedFolder(self.path(parent))

    def room(self) -> Room:
        try:
            writable = os.access(self.root, os.W_OK) and not os.statvfs(self.root).f_flag & os.ST_RDONLY
            usage = shutil.disk_usage(self.root)
            return Room(usage.free, usage.total, trouble=None if writable else StorageFull())
        except OSError:
            return Room(None, trouble=StorageFull())


class StagedFolder:
    """Files in a folder of their own, which becomes that of a job in one step."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._folder = parent / f"{STAGED}{uuid4()}"
        self.holds_files = False

    def receive(self) -> "ArrivingFile":
        with writing():
            self._folder.mkdir(parents=True, exist_ok=True)
            self.holds_files = True
            return ArrivingFile(self._folder)

    def keep(self, folder: str) -> None:
        with writing():
            _sync(self._folder)
            self._folder.rename(self._parent / folder)
            self.holds_files = False
            _sync(self._parent)

    def drop(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class ArrivingFile(Arriving):
    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{STAGED}{uuid4()}"
        super().__init__(self._path.open("w+b"))

    def _settle(self, name: str) -> None:
        os.fsync(self._file.fileno())
        self._path.rename(self._path.with_name(name))

    def _close(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Without this, a power cut may forget that a file was put there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
