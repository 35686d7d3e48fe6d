"""The service `settings` of compose.yaml: writes which settings in .env have changed since each container was created.

A container keeps its environment for life, and `docker compose restart` does not read .env. compose/container/start.sh,
which starts every container, reads the files that this process writes.
"""

import json
import os
import re
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel

from shared.errors import ConfigurationError
from shared.settings import env_file
from shared.settings.api import ApiSettings
from shared.settings.housekeeper import HousekeeperSettings
from shared.settings.service import PREFIX
from shared.settings.worker import WorkerSettings

#: The settings that each kind of container reads, and the group that may read its file.
FAMILIES: Mapping[str, tuple[type[BaseModel], int]] = {
    "api": (ApiSettings, 20001),
    "worker": (WorkerSettings, 20002),
    "housekeeper": (HousekeeperSettings, 20003),
}
#: Variables that libraries read in all of them.
LIBRARY_PREFIXES = ("AWS_", "HF_", "HTTPS_PROXY", "NO_PROXY", "OTEL_")
#: Settings that compose.yaml itself uses, or sets for each service.
OF_COMPOSE = frozenset(
    f"{PREFIX}{name}"
    for name in (
        *("HOST", "PORT", "PUBLISHED_ON", "FLOWER_PORT", "FLOWER_BASIC_AUTH", "BACKEND", "SHUTDOWN_GRACE_SECONDS"),
        *("REDIS_URL", "OUTPUT_DIR", "MODEL_DIR", "LORA_DIR", "EMBEDDING_DIR", "DATA_DIR"),
    )
)
POLL_SECONDS = 0.5

Values = Mapping[str, str]


def applies_on_restart(family: str, name: str) -> bool:
    """Whether a restart of these containers brings a change of the variable into effect."""
    is_setting = name.removeprefix(PREFIX).lower() in FAMILIES[family][0].model_fields
    return name.startswith(LIBRARY_PREFIXES) or (name.startswith(PREFIX) and is_setting and name not in OF_COMPOSE)


def read_env(path: Path) -> dict[str, str]:
    """Raises ConfigurationError."""
    if not path.is_file():
        return {}
    return {name: value for name, value in env_file.read(path).items() if re.fullmatch(r"[A-Z][A-Z0-9_]*", name)}


def script(family: str, original: Values, current: Values) -> str:
    """For start.sh: one line per changed variable."""
    return "".join(_lines(family, original, current))


def _lines(family: str, original: Values, current: Values) -> Iterator[str]:
    for name in sorted({*original, *current}):
        old, new = original.get(name, ""), current.get(name, "")
        if old == new:
            continue
        if applies_on_restart(family, name):
            yield f"changed {name} {shlex.quote(old)} {shlex.quote(new)}\n"
        elif family == "api" and not any(applies_on_restart(other, name) for other in FAMILIES):
            yield f"echo '{name} has changed in .env; apply it with: docker compose up -d' >&2\n"


def original_values(folder: Path, current: Values, container: str) -> dict[str, str]:
    """What .env contained when this container was created. Its host name is unique: a new container starts over."""
    file = folder / ".before"
    try:
        by_container: dict[str, dict[str, str]] = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        by_container = {}
    if container not in by_container:
        by_container = {container: dict(current)}
        write(file, json.dumps(by_container), 0o600, group=-1)
    return by_container[container]


def write(path: Path, text: str, mode: int, group: int) -> None:
    """Atomic: a container that starts meanwhile reads the old text or the new one."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.touch(0o600)
    temporary.write_text(text)
    os.chown(temporary, -1, group)
    temporary.chmod(mode)
    temporary.replace(path)


def write_scripts(folder: Path, container: str, current: Values) -> None:
    original = original_values(folder, current, container)
    for family, (_, group) in FAMILIES.items():
        write(folder / family, script(family, original, current), 0o640, group)


def main(path: Path, folder: Path, ready: Path) -> None:
    """Until SIGTERM, which ends it with 0."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    restarts = folder / "restarts"
    restarts.mkdir(exist_ok=True)
    os.chown(restarts, -1, FAMILIES["api"][1])
    restarts.chmod(0o775)
    written: dict[str, str] | None = None
    last_error = ""
    while True:
        try:
            current, error = read_env(path), ""
        except ConfigurationError as failure:
            current, error = written or {}, failure.detail
        if error not in ("", last_error):
            print(error, file=sys.stderr, flush=True)
        last_error = error
        if current != written:
            write_scripts(folder, socket.gethostname(), current)
            written = current
        ready.touch()
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main(Path("/project/.env"), Path("/settings"), Path("/tmp/ready"))  # noqa: S108 - paths in the container
