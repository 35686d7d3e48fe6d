import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, suppress
from pathlib import Path
from typing import Self

import psutil
import pytest
import requests
from typer.testing import CliRunner, Result

from tests.stack import free_port, socket_folder
from tests.support.process import Process

STOP_SECONDS = 45


class Launched:
    """`imagegen up` in its own folder."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port, self.flower_port = free_port(), free_port()
        self._sockets = socket_folder()
        self.settings = {
            "SD_PORT": str(self.port),
            "SD_FLOWER_PORT": str(self.flower_port),
            "SD_BACKENDS": "null",
            # A killed launcher does not remove the folder of its socket.
            "TMPDIR": self._sockets.name,
            **settings,
        }
        self.url = f"http://127.0.0.1:{self.port}"
        self.launcher = self.cli("up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.launcher.kill()
        self._sockets.cleanup()

    def cli(self, *arguments: str) -> Process:
        return Process([sys.executable, "-m", "compose.cli.app", *arguments], self.folder, self.settings)

    def run(self, *arguments: str) -> Result:
        """A command in the folder of the service, inside this process: a new one takes a second longer."""
        from compose.cli.app import cli

        with chdir(self.folder):
            return CliRunner().invoke(cli, arguments, env=self.settings)

    def is_ready(self) -> Self:
        """Waits until all processes run, housekeeper and Flower included."""
        flower = () if self.settings["SD_FLOWER_PORT"] == "0" else ("  Flower ",)
        self.launcher.wait_for("Ctrl-C stops everything", *flower)
        return self

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.launcher.pid).children(recursive=True)

    def service(self, part: str) -> psutil.Process:
        """The topmost process whose command line holds `part`."""
        for process in psutil.Process(self.launcher.pid).children():
            # A process that was killed just now has no command line.
            with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
                if part in " ".join(process.cmdline()):
                    return process
        raise LookupError(f"{part} does not run: {self.launcher.output}")

    def generate(self, **fields: str) -> requests.Response:
        return requests.post(f"{self.url}/api/txt2img", json={"prompt": "x", **fields}, timeout=30)


Launch = Callable[..., Launched]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts services with these settings in the test's folder, without Flower by default."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(Launched(tmp_path, **{"SD_FLOWER_PORT": "0", **settings}))


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """A running service, shared by tests that leave it as it was."""
    with Launched(tmp_path_factory.mktemp("service")) as launched:
        yield launched.is_ready()
