"""Jobs whose images cannot be stored fail."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.invariant import Invariant
from tests.faults.service import Service
from tests.support.valkey import Valkey

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


def test_a_full_disk_fails_the_job_and_leaves_no_partial_image(service: Service, small: Path) -> None:
    filler = small / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
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
