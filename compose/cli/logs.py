"""What the processes said: `imagegen logs`."""

import re
from collections import deque
from collections.abc import Collection
from contextlib import closing, suppress

from compose.launcher.console import printer
from compose.launcher.journal import FOLDER, LogLine, LogReader
from shared.errors import ConfigurationError
from shared.jobs.types import Backend
from shared.settings.launcher import LauncherSettings

#: Everything that `imagegen up` may start, and itself.
PROCESSES = ("imagegen", "redis", "api", *(f"worker-{backend}" for backend in Backend), "housekeeper", "flower")
#: How each entry of ours begins; what does not belongs to the entry before it, as tracebacks do.
_ENTRY = re.compile(r"\d\d:\d\d:\d\d [A-Z]+ |\{")


class Filter:
    """Lines of some processes (of all where none is named), and of entries that name the job."""

    def __init__(self, processes: Collection[str], job: str | None) -> None:
        self._processes = processes
        self._job = job
        self._wanted: dict[str, bool] = {}

    def wants(self, line: LogLine) -> bool:
        if self._processes and line.process not in self._processes:
            return False
        if self._job is None:
            return True
        if _ENTRY.match(line.text) or line.process not in self._wanted:
            self._wanted[line.process] = self._job in line.text
        return self._wanted[line.process]


def show(
    settings: LauncherSettings,
    processes: Collection[str],
    *,
    job: str | None,
    most: int,
    follow: bool,
) -> None:
    """The last `most` lines and, with `follow`, those to come until interrupted. Raises ConfigurationError."""
    if unknown := [name for name in processes if name not in PROCESSES]:
        raise ConfigurationError(f"{unknown[0]} is no process; there are {', '.join(PROCESSES)}.")
    folder = settings.data_dir / FOLDER
    if not (folder.is_dir() or follow):
        raise ConfigurationError(f"Nothing is in {folder} yet: start the service with `imagegen up`.")
    tell, chosen = printer(print, settings.log_format), Filter(processes, job)
    with suppress(KeyboardInterrupt), closing(LogReader(folder)) as journal:
        for line in deque(filter(chosen.wants, journal.past()), maxlen=most):
            tell(line)
        for line in filter(chosen.wants, journal.future()) if follow else ():
            tell(line)
