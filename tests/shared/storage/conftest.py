from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.storage.bucket import BucketLocation, BucketStore
from shared.storage.object_store import StorageTimeouts
from tests.shared.storage.s3 import S3Server
from tests.stack import Stack

PATIENT = StorageTimeouts(retry_seconds=10, request_seconds=10)


@pytest.fixture(scope="package")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@contextmanager
def permitted(server: S3Server) -> Iterator[None]:
    """This process may use the server."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in server.credentials.items():
            environment.setenv(name, value)
        yield


def bucket_at(
    server: S3Server, url: str, scratch: Path, timeouts: StorageTimeouts = PATIENT, **place: Any
) -> BucketStore:
    with permitted(server):
        return BucketStore.connect(BucketLocation(url, **place), scratch, timeouts)


@pytest.fixture(scope="package")
def far(redis_url: str, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API and a worker that share no disk."""
    folder = tmp_path_factory.mktemp("far")
    url = s3.create("far") + "/images"
    with Stack(redis_url, folder, SD_BACKENDS="null", SD_OUTPUT_URL=url, **s3.credentials) as stack:
        stack.start_worker("null", SD_OUTPUT_DIR=str(folder / "of-the-worker"))
        stack.start_api(SD_OUTPUT_DIR=str(folder / "of-the-api"))
        yield stack
