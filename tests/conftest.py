"""Real fixtures: a Valkey server, API and worker processes, and images on disk."""

import gc
import os
import signal

# Fixtures stop their processes also when `kill` or `timeout` ends the tests.
signal.signal(signal.SIGTERM, signal.default_int_handler)
# A shell makes its background processes ignore Ctrl-C, and their children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Before anything imports torch; see worker.process.cpus. Tests that run side by side have a core each: two threads each
# took half as much CPU time again, because each waits for the other at every layer.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
for name in [name for name in os.environ if name.startswith("SD_")]:
    del os.environ[name]

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Stack, valkey_server
from tests.support import fork_server
from tests.support.process import Process

if fork_server.IS_SUPPORTED:
    Process.forked_modules = fork_server.MODULES

MAX_PROCESSES = 12
#: Between two collections of garbage; Python's own figure is 700.
ALLOCATIONS = 50_000
#: Files that begin first: those that take longest, so that no process works on one while the others have ended, and
#: those that wait most, so that others use the cores meanwhile.
LONG = (
    "worker/engines/bfl/test_workers.py",
    "faults/test_lost_workers.py",
    "surface/test_described.py",
    "worker/process/test_many_local_models.py",
    "bench/test_gpu.py",
    "worker/process/test_start.py",
    "shared/storage/test_bucket_outages.py",
    "api/protocols/openai/test_retries.py",
    "worker/process/test_lost_children.py",
    "worker/process/test_failed_loads.py",
    "worker/process/test_many_models.py",
    "worker/process/test_parent.py",
    "worker/process/test_shared_queues.py",
    "worker/engines/bfl/test_polls.py",
    "faults/test_lost_redis.py",
    "studio/test_watching.py",
    "studio/test_access.py",
    "worker/engines/diffusers/families/test_families.py",
    "worker/engines/diffusers/acceleration/test_graphs_in_engines.py",
    "worker/engines/diffusers/checkpoints/test_single_files.py",
)
RED_HEART: dict[str, Any] = {"prompt": "a red heart on a blue background", "seed": 42}


def pytest_configure(config: pytest.Config) -> None:
    """Start the server that forks processes of the service, once for all processes of the tests."""
    if fork_server.IS_SUPPORTED and "PYTEST_XDIST_WORKER" not in os.environ:
        threads = {"OMP_NUM_THREADS": "1"} if config.getoption("numprocesses", None) else {}
        exits = ExitStack()
        exits.enter_context(fork_server.running({**threads, **os.environ}))
        config.add_cleanup(exits.close)


def pytest_xdist_auto_num_workers() -> int:
    """Three processes for each core, because more than half of a test's time is waiting."""
    return min(MAX_PROCESSES, (os.cpu_count() or 1) * 3)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keeps a million imported objects, which stay, out of garbage collections: one would take half a second.

    Others are collected rarely: collections took an eighth of the CPU time of tests that load models.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(ALLOCATIONS)
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _rank(item.path.as_posix()))


def _rank(path: str) -> int:
    return next((rank for rank, name in enumerate(LONG) if path.endswith(name)), len(LONG))


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey server for this test process."""
    with valkey_server(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
def stack(redis_url: str, tmp_path: Path) -> Iterator[Stack]:
    """An empty installation. The test starts the processes that it needs."""
    with Stack(redis_url, tmp_path) as stack:
        yield stack


@pytest.fixture(scope="session")
def null(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API and a worker without a model, for all tests that leave them unchanged."""
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
