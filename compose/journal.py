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
class Line:
    process: str
    text: str

    @classmethod
    def of(cls, written: bytes) -> Self:
        _, process, text = (*written.decode(errors="replace").rstrip("\n").split(" ", 2), "", "")[:3]
        return cls(process, text)


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
            written = f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {process} {text}\n"
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


class Reader:
    def __init__(self, folder: Path, older: int = OLDER) -> None:
        self._path = folder / NAME
        self._older = older
        self._file = self._opened()
        self._begun = b""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def past(self) -> Iterator[Line]:
        """All there is, oldest first."""
        for number in range(self._older, 0, -1):
            # What was this file a moment ago may be the next older one by now.
            with suppress(OSError), _numbered(self._path, number).open("rb") as file:
                if not self._is(os.fstat(file.fileno())):
                    yield from (Line.of(line) for line in file)
        yield from self._new_lines()

    def future(self) -> Iterator[Line]:
        """What is written from then on, for ever, also into the files after this one."""
        while True:
            yield from self._new_lines()
            if not self._turned_over():
                time.sleep(LOOK_SECONDS)

    def _new_lines(self) -> Iterator[Line]:
        while self._file is not None and (read := self._file.readline()):
            self._begun += read
            if self._begun.endswith(b"\n"):
                yield Line.of(self._begun)
                self._begun = b""

    def _turned_over(self) -> bool:
        """Whether a new file has begun, and is to be read from here on."""
        if not self._path.exists() or self._is(self._path.stat()):
            return False
        # What came into the old one before the new one began was not read yet.
        if self._file is not None and (rest := self._file.peek(1)):
            return bool(rest)
        self.close()
        self._file = self._opened()
        return True

    def _opened(self) -> BufferedReader | None:
        with suppress(OSError):
            return self._path.open("rb")
        return None

    def _is(self, other: os.stat_result) -> bool:
        return self._file is not None and os.path.samestat(other, os.fstat(self._file.fileno()))


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path
