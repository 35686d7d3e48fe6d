"""The output of all processes in rotated files: written by the supervisor, read by `imagegen logs`."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Self

#: In the data folder.
FOLDER = "logs"
NAME = "imagegen.log"
MAX_BYTES = 10 << 20
#: Rotated files, each of MAX_BYTES: `imagegen.log.1` is the newest.
BACKUPS = 4
#: Linux and macOS have no common way to wait for a file.
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class LogLine:
    process: str
    text: str
    time: str = ""
    """When it was written; empty for a line that is not from a file."""

    @classmethod
    def parse(cls, line: bytes) -> Self:
        time, process, text = (*line.decode(errors="replace").rstrip("\n").split(" ", 2), "", "")[:3]
        return cls(process, text, time)


class _Formatter(logging.Formatter):
    """`2026-11-23T12:00:00.000+00:00 api the line`."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03d+00:00"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(name)s %(message)s")
        self.converter = time.gmtime


class LogWriter(RotatingFileHandler):
    """Drops lines that cannot be written: a full disk must not stop the service. Threads may share it."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES, backups: int = BACKUPS) -> None:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            # Only this user may enter: the lines may contain prompts.
            folder.chmod(0o700)
        super().__init__(
            folder / NAME, maxBytes=max_bytes, backupCount=backups, encoding="utf-8", errors="replace", delay=True
        )
        self.setFormatter(_Formatter())

    def write(self, process: str, text: str) -> None:
        self.handle(logging.makeLogRecord({"name": process, "msg": text}))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        pass


class LogReader:
    """Reads the lines that exist when it is created, then those that follow, each once."""

    def __init__(self, folder: Path, backups: int = BACKUPS) -> None:
        self._paths = [folder / NAME, *(folder / f"{NAME}.{number}" for number in range(1, backups + 1))]
        self._partial = b""
        #: Newest first. A file that is rotated meanwhile is found twice in this order; in the other it could be missed.
        self._files: list[BufferedReader] = []
        for path in self._paths:
            if (file := _opened(path)) is not None and not any(_is_same(file, known) for known in self._files):
                self._files.append(file)

    def close(self) -> None:
        while self._files:
            self._files.pop().close()

    def past(self) -> Iterator[LogLine]:
        """All existing lines, oldest first."""
        while len(self._files) > 1:
            with self._files.pop() as file:
                yield from map(LogLine.parse, file)
        yield from self._new_lines()

    def future(self) -> Iterator[LogLine]:
        """All later lines, across rotations; never ends."""
        while True:
            yield from self._new_lines()
            if (successor := self._successor()) is None:
                time.sleep(POLL_SECONDS)
                continue
            # Lines that were written just before the rotation.
            yield from self._new_lines()
            self.close()
            self._files = [successor]

    def _new_lines(self) -> Iterator[LogLine]:
        while self._files and (data := self._files[0].readline()):
            self._partial += data
            if self._partial.endswith(b"\n"):
                yield LogLine.parse(self._partial)
                self._partial = b""

    def _successor(self) -> BufferedReader | None:
        """The file after the current one; the oldest file where the current one was deleted."""
        newer: list[Path] = []
        for path in self._paths:
            if self._is_current(path):
                break
            newer.append(path)
        return next(filter(None, map(_opened, reversed(newer))), None)

    def _is_current(self, path: Path) -> bool:
        with suppress(OSError):
            return bool(self._files) and os.path.samestat(path.stat(), os.fstat(self._files[0].fileno()))
        return False


def _opened(path: Path) -> BufferedReader | None:
    """None where there is no such file. Raises OSError, above all for a user who may not read it."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return path.open("rb")
    return None


def _is_same(one: BufferedReader, other: BufferedReader) -> bool:
    return os.path.sameopenfile(one.fileno(), other.fileno())
