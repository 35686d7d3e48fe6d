from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.storage.bucket import BucketStore
from shared.storage.bucket_connection import BucketLocation
from shared.storage.object_store import StorageTimeouts
from tests.shared.storage.s3 import S3Server
from tests.stack import Stack

LONG_TIMEOUTS = StorageTimeouts(retry_seconds=10, request_seconds=10)


@pytest.fixture(scope="package")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@contextmanager
def credentials_of(server: S3Server) -> Iterator[None]:
    """Give this process access to the server."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in server.credentials.items():
            environment.setenv(name, value)
        yield


def open_bucket(
    server: S3Server, url: str, staging_dir: Path, timeouts: StorageTimeouts = LONG_TIMEOUTS, **location: Any
) -> BucketStore:
    with credentials_of(server):
        return BucketStore.connect(BucketLocation(url, **location), staging_dir, timeouts)


@pytest.fixture(scope="package")
def service(redis_url: str, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API and a worker that share a bucket and no disk."""
    folder = tmp_path_factory.mktemp("stack")
    url = s3.create_bucket("stack") + "/images"
    with Stack(redis_url, folder, SD_BACKENDS="null", SD_OUTPUT_URL=url, **s3.credentials) as stack:
        stack.start_worker("null", SD_OUTPUT_DIR=str(folder / "of-the-worker"))
        stack.start_api(SD_OUTPUT_DIR=str(folder / "of-the-api"))
        yield stack
