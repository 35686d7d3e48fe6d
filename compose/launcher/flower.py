"""The dashboard's process entry: Flower, read-only, with a login unless only this machine can reach it."""

import os
import sys

from shared.errors import ConfigurationError
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import load

#: Tasks and workers that Flower remembers; its own default of 100 000 tasks grows to gigabytes.
MEMORY = ("--max_tasks=2000", "--max_workers=200")


def command(settings: LauncherSettings) -> tuple[str, ...]:
    place = (f"--address={settings.host}", f"--port={settings.flower_port}")
    celery = (sys.executable, "-m", "celery", "-A", "worker.main")
    # Neither is Tornado's own way of logging wanted: the app has the one of all processes.
    return (*celery, "flower", *place, "--read_only=True", "--logging=none", *MEMORY)


def main() -> None:
    try:
        settings = load(LauncherSettings)
        settings.require_flower_login()
    except ConfigurationError as error:
        sys.exit(error.detail)
    login = {}
    if settings.flower_basic_auth is not None:
        # Through the environment: command lines are for everybody to read.
        login = {"FLOWER_BASIC_AUTH": settings.flower_basic_auth.get_secret_value()}
    # Becomes Flower, so that signals reach it.
    os.execve(sys.executable, command(settings), os.environ | login)  # noqa: S606


if __name__ == "__main__":
    main()
