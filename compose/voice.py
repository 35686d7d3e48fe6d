"""How the processes are heard: what people see of them, and what is kept."""

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


class Voice:
    def __init__(self, console: Console, journal: Journal) -> None:
        self._print = Printer(console)
        self._journal = journal

    def say(self, process: str, text: str) -> None:
        self._print(Line(process, text))
        self.note(process, text)

    def note(self, process: str, text: str) -> None:
        """Only kept."""
        self._journal.write(process, text)
