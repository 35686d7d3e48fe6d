"""What every process said, on disk and bounded: written by the launcher, read by `imagegen logs`."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Self

#: In the data folder.
FOLDER = "logs"
NAME = "imagegen.log"
MOST_BYTES = 10 << 20
#: Older files that stay, each of MOST_BYTES: `imagegen.log.1` is the youngest.
OLDER = 4
#: Somebody watches; who waits for a file has no better way that works on Linux and macOS alike.
LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class LogLine:
    process: str
    text: str
    time: str = ""
    """When it was written; empty for one that is said now."""

    @classmethod
    def of(cls, written: bytes) -> Self:
        time, process, text = (*written.decode(errors="replace").rstrip("\n").split(" ", 2), "", "")[:3]
        return cls(process, text, time)


def moment() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Journal:
    """For one writer. What cannot be written is left out: the service goes on without a disk for its log."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES, older: int = OLDER) -> None:
        self._path = folder / NAME
        self._most_bytes = most_bytes
        self._older = older
        self._file: FileIO | None = None

    def write(self, process: str, text: str) -> None:
        with suppress(OSError):
            file = self._file or self._opened()
            written = f"{moment()} {process} {text}\n"
            file.write(written.encode(errors="replace"))
            if file.tell() >= self._most_bytes:
                self._turn()

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _opened(self) -> FileIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # For this user alone: prompts may be in it.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        # Without a buffer: on a full disk it would grow.
        self._file = FileIO(descriptor, "a")
        return self._file

    def _turn(self) -> None:
        self.close()
        for number in range(self._older, 0, -1):
            younger = _numbered(self._path, number - 1)
            if younger.exists():
                younger.replace(_numbered(self._path, number))


class LogReader:
    """Sees what is there when it is made, and then what comes, each line once."""

    def __init__(self, folder: Path, older: int = OLDER) -> None:
        self._path = folder / NAME
        self._most_older = older
        self._begun = b""
        self._file = _opened(self._path)
        self._older: list[BufferedReader] = []
        for number in range(1, older + 1):
            # The youngest first: what turns over meanwhile is met again, and not missed.
            if (file := _opened(_numbered(self._path, number))) is not None:
                self._older += [] if self._has(file) else [file]

    def close(self) -> None:
        for file in (self._file, *self._older):
            if file is not None:
                file.close()

    def past(self) -> Iterator[LogLine]:
        """All there is, oldest first."""
        for file in reversed(self._older):
            yield from map(LogLine.of, file)
        yield from self._new_lines()

    def future(self) -> Iterator[LogLine]:
        """What is written from then on, for ever, also into the files after this one."""
        while True:
            yield from self._new_lines()
            if self._has_successor():
                # What came into this one before the next one began.
                yield from self._new_lines()
                self._turn_over()
            else:
                time.sleep(LOOK_SECONDS)

    def _new_lines(self) -> Iterator[LogLine]:
        while self._file is not None and (read := self._file.readline()):
            self._begun += read
            if self._begun.endswith(b"\n"):
                yield LogLine.of(self._begun)
                self._begun = b""

    def _has_successor(self) -> bool:
        return self._path.exists() and not self._is(self._path)

    def _turn_over(self) -> None:
        """To the file that began when this one ended; or, where this one is gone, to the oldest that there is."""
        paths = [_numbered(self._path, number) for number in range(self._most_older + 1)]
        mine = next((number for number, path in enumerate(paths) if self._is(path)), None)
        there = [path for path in paths[:mine] if path.exists()]
        if self._file is not None:
            self._file.close()
        self._file = _opened(there[-1]) if there else None

    def _is(self, path: Path) -> bool:
        with suppress(OSError):
            return self._file is not None and os.path.samestat(path.stat(), os.fstat(self._file.fileno()))
        return False

    def _has(self, file: BufferedReader) -> bool:
        known = [each for each in (self._file, *self._older) if each is not None]
        return any(os.path.sameopenfile(each.fileno(), file.fileno()) for each in known)


def _opened(path: Path) -> BufferedReader | None:
    with suppress(OSError):
        return path.open("rb")
    return None


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path
