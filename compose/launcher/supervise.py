"""The supervisor's process entry: reads a plan, carries it out. It imports little, because it stays."""

import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

from compose.launcher.console import BOLD, RED, ConsoleOutput, ProcessOutput, paint
from compose.launcher.journal import FOLDER, Journal
from compose.launcher.plan import Plan
from compose.launcher.process_group import ProcessGroup
from compose.launcher.supervisor import Events, StartFailed, StopRequested, Supervisor
from shared.errors import ConfigurationError

#: In the data folder while the service runs, for commands that work on its records: where its Redis is.
REDIS_URL_FILE = "redis-url"


def main() -> None:
    with os.fdopen(int(sys.argv[1])) as pipe:
        plan = Plan.of_json(pipe.read())
    events = Events()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: events.put(StopRequested()))
    with ConsoleOutput() as output:
        try:
            _run(plan, output, events)
        except (ConfigurationError, StartFailed) as error:
            output.print(paint(str(error), BOLD, RED))
            code = 1
        else:
            code = 0
    # Not sys.exit: a thread may hang in a write that nobody reads, and standard output is closed for good perhaps.
    os._exit(code)


def _run(plan: Plan, output: ConsoleOutput, events: Events) -> None:
    """Raises ConfigurationError and StartFailed with one sentence each."""
    data = Path(plan.data_dir)
    with (
        _removed(Path(plan.socket_dir)),
        _owned(data),
        closing(Journal(data / FOLDER)) as journal,
        _published(data / REDIS_URL_FILE, plan.embedded_redis_url),
        ProcessGroup() as group,
    ):
        voice = ProcessOutput(output, journal, plan.log_format)
        voice.say("imagegen", f"starting {', '.join(service.name for service in plan.services)}")
        for warning in plan.warnings:
            voice.say("imagegen", warning)
        Supervisor(plan, group, voice, events).run()
    voice.say("imagegen", "Stopped; nothing is left running.")


def is_running(folder: Path) -> bool:
    """Whether a service has this data folder."""
    with suppress(OSError), (folder / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Two servers on the same files would destroy them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise _unusable(folder, error) from None
    with lock:
        if not _locked(lock):
            raise ConfigurationError(
                f"imagegen is already running with SD_DATA_DIR={folder}: stop it, or choose another folder."
            )
        yield


def _locked(lock: IO[str]) -> bool:
    """Tried more than once: `imagegen status` takes the lock for an instant to see whether somebody has it."""
    for _ in range(5):
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.02)
    return False


@contextmanager
def _published(file: Path, url: str) -> Iterator[None]:
    try:
        if url:
            file.write_text(url)
    except OSError as error:
        raise _unusable(file.parent, error) from None
    with _removed(file):
        yield


@contextmanager
def _removed(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            path.unlink()


def _unusable(folder: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"SD_DATA_DIR={folder} cannot be used ({error.strerror}): make it a folder that this user may write to, or "
        "choose another."
    )


if __name__ == "__main__":
    main()
