"""Fixtures that are real: a Valkey server, API and worker processes, images on disk."""

import os
import signal

# Whoever ends the tests, also with `kill` or `timeout`, ends what they have started.
signal.signal(signal.SIGTERM, signal.default_int_handler)
# A shell has what it starts in the background ignore Ctrl-C, and what that starts ignores it too.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Before anything imports torch. Tests that run side by side have a core each: two threads each took half as much CPU
# time again, because each waits for the other at every layer.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
for name in [name for name in os.environ if name.startswith("SD_")]:
    del os.environ[name]

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import Stack, valkey_server

MOST_PROCESSES = 8
RED_HEART = {"prompt": "a red heart on a blue background", "seed": 42}


def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are cores: about a third of a test's time is waiting."""
    return min(MOST_PROCESSES, (os.cpu_count() or 1) * 3 // 2)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey server of this process's own."""
    with valkey_server(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
def stack(redis_url: str, tmp_path: Path) -> Iterator[Stack]:
    """An empty installation; the test starts the processes it wants."""
    with Stack(redis_url, tmp_path) as stack:
        yield stack


@pytest.fixture(scope="session")
def null(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API and a worker without a model, shared by every test that leaves them as they were."""
    with Stack(redis_url, tmp_path_factory.mktemp("null"), SD_BACKENDS="null") as stack:
        stack.start_worker("null")
        stack.start_api()
        yield stack


@pytest.fixture(scope="session")
def sd(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API and a worker with the starter model."""
    with Stack(redis_url, tmp_path_factory.mktemp("sd"), SD_BACKENDS="sd") as stack:
        stack.start_worker("sd")
        stack.start_api()
        yield stack
