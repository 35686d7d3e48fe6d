"""Jobs whose images cannot be stored fail."""

import itertools
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from compose.cli.prune import prune
from shared.redis.store import Store, connect
from shared.settings.launcher import LauncherSettings
from shared.storage import API_TIMEOUTS, open_storage
from shared.storage.images import ImageStore
from tests.documents.reading import EXAMPLE_ID
from tests.faults.invariant import Invariant
from tests.faults.service import Service
from tests.support.valkey import Valkey
from worker.housekeeper.ownership import Ownership

DISK_SIZE = "1m"
FREE_BYTES = 8192


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path_factory.mktemp("small")
    if mount("-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(folder)) != 0:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607


@pytest.fixture(scope="module")
def shared_service(valkey: Valkey, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = {"SD_OUTPUT_DIR": str(small), "SD_MIN_FREE_BYTES": "0"}
    with Service(valkey.url, tmp_path_factory.mktemp("bad-disk"), ("null-0", "api-0"), **settings) as service:
        service.outputs = small
        service.start_missing()
        yield service


def mount(*options: str) -> int:
    return subprocess.run(["mount", *options], check=False, capture_output=True).returncode  # noqa: S607


@pytest.fixture
def service(shared_service: Service) -> Iterator[Service]:
    yield shared_service
    Invariant(shared_service).wait_and_check(shared_service.accepted)


def fill(folder: Path) -> Path:
    """The file that takes all space."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def test_a_full_disk_fails_the_job_and_leaves_no_partial_image(service: Service, small: Path) -> None:
    filler = fill(small)
    with filler.open("rb+") as file:
        # Space for the folders and a part of an image.
        file.truncate(filler.stat().st_size - FREE_BYTES)

    failed = service.wait_until_done(service.submit(width=2048, height=2048, seed=7))
    filler.unlink()
    succeeded = service.wait_until_done(service.submit())

    assert failed.error is not None
    assert failed.error.code == "storage-full"
    assert succeeded.state == "succeeded"


def test_a_read_only_disk_fails_the_job(service: Service, small: Path) -> None:
    job_id = service.start_job(3.0)

    assert mount("-o", "remount,ro", str(small)) == 0
    failed = service.wait_until_done(job_id)
    assert mount("-o", "remount,rw", str(small)) == 0
    succeeded = service.wait_until_done(service.submit())

    assert failed.error is not None
    assert failed.error.code == "storage-full"
    assert succeeded.state == "succeeded"


def test_prune_frees_a_disk_that_is_so_full_that_redis_refuses_every_write(small: Path) -> None:
    with Valkey(small) as own, redis.Redis.from_url(own.url) as client:
        settings = LauncherSettings(redis_url=own.url, output_dir=small / "pruned")
        images = ImageStore(open_storage(settings, API_TIMEOUTS))
        assert Ownership.of(Store(connect(own.url)), settings.redis_prefix, images).claim() is None
        image = settings.output_dir / f"2020/01/01/{EXAMPLE_ID}-0.png"
        image.parent.mkdir(parents=True)
        image.touch()
        filler = fill(small)
        with pytest.raises(redis.ResponseError, match="No space left"):
            all(client.set("anything", bytes(4096)) for _ in itertools.count())

        removed = prune(settings, timedelta(), dry_run=False, take_over=False)

        filler.unlink()
    assert removed.files == 1
    assert not image.exists()
