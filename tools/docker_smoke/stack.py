"""The service in containers, and requests to it."""

import http.client
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tools.docker_smoke.checks import Failed, run, wait_for

PROFILES = ("--profile", "sd", "--profile", "flux-api")
#: Used as every secret in the settings and in the build context: no image may contain it.
CANARY = "canary-7d1e2c5b9a4f4c0e"
GRACE_SECONDS = 2
SETTINGS = {
    "REDIS_PASSWORD": CANARY,
    "SD_SHUTDOWN_GRACE_SECONDS": str(GRACE_SECONDS),
    "SD_FLOWER_BASIC_AUTH": f"smoke:{CANARY}",
    "SD_BACKENDS": "sd,flux-api",
    "SD_DEFAULT_BACKEND": "sd",
    "SD_BFL_API_KEY": CANARY,
}


class Stack:
    """The service in containers, from a clone, isolated from the settings of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        v2 = subprocess.run(("docker", "compose", "version"), capture_output=True, check=False).returncode == 0  # noqa: S607
        self._command = ("docker", "compose") if v2 else ("docker-compose",)
        self._env = {name: value for name, value in os.environ.items() if not name.startswith(("SD_", "COMPOSE_"))}
        self.version = run(*self._command, "version").splitlines()[0]

    def configure(self, **settings: str) -> None:
        """Replaces .env as editors do: by another file, readable by its owner only."""
        new = self.folder / ".env.new"
        new.write_text("".join(f"{name}={value}\n" for name, value in (SETTINGS | settings).items()))
        new.chmod(0o600)
        new.replace(self.folder / ".env")

    def compose(self, *arguments: str, profiles: tuple[str, ...] = PROFILES) -> str:
        return run(*self._command, *profiles, *arguments, cwd=self.folder, env=self._env)

    def up(self, *services: str, workers: int = 1) -> None:
        self.compose("up", "-d", "--no-build", "--scale", f"worker-sd={workers}", *services)

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "-q", service).split()

    def wait_for_workers(self, workers: int) -> None:
        """Until this number of sd workers is ready."""
        wait_for(f"{workers} ready workers", lambda: len([w for w in sd_workers() if w["state"] == "ready"]) == workers)


def call(method: str, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", 7860, timeout=300)
    payload = None if body is None else json.dumps(body)
    try:
        connection.request(method, path, payload, {"content-type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def get_json(method: str, path: str, body: object = None) -> Any:
    status, content = call(method, path, body)
    if status >= 400 or not status:
        raise Failed(f"{method} {path} returned {status}: {content[:500]!r}")
    return json.loads(content)


def sd_workers() -> list[dict[str, Any]]:
    if call("GET", "/health/live")[0] != http.client.OK:
        return []
    return next(
        backend["workers"] for backend in get_json("GET", "/api/backends")["backends"] if backend["name"] == "sd"
    )
