"""Shows the output of the processes on the terminal, and writes it to the log files."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from queue import Full, Queue
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from compose.launcher.log_files import LogLine, LogWriter

if TYPE_CHECKING:
    from shared.observability.logs import LogFormat

#: Codes of ANSI terminals.
BOLD, RED, GREEN = 1, 31, 32
_COLOURS = (36, 32, 33, 35, 34, 96)
#: Lines that are queued for a slow reader; further lines are dropped.
MAX_QUEUED_LINES = 1000
#: How long a slow reader may take for the last lines.
FLUSH_SECONDS = 2.0

Printer = Callable[[LogLine], None]


def paint(text: str, *codes: int, stream: TextIO | None = None) -> str:
    """Colours `text` if `stream` (default: standard output) is a terminal with colours and NO_COLOR is not set."""
    stream = stream or sys.stdout
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") in ("dumb", "unknown")
    if is_plain or stream is None or not stream.isatty():
        return text
    return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m"


class ConsoleOutput:
    """Writes to standard output on a separate thread, so that a slow, stopped or closed reader blocks nothing.

    Drops what cannot be written, for example because a pipe is closed or a disk is full.
    """

    def __init__(self) -> None:
        self._queue: Queue[bytes | None] = Queue(MAX_QUEUED_LINES)
        self._thread = Thread(target=self._write, name="console", daemon=True)
        self._dropped = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with suppress(Full):
            self._queue.put(None, timeout=FLUSH_SECONDS)
        self._thread.join(FLUSH_SECONDS)

    def print(self, text: str) -> None:
        try:
            if self._dropped:
                self._queue.put_nowait(_encode(f"… {self._dropped} lines were dropped\n"))
                self._dropped = 0
            self._queue.put_nowait(_encode(f"{text}\n"))
        except Full:
            self._dropped += 1

    def _write(self) -> None:
        while (data := self._queue.get()) is not None:
            # Not through sys.stdout: its buffer would keep data that cannot be written, and fail with it again.
            with suppress(OSError, ValueError, AttributeError):
                descriptor = sys.stdout.fileno()
                while data:
                    data = data[os.write(descriptor, data) :]


def _encode(text: str) -> bytes:
    return text.encode(getattr(sys.stdout, "encoding", None) or "utf-8", errors="replace")


def create_printer(print_line: Callable[[str], None], log_format: "LogFormat") -> Printer:
    return _json_printer(print_line) if log_format == "json" else _text_printer(print_line)


def _text_printer(print_line: Callable[[str], None]) -> Printer:
    """Puts the name of the process before each line, in a colour per process."""
    colours: dict[str, int] = {}

    def show(line: LogLine) -> None:
        colour = colours.setdefault(line.process, _COLOURS[len(colours) % len(_COLOURS)])
        # Without control characters, which could move the cursor.
        plain = "".join(character if character.isprintable() else " " for character in line.text)
        print_line(f"{paint(f'{line.process:>15} │', colour)} {plain}")

    return show


def _json_printer(print_line: Callable[[str], None]) -> Printer:
    """Adds the name of the process to JSON entries, and turns other lines, such as those of Redis, into entries."""

    def show(line: LogLine) -> None:
        try:
            entry = json.loads(line.text)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            time = line.time or datetime.now(UTC).isoformat(timespec="milliseconds")
            entry = {"time": time, "level": "info", "message": line.text}
        print_line(json.dumps({"service": line.process, **entry}, ensure_ascii=False))

    return show


class ProcessOutput:
    """Where the output of the processes goes. Threads may share it."""

    def __init__(self, console: ConsoleOutput, log: LogWriter, log_format: "LogFormat") -> None:
        self._console = console
        self._log = log
        self._is_json = log_format == "json"
        self._show = create_printer(console.print, log_format)
        self._muted = False

    def show(self, process: str, text: str) -> None:
        """Print a line and write it to the log."""
        if not self._muted:
            self._show(LogLine(process, text))
        self.record(process, text)

    def record(self, process: str, text: str) -> None:
        """Write a line to the log only."""
        self._log.write(process, text)

    def announce(self, text: str) -> None:
        """Print a text for people; with JSON output, an entry `ready` instead."""
        if self._is_json:
            self.show("imagegen", "ready")
        else:
            self._console.print(text)

    def mute(self) -> None:
        """From now on, only record."""
        self._muted = True
