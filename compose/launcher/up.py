"""`imagegen up`: checks the settings, plans the processes, and becomes the supervisor that runs them."""

import errno
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from compose.launcher import services
from compose.launcher.console import BOLD, GREEN, paint
from compose.launcher.data_folder import already_running, is_running
from compose.launcher.plan import STOP_SIGNALS, Plan, Stage
from shared.errors import ConfigurationError
from shared.settings.infrastructure import require_folder
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import SUPERVISED_VARIABLE, setting_warnings
from shared.settings.service import PREFIX

EXAMPLE = (
    """curl -d '{{"prompt":"a red heart on a blue background"}}' -H 'content-type: application/json' """
    "{key}{url}/api/txt2img"
)


def up(settings: LauncherSettings, command: str, gpus: int) -> NoReturn:
    """Becomes the supervisor, which runs until interrupted. The banner shows `command` as the name of the command line.
    `gpus` are those of this machine: with several, each gets a worker of each local backend.

    Raises ConfigurationError.
    """
    settings.require_keys()
    require_folder(settings.data_dir, f"{PREFIX}DATA_DIR")
    settings.require_output_dir()
    settings.require_alive_file()
    # Before the ports, which this service has itself.
    if is_running(settings.data_dir):
        raise already_running(settings.data_dir)
    require_free_port(settings.host, settings.port, "PORT")
    if settings.flower_port == settings.port:
        raise ConfigurationError(f"SD_FLOWER_PORT and SD_PORT are both {settings.port}: change one of them.")
    if settings.flower_port:
        require_free_port(settings.host, settings.flower_port, "FLOWER_PORT")
    sockets = _socket_folder()
    try:
        _become_supervisor(_plan(settings, sockets, command, gpus))
    except BaseException:
        shutil.rmtree(sockets, ignore_errors=True)
        raise


def _become_supervisor(plan: Plan) -> NoReturn:
    # Through a pipe, because the plan may hold a password. It is smaller than the capacity of a pipe.
    read_end, write_end = os.pipe()
    os.set_inheritable(read_end, True)
    with os.fdopen(write_end, "w") as pipe:
        pipe.write(plan.to_json())
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    # A new program, because the modules imported for the settings take more memory than the supervisor.
    os.execv(sys.executable, (sys.executable, "-m", "compose.launcher.main", str(read_end)))  # noqa: S606


def _plan(settings: LauncherSettings, sockets: Path, command: str, gpus: int) -> Plan:
    """API and workers start before Flower, so that the first image comes sooner."""
    socket_path = sockets / "redis.sock"
    url = settings.redis_url or f"unix://{socket_path}"
    env = {f"{PREFIX}REDIS_URL": url, SUPERVISED_VARIABLE: "1"}
    redis = [] if settings.redis_url else [services.redis_server(settings, socket_path)]
    workers = [worker for backend in settings.backends for worker in services.workers(settings, env, backend, gpus)]
    flower = [services.flower(settings, env)] if settings.flower_port else []
    return Plan(
        stages=(
            Stage(tuple(redis)),
            Stage((services.api(settings, env), *workers), announcement=_banner(settings, command)),
            Stage(tuple(flower), announcement=_flower(settings)),
        ),
        data_dir=str(settings.data_dir),
        socket_dir=str(sockets),
        embedded_redis_url="" if settings.redis_url else url,
        log_format=settings.log_format,
        warnings=(*setting_warnings(settings), *_unreachable_redis(settings)),
    )


def _unreachable_redis(settings: LauncherSettings) -> Iterator[str]:
    """Checks the server once, so that not every process reports it. Raises ConfigurationError."""
    if settings.redis_url:
        from shared.redis.store import require_redis

        if not require_redis(settings.redis_url):
            url = urlsplit(settings.redis_url)
            address = f"{url.hostname}:{url.port or 6379}" if url.hostname else url.path
            tls = " with TLS" if url.scheme == "rediss" else ""
            yield f"no Redis server responds{tls} at {address} (SD_REDIS_URL); all processes wait for it"


def require_free_port(host: str, port: int, setting: str) -> None:
    """Raises ConfigurationError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except PermissionError:
        raise ConfigurationError(
            f"Only root may use port {port}: choose one from 1024 on with {PREFIX}{setting}=7860."
        ) from None
    except (socket.gaierror, UnicodeError):
        raise ConfigurationError(f"{PREFIX}HOST={host} is not an address or host name that resolves.") from None
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigurationError(f"{PREFIX}HOST={host} is not an address of this machine.") from None
        raise ConfigurationError(
            f"{host}:{port} cannot be used ({error.strerror}): stop the program that uses it, or choose "
            f"another port with {PREFIX}{setting}={port + 1 if port < 65_535 else port - 1}."
        ) from None


def _socket_folder() -> Path:
    """Outside the data folder, because the path of a socket is limited to about 100 bytes."""
    try:
        return Path(tempfile.mkdtemp(prefix="imagegen-"))
    except OSError as error:
        raise ConfigurationError(
            f"No temporary folder can be created ({error.strerror}): name a writable one with TMPDIR."
        ) from None


def url_of(settings: LauncherSettings, port: int) -> str:
    """The URL at which this machine reaches `port` of SD_HOST."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _with_localhost(url: str) -> str:
    return url.replace("http://127.0.0.1:", "http://localhost:")


def _banner(settings: LauncherSettings, command: str) -> str:
    url = settings.public_url or _with_localhost(url_of(settings, settings.port))
    key = "-H 'x-api-key: YOUR-KEY' " if settings.api_key else ""
    return "\n".join(
        (
            "",
            paint("imagegen is ready", BOLD, GREEN),
            f"  Studio     {url}",
            f"  API        {url}/docs",
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


def _flower(settings: LauncherSettings) -> str:
    return f"  Flower     {_with_localhost(url_of(settings, settings.flower_port))}\n" if settings.flower_port else ""
