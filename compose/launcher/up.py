"""The whole service on one machine, as native processes: `imagegen up`."""

import errno
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from compose.launcher import services
from compose.launcher.console import BOLD, GREEN, paint
from compose.launcher.plan import Plan, Wave
from compose.launcher.supervise import REDIS_URL_FILE
from shared.errors import ConfigurationError
from shared.settings.infrastructure import require_folder
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import SUPERVISED_VARIABLE, unknown_setting_warnings
from shared.settings.service import PREFIX

EXAMPLE = (
    """curl -d '{{"prompt":"a red heart on a blue background"}}' -H 'content-type: application/json' """
    "{key}{url}/api/txt2img"
)


def redis_url_of(settings: LauncherSettings) -> str | None:
    """Where the service's Redis is; None where it would be the embedded one and that is not running."""
    if settings.redis_url:
        return settings.redis_url
    try:
        return (settings.data_dir / REDIS_URL_FILE).read_text()
    except FileNotFoundError:
        return None


def up(settings: LauncherSettings, command: str) -> NoReturn:
    """Becomes the supervisor, which runs until interrupted. `command` is how this user calls the command line.

    Raises ConfigurationError.
    """
    settings.require_keys()
    require_folder(settings.data_dir, f"{PREFIX}DATA_DIR")
    settings.require_output_dir()
    require_free_port(settings.host, settings.port, "PORT")
    if settings.flower_port == settings.port:
        raise ConfigurationError(
            f"SD_FLOWER_PORT and SD_PORT are both {settings.port}: choose another for one of them."
        )
    if settings.flower_port:
        require_free_port(settings.host, settings.flower_port, "FLOWER_PORT")
    sockets = _socket_folder()
    try:
        _become_supervisor(_plan(settings, sockets, command))
    except BaseException:
        shutil.rmtree(sockets, ignore_errors=True)
        raise


def _become_supervisor(plan: Plan) -> NoReturn:
    # Through a pipe: there may be a password in it. It is smaller than what a pipe holds.
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    with os.fdopen(writing, "w") as pipe:
        pipe.write(plan.as_json())
    # What was imported for the settings takes more memory than the supervisor and lives as long as the process does.
    os.execv(sys.executable, (sys.executable, "-m", "compose.launcher.supervise", str(reading)))  # noqa: S606


def _plan(settings: LauncherSettings, sockets: Path, command: str) -> Plan:
    """What makes images comes first, so that the first one need not wait for what looks after the service."""
    socket_path = sockets / "redis.sock"
    url = settings.redis_url or f"unix://{socket_path}"
    env = {f"{PREFIX}REDIS_URL": url, SUPERVISED_VARIABLE: "1"}
    redis = [] if settings.redis_url else [services.redis_server(settings, socket_path)]
    workers = [services.worker(settings, env, backend) for backend in settings.backends]
    others = [services.housekeeper(settings, env)]
    if settings.flower_port:
        others.append(services.flower(settings, env))
    return Plan(
        waves=(
            Wave(tuple(redis)),
            Wave((services.api(settings, env), *workers), announcement=_banner(settings, command)),
            Wave(tuple(others), announcement=_dashboard(settings)),
        ),
        data_dir=str(settings.data_dir),
        socket_dir=str(sockets),
        embedded_redis_url="" if settings.redis_url else url,
        log_format=settings.log_format,
        warnings=(*unknown_setting_warnings(), *_missing_redis(settings)),
    )


def _missing_redis(settings: LauncherSettings) -> Iterator[str]:
    """Asked once here, so that not every process says for itself what is wrong. Raises ConfigurationError."""
    if settings.redis_url:
        from shared.redis.store import require_redis

        if not require_redis(settings.redis_url):
            url = urlsplit(settings.redis_url)
            place = f"{url.hostname}:{url.port or 6379}" if url.hostname else url.path
            yield f"no Redis server answers at {place} (SD_REDIS_URL); everything waits for it"


def require_free_port(host: str, port: int, setting: str) -> None:
    """Raises ConfigurationError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except PermissionError:
        raise ConfigurationError(
            f"Port {port} is kept for the system's administrator: choose one from 1024 on with {PREFIX}{setting}=7860."
        ) from None
    except (socket.gaierror, UnicodeError):
        raise ConfigurationError(f"{PREFIX}HOST={host} is no address or name that is known here.") from None
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigurationError(f"{PREFIX}HOST={host} is no address of this machine.") from None
        raise ConfigurationError(
            f"{host}:{port} cannot be used ({error.strerror}): stop the program that has it, or choose another "
            f"port with {PREFIX}{setting}={port + 1 if port < 65_535 else port - 1}."
        ) from None


def _socket_folder() -> Path:
    """Outside of the data folder: a socket's path may take about 100 bytes at most."""
    try:
        return Path(tempfile.mkdtemp(prefix="imagegen-"))
    except OSError as error:
        raise ConfigurationError(
            f"No temporary folder can be made ({error.strerror}): name one that this user may write to with TMPDIR."
        ) from None


def url_of(settings: LauncherSettings, port: int) -> str:
    """How this machine reaches what listens on `port` of SD_HOST."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _readable(url: str) -> str:
    return url.replace("http://127.0.0.1:", "http://localhost:")


def _banner(settings: LauncherSettings, command: str) -> str:
    url = settings.public_url or _readable(url_of(settings, settings.port))
    key = "-H 'x-api-key: YOUR-KEY' " if settings.api_key else ""
    return "\n".join(
        (
            "",
            paint("imagegen is ready", BOLD, GREEN),
            f"  API        {url}   (try it at {url}/docs)",
            f"  Images     {settings.output_url or settings.output_dir.resolve()}",
            "",
            "  Your first image:",
            f"    {EXAMPLE.format(url=url, key=key)}",
            f'  or: {paint(command, BOLD)} generate "a red heart on a blue background" -o heart.png',
            "",
            "  Ctrl-C stops everything.",
            "",
        )
    )


def _dashboard(settings: LauncherSettings) -> str:
    return f"  Dashboard  {_readable(url_of(settings, settings.flower_port))}\n" if settings.flower_port else ""
