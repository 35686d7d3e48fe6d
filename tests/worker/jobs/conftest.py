"""A test bench with a store and a folder of its own."""

import itertools
from pathlib import Path

import pytest

from tests.worker.bench import Bench
from tests.worker.jobs.batches import CountingEngine

_numbers = itertools.count()


@pytest.fixture
def bench(redis_url: str, tmp_path: Path) -> Bench:
    return Bench(redis_url, f"jobs{next(_numbers)}:", tmp_path / "outputs")


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine()
