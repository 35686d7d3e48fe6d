"""How the processes are heard: what people see of them, and what is kept."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from queue import Full, Queue
from threading import Lock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from compose.launcher.journal import Journal, LogLine, moment

if TYPE_CHECKING:
    from shared.observability.logs import LogFormat

#: Codes of ANSI terminals.
BOLD, RED, GREEN = 1, 31, 32
_COLOURS = (36, 32, 33, 35, 34, 96)
#: Lines that wait for a slow reader; those beyond are left out.
MAX_WAITING_LINES = 1000
#: How long the last lines may take to go out, when the reader is slow.
FLUSH_SECONDS = 2.0

Show = Callable[[LogLine], None]


def paint(text: str, *codes: int, stream: TextIO | None = None) -> str:
    """In colour where standard output, or `stream`, is a terminal that has them, and nobody said otherwise."""
    stream = stream or sys.stdout
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") in ("dumb", "unknown")
    if plain or stream is None or not stream.isatty():
        return text
    return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m"


class ConsoleOutput:
    """Standard output, written by a thread of its own: a reader that is slow, stopped or gone holds nobody up.

    What cannot be written, because a pipe is closed or a disk full, is left out.
    """

    def __init__(self) -> None:
        self._waiting: Queue[bytes | None] = Queue(MAX_WAITING_LINES)
        self._thread = Thread(target=self._write, name="console", daemon=True)
        self._left_out = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with suppress(Full):
            self._waiting.put(None, timeout=FLUSH_SECONDS)
        self._thread.join(FLUSH_SECONDS)

    def print(self, text: str) -> None:
        try:
            if self._left_out:
                self._waiting.put_nowait(_encoded(f"… {self._left_out} lines were left out here\n"))
                self._left_out = 0
            self._waiting.put_nowait(_encoded(f"{text}\n"))
        except Full:
            self._left_out += 1

    def _write(self) -> None:
        while (data := self._waiting.get()) is not None:
            # Past Python's buffers, which would hold what could not be written, and fail again with it.
            with suppress(OSError, ValueError, AttributeError):
                descriptor = sys.stdout.fileno()
                while data:
                    data = data[os.write(descriptor, data) :]


def _encoded(text: str) -> bytes:
    return text.encode(getattr(sys.stdout, "encoding", None) or "utf-8", errors="replace")


def printer(print_line: Callable[[str], None], log_format: "LogFormat") -> Show:
    return _as_json(print_line) if log_format == "json" else _as_text(print_line)


def _as_text(print_line: Callable[[str], None]) -> Show:
    """Behind the name of who said it, in a colour of its own."""
    colours: dict[str, int] = {}

    def show(line: LogLine) -> None:
        colour = colours.setdefault(line.process, _COLOURS[len(colours) % len(_COLOURS)])
        # Nothing that a process says moves the cursor.
        plain = "".join(character if character.isprintable() else " " for character in line.text)
        print_line(f"{paint(f'{line.process:>15} │', colour)} {plain}")

    return show


def _as_json(print_line: Callable[[str], None]) -> Show:
    """As JSON with the name of who said it; what Redis says, for one, is none by itself."""

    def show(line: LogLine) -> None:
        try:
            entry = json.loads(line.text)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            entry = {"time": line.time or moment(), "level": "info", "message": line.text}
        print_line(json.dumps({"service": line.process, **entry}, ensure_ascii=False))

    return show


class ProcessOutput:
    """Safe to share between threads."""

    def __init__(self, output: ConsoleOutput, journal: Journal, log_format: "LogFormat") -> None:
        self._output = output
        self._show = printer(output.print, log_format)
        self._journal = journal
        self._lock = Lock()
        self._as_json = log_format == "json"
        self._hushed = False

    def say(self, process: str, text: str) -> None:
        if not self._hushed:
            self._show(LogLine(process, text))
        self.note(process, text)

    def note(self, process: str, text: str) -> None:
        """Only kept."""
        with self._lock:
            self._journal.write(process, text)

    def announce(self, text: str) -> None:
        """To people; programs are told that it is ready."""
        if self._as_json:
            self.say("imagegen", "ready")
        else:
            self._output.print(text)

    def hush(self) -> None:
        """From now on, all is only kept."""
        self._hushed = True
