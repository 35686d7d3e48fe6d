"""The whole service on one machine, as native processes: `imagegen up`."""

import asyncio
import fcntl
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from compose import services
from compose.journal import FOLDER, Journal, Line
from compose.services import Service
from compose.supervisor import Guard, Supervised
from compose.voice import JsonPrinter, Printer, Voice
from shared.errors import ConfigurationError
from shared.settings import PREFIX, LauncherSettings

#: In the data folder while the service runs, for commands that work on its records: where its Redis is.
REDIS_URL_FILE = "redis-url"

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


async def up(settings: LauncherSettings, console: Console, command: str) -> None:
    """Run until interrupted. `command` is how this user calls the command line.

    Raises ConfigurationError and StartFailed with one sentence each.
    """
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    settings.require_keys()
    require_free_port(settings.host, settings.port, "PORT")
    if settings.flower_port:
        require_free_port(settings.host, settings.flower_port, "FLOWER_PORT")
    as_json = settings.log_format == "json"
    show = JsonPrinter(console) if as_json else Printer(console)
    with (
        _owned(settings.data_dir),
        _socket_folder() as sockets,
        closing(Journal(settings.data_dir / FOLDER)) as journal,
    ):
        url = settings.redis_url or f"unix://{sockets / 'redis.sock'}"
        async with _running(settings, url, sockets / "redis.sock", Voice(show, journal), stopped):
            if not settings.redis_url:
                (settings.data_dir / REDIS_URL_FILE).write_text(url)
            if as_json:
                show(Line("imagegen", "ready"))
            elif not stopped.is_set():
                console.print(_banner(settings, command), highlight=False, soft_wrap=True)
            await stopped.wait()
            show(Line("imagegen", "Stopping…"))
    show(Line("imagegen", "Stopped; nothing is left running."))


@asynccontextmanager
async def _running(
    settings: LauncherSettings, url: str, socket_path: Path, voice: Voice, stopped: asyncio.Event
) -> AsyncIterator[None]:
    """Everything, started in order and stopped in the opposite one: who takes work stops first, Redis last."""
    env = {f"{PREFIX}REDIS_URL": url}
    first = [] if settings.redis_url else [services.redis_server(settings, socket_path)]
    rest = [services.worker(settings, env, backend) for backend in settings.backends]
    rest += [services.housekeeper(settings, env), services.api(settings, env)]
    if settings.flower_port:
        rest.append(services.flower(settings, env))
    voice.say("imagegen", f"starting {', '.join(service.name for service in (*first, *rest))}")
    guard = await Guard.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(guard.dismiss)
        for wave in (first, rest):
            await _start(wave, guard, voice, stack, stopped)
        yield


async def _start(
    wave: list[Service], guard: Guard, voice: Voice, stack: AsyncExitStack, stopped: asyncio.Event
) -> None:
    """Start services side by side. Gives up as soon as one fails, or when told to stop."""
    supervised = [Supervised(service, guard, voice) for service in wave]
    for one in supervised:
        stack.push_async_callback(one.stop)
    starting = asyncio.ensure_future(_all(one.start() for one in supervised))
    stopping = asyncio.ensure_future(stopped.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
    finally:
        starting.cancel()
        stopping.cancel()


async def _all(starts: Iterable[Coroutine[None, None, None]]) -> None:
    """Raises the first failure as it is, not in a group."""
    await asyncio.gather(*starts)


def require_free_port(host: str, port: int, setting: str) -> None:
    """Raises ConfigurationError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"{host}:{port} cannot be used ({error.strerror}): stop the program that has it, or choose another "
                f"port with {PREFIX}{setting}={port + 1}."
            ) from None


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Two servers on the same files would destroy them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"imagegen is already running with {PREFIX}DATA_DIR={folder}: stop it, or choose another folder."
            ) from None
        with _removed(folder / REDIS_URL_FILE):
            yield


@contextmanager
def _removed(file: Path) -> Iterator[None]:
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


@contextmanager
def _socket_folder() -> Iterator[Path]:
    """Outside of the data folder: a socket's path may take about 100 bytes at most."""
    folder = Path(tempfile.mkdtemp(prefix="imagegen-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _banner(settings: LauncherSettings, command: str) -> str:
    host = "localhost" if settings.host in ("127.0.0.1", "0.0.0.0", "::1", "::") else settings.host  # noqa: S104
    url = settings.public_url or f"http://{host}:{settings.port}"
    key = "-H 'x-api-key: YOUR-KEY' " if settings.api_key else ""
    lines = ["", "[bold green]imagegen is ready[/]", f"  API        {url}   (try it at {url}/docs)"]
    if settings.flower_port:
        lines.append(f"  Dashboard  http://{host}:{settings.flower_port}")
    lines += [
        f"  Pictures   {settings.output_url or settings.output_dir.resolve()}",
        "",
        "  Your first picture:",
        f"    {escape(EXAMPLE.format(url=url, key=key))}",
    ]
    lines += [
        f'  or: [bold]{escape(command)} generate "a red heart on a blue background" -o heart.png[/]',
        "",
        "  Ctrl-C stops everything.",
        "",
    ]
    return "\n".join(lines)
