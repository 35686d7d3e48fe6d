"""The process entry of Flower, read-only, with a login unless only this machine can reach it."""

import json
import os
import sys

from compose.launcher.flower_app import CONFIG
from shared.errors import ConfigurationError
from shared.redis.celery_queues import celery_config
from shared.redis.wakeups import queue_name
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import load

#: Tasks and workers that Flower remembers; its default of 100 000 tasks grows to gigabytes.
MEMORY = ("--max_tasks=2000", "--max_workers=200")


def command(settings: LauncherSettings) -> tuple[str, ...]:
    address = (f"--address={settings.host}", f"--port={settings.flower_port}")
    # The app configures logging as all processes do; --logging=none keeps Tornado from adding a handler.
    options = (*address, "--read_only=True", "--logging=none", *MEMORY)
    return (sys.executable, "-m", "compose.launcher.flower_app", "flower", *options)


def environment(settings: LauncherSettings) -> dict[str, str]:
    """The settings of Flower's process. Every user can read command lines, so passwords go through the environment."""
    # Flower shows the default queue until it has heard from a worker.
    config = {**celery_config(settings), "task_default_queue": queue_name(settings.backends[0])}
    login = settings.flower_basic_auth
    return {
        CONFIG: json.dumps({"celery": config, "log_format": settings.log_format}),
        **({} if login is None else {"FLOWER_BASIC_AUTH": login.get_secret_value()}),
    }


def main() -> None:
    try:
        settings = load(LauncherSettings)
        settings.require_flower_login()
    except ConfigurationError as error:
        sys.exit(error.detail)
    # Replaces this process, so that signals reach Flower and the memory of the settings is freed.
    os.execve(sys.executable, command(settings), os.environ | environment(settings))  # noqa: S606


if __name__ == "__main__":
    main()
