"""Hands containers what has changed in .env since they were made: the service `settings` of compose.yaml.

A container keeps its environment for life, and `docker compose restart` reads no .env. What this writes is read by
compose/container/start.sh, which begins every container.
"""

import json
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from dotenv import dotenv_values
from pydantic_settings import BaseSettings

from shared.settings.api import ApiSettings
from shared.settings.housekeeper import HousekeeperSettings
from shared.settings.service import PREFIX
from shared.settings.worker import WorkerSettings

#: Who reads which settings, and the group that may read its file.
FAMILIES: Mapping[str, tuple[type[BaseSettings], int]] = {
    "api": (ApiSettings, 20001),
    "worker": (WorkerSettings, 20002),
    "housekeeper": (HousekeeperSettings, 20003),
}
#: What libraries read, in all of them.
OF_LIBRARIES = ("AWS_", "OTEL_")
#: What compose.yaml itself makes use of, or sets for each service.
OF_COMPOSE = frozenset(
    f"{PREFIX}{name}"
    for name in (
        *("HOST", "PORT", "PUBLISHED_ON", "FLOWER_PORT", "FLOWER_BASIC_AUTH", "BACKEND", "SHUTDOWN_GRACE_SECONDS"),
        *("REDIS_URL", "OUTPUT_DIR", "MODEL_DIR", "LORA_DIR", "DATA_DIR"),
    )
)
PAUSE_SECONDS = 0.5

Values = Mapping[str, str]


def takes(family: str, name: str) -> bool:
    """Whether a restart is to bring this variable into effect in these containers."""
    is_setting = name.removeprefix(PREFIX).lower() in FAMILIES[family][0].model_fields
    return name.startswith(OF_LIBRARIES) or (name.startswith(PREFIX) and is_setting and name not in OF_COMPOSE)


def read(path: Path) -> dict[str, str]:
    """Raises OSError, ValueError."""
    if not path.is_file():
        return {}
    values = dotenv_values(path, encoding="utf-8-sig")
    return {name: value or "" for name, value in values.items() if re.fullmatch(r"[A-Z][A-Z0-9_]*", name)}


def script(family: str, before: Values, now: Values) -> str:
    """For start.sh: one line for each variable that has changed."""
    return "".join(_lines(family, before, now))


def _lines(family: str, before: Values, now: Values) -> Iterator[str]:
    for name in sorted({*before, *now}):
        old, new = before.get(name, ""), now.get(name, "")
        if old == new:
            continue
        if takes(family, name):
            yield f"changed {name} {shlex.quote(old)} {shlex.quote(new)}\n"
        elif family == "api" and not any(takes(other, name) for other in FAMILIES):
            yield f"echo '{name} has changed in .env; it takes effect with: docker compose up -d' >&2\n"


def before(folder: Path, now: Values, container: str) -> dict[str, str]:
    """What .env said when this container was made. It has a name for life; one that follows it begins anew."""
    kept = folder / ".before"
    try:
        known: dict[str, dict[str, str]] = json.loads(kept.read_text())
    except (FileNotFoundError, ValueError):
        known = {}
    if container not in known:
        known = {container: dict(now)}
        write(kept, json.dumps(known), 0o600, group=-1)
    return known[container]


def write(path: Path, text: str, mode: int, group: int) -> None:
    """At once: a container that starts meanwhile reads the old text or the new one."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.touch(0o600)
    temporary.write_text(text)
    os.chown(temporary, -1, group)
    temporary.chmod(mode)
    temporary.replace(path)


def hand_over(folder: Path, container: str, now: Values) -> None:
    old = before(folder, now, container)
    for family, (_, group) in FAMILIES.items():
        write(folder / family, script(family, old, now), 0o640, group)


def main(env_file: Path, folder: Path, ready: Path) -> None:
    restarts = folder / "restarts"
    restarts.mkdir(exist_ok=True)
    os.chown(restarts, -1, FAMILIES["api"][1])
    restarts.chmod(0o775)
    seen: dict[str, str] | None = None
    said = ""
    while True:
        try:
            now = read(env_file)
        except (OSError, ValueError) as error:
            now, told = seen or {}, f".env cannot be read: {error}"
        else:
            told = ""
        if told not in ("", said):
            print(told, file=sys.stderr, flush=True)
        said = told
        if now != seen:
            hand_over(folder, socket.gethostname(), now)
            seen = now
        ready.touch()
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main(Path("/project/.env"), Path("/settings"), Path("/tmp/ready"))  # noqa: S108 - places in the container
