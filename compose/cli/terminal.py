"""How commands print: for a terminal as wide as it is, and for files and pipes without a limit of width."""

from rich.console import Console
from rich.table import Column, Table

#: A row of a table stays on one line, for `grep` and others.
UNLIMITED = 10_000


def create_console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=UNLIMITED)


def create_table(*columns: str) -> Table:
    """On a narrow terminal, cells are folded and never cut: names and ids are there to be copied."""
    return Table(*(Column(name, overflow="fold") for name in columns), box=None, pad_edge=False, header_style="dim")
