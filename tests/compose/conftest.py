import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil
import pytest
import requests

from tests.stack import Process, free_port

STOP_SECONDS = 45


class Launched:
    """`imagegen up` in a folder of its own."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port, self.flower_port = free_port(), free_port()
        self.settings = {
            "SD_PORT": str(self.port),
            "SD_FLOWER_PORT": str(self.flower_port),
            "SD_BACKENDS": "null",
            **settings,
        }
        self.url = f"http://127.0.0.1:{self.port}"
        self.launcher = self.cli("up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.launcher.stop(STOP_SECONDS)

    def cli(self, *arguments: str) -> Process:
        return Process([sys.executable, "-m", "compose.cli", *arguments], self.folder, **self.settings)

    def is_ready(self) -> Self:
        self.launcher.wait_for("Ctrl-C stops everything")
        return self

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.launcher.pid).children(recursive=True)

    def service(self, part: str) -> psutil.Process:
        """The topmost process whose command line holds `part`."""
        children = psutil.Process(self.launcher.pid).children()
        return next(process for process in children if part in " ".join(process.cmdline()))

    def generate(self) -> requests.Response:
        return requests.post(f"{self.url}/api/txt2img", json={"prompt": "x"}, timeout=30)


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Launched]:
    with Launched(tmp_path) as launched:
        yield launched.is_ready()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """A running service for tests that leave it as it was."""
    with Launched(tmp_path_factory.mktemp("service")) as launched:
        yield launched.is_ready()
