"""`imagegen logs`: prints the logged output of the processes."""

import re
from collections import deque
from collections.abc import Collection
from contextlib import closing, suppress

from compose.launcher.console import create_printer
from compose.launcher.data_folder import of_another_user
from compose.launcher.log_files import FOLDER, LogLine, LogReader
from shared.errors import ConfigurationError
from shared.jobs.types import Backend
from shared.settings.launcher import LauncherSettings

#: Everything that `imagegen up` may start, and itself.
PROCESSES = ("imagegen", "redis", "api", *(f"worker-{backend}" for backend in Backend), "flower")
#: How each of our entries begins; other lines belong to the entry before them, as tracebacks do.
_ENTRY = re.compile(r"\d\d:\d\d:\d\d [A-Z]+ |\{")


class LogFilter:
    """Lines of some processes (all if none is named), and of entries that name the job."""

    def __init__(self, processes: Collection[str], job: str | None) -> None:
        self._processes = processes
        self._job = job
        self._entry_matches: dict[str, bool] = {}

    def matches(self, line: LogLine) -> bool:
        if self._processes and not {line.process, _backend_of(line.process)} & {*self._processes}:
            return False
        if self._job is None:
            return True
        if _ENTRY.match(line.text) or line.process not in self._entry_matches:
            self._entry_matches[line.process] = self._job in line.text
        return self._entry_matches[line.process]


def _backend_of(process: str) -> str:
    """`worker-sd` of `worker-sd-cuda1`: a machine with several GPUs has a worker for each."""
    return process.partition("-cuda")[0]


def print_logs(
    settings: LauncherSettings,
    processes: Collection[str],
    *,
    job: str | None,
    max_lines: int,
    follow: bool,
) -> None:
    """The last `max_lines` and, with `follow`, later ones until interrupted. Raises ConfigurationError."""
    if unknown := [name for name in processes if _backend_of(name) not in PROCESSES]:
        raise ConfigurationError(f"{unknown[0]} is not a process: choose from {', '.join(PROCESSES)}.")
    folder = settings.data_dir.absolute() / FOLDER
    try:
        if not folder.is_dir():
            raise ConfigurationError(f"{folder} has no logs yet: start the service with `imagegen up`.")
        log_reader = LogReader(folder)
    except PermissionError:
        raise of_another_user(settings.data_dir) from None
    print_line, log_filter = create_printer(print, settings.log_format), LogFilter(processes, job)
    with suppress(KeyboardInterrupt), closing(log_reader) as reader:
        for line in deque(filter(log_filter.matches, reader.past()), maxlen=max_lines):
            print_line(line)
        for line in filter(log_filter.matches, reader.future()) if follow else ():
            print_line(line)
