"""How the processes are heard: what people see of them, and what is kept."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape

from compose.journal import Journal, Line

_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan")


class Printer:
    """Prints lines behind the name of who said them, in a colour of its own."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._colours: dict[str, str] = {}

    def __call__(self, line: Line) -> None:
        colour = self._colours.setdefault(line.process, _COLOURS[len(self._colours) % len(_COLOURS)])
        # Nothing that a process says moves the cursor.
        plain = "".join(character if character.isprintable() else " " for character in line.text)
        self._console.print(f"[{colour}]{line.process:>15} │[/] {escape(plain)}", highlight=False, soft_wrap=True)


class JsonPrinter:
    """Prints lines as JSON with the name of who said them; what Redis says, for one, is none by itself."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, line: Line) -> None:
        try:
            entry = json.loads(line.text)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            entry = {"time": now, "level": "info", "message": line.text}
        told = json.dumps({"service": line.process, **entry}, ensure_ascii=False)
        self._console.print(told, highlight=False, soft_wrap=True, markup=False)


class Voice:
    def __init__(self, show: Callable[[Line], None], journal: Journal) -> None:
        self._print = show
        self._journal = journal

    def say(self, process: str, text: str) -> None:
        self._print(Line(process, text))
        self.note(process, text)

    def note(self, process: str, text: str) -> None:
        """Only kept."""
        self._journal.write(process, text)
