"""Promises of every object store: folders and buckets."""

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.errors import InvalidImage, StorageUnavailable
from shared.storage.bucket import BucketStore
from shared.storage.folder import FolderStore
from shared.storage.object_store import STAGING_FOLDER, ObjectStore, StagingArea, StoredUpload, stream_chunks
from tests.api.images import encoded, scene
from tests.shared.storage.conftest import open_bucket
from tests.shared.storage.s3 import S3Server

_numbers = itertools.count()
IMAGE = encoded(scene())
NAME = "2026/11/23/a-0.png"


@pytest.fixture
def bucket(s3: S3Server, tmp_path: Path) -> BucketStore:
    return open_bucket(s3, s3.create_bucket(f"objects-{next(_numbers)}") + "/some/prefix", tmp_path)


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    storage: ObjectStore = FolderStore(tmp_path) if request.param == "folder" else request.getfixturevalue("bucket")
    return storage


def all_names(storage: ObjectStore) -> set[str]:
    folders = [day.name for day in storage.list_days()] + [
        f"inputs/{folder.name}" for folder in storage.list_folders("inputs")
    ]
    return {file.name for folder in folders for file in storage.list_files(folder)} | {
        file.name for file in storage.list_files(STAGING_FOLDER)
    }


def upload(staged: StagingArea, data: bytes = IMAGE) -> StoredUpload:
    with staged.start_upload() as file:
        file.write(data[:10])
        file.write(data[10:])
        return file.finish(max_pixels=10**6)


def test_a_file_can_be_read_and_listed_until_it_is_removed(storage: ObjectStore) -> None:
    assert storage.create(NAME, b"first", "a")

    assert storage.read(NAME) == b"first"
    (day,) = storage.list_days()
    (file,) = storage.list_files(day.name)
    assert (day.name, file.name, file.size) == ("2026/11/23", NAME, 5)
    assert abs(file.modified_at - datetime.now(UTC)) < timedelta(minutes=1)

    storage.remove([NAME, "2026/11/23/never-was.png"])
    storage.remove_day_if_empty(day)
    assert storage.read(NAME) is None
    assert storage.list_days() == []
    storage.remove([])


def test_a_file_is_never_replaced(storage: ObjectStore) -> None:
    assert storage.create(NAME, b"first", "a")
    assert not storage.create(NAME, b"second", "b")

    assert storage.read(NAME) == b"first"
    assert all_names(storage) == {NAME}


def test_a_bucket_without_conditional_writes_never_replaces_a_file_either(bucket: BucketStore) -> None:
    plain = replace(bucket, is_conditional=False)

    assert bucket.is_conditional
    assert [plain.create(NAME, data, "a") for data in (b"first", b"second")] == [True, False]
    assert plain.read(NAME) == b"first"


def test_one_of_many_concurrent_writers_creates_the_file(storage: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as threads:
        created = list(threads.map(lambda n: storage.create(NAME, bytes([n]) * 1000, str(n)), range(8)))

    assert sum(created) == 1
    assert storage.read(NAME) == bytes([created.index(True)]) * 1000


def test_days_are_listed_oldest_first_with_their_files(storage: ObjectStore) -> None:
    days = ["2025/12/31", "2026/01/02", "2026/11/23"]
    for day in reversed(days):
        storage.create(f"{day}/a-0.png", b"x", "a")
    storage.create("inputs/job/hash", b"x", "a")
    storage.create("20261/01/01/foreign.png", b"x", "a")

    assert [day.name for day in storage.list_days()] == days
    assert [file.name for file in storage.list_files(days[1])] == ["2026/01/02/a-0.png"]
    assert list(storage.list_files("2024/01/01")) == []


def test_uploads_are_committed_to_the_folder_of_their_job(storage: ObjectStore) -> None:
    staged = storage.create_staging_area("inputs")
    uploads = [upload(staged), upload(staged, encoded(scene(31, 17))), upload(staged)]
    with pytest.raises(InvalidImage):
        upload(staged, b"no image")
    with staged.start_upload() as body:
        body.write(b"JSON")
        assert body.size == 4

    held = staged.holds_files
    staged.commit("job")
    assert (held, staged.holds_files) == (True, False)

    assert uploads[0].reference == uploads[2].reference
    assert uploads[1].header.size == (31, 17)
    names = [f"inputs/job/{stored.reference.removeprefix('sha256:')}" for stored in uploads[:2]]
    assert all_names(storage) == set(names)
    assert storage.read(names[0]) == IMAGE
    (folder,) = storage.list_folders("inputs")
    assert (folder.name, folder.files) == ("job", 2)
    assert folder.bytes == len(IMAGE) + len(encoded(scene(31, 17)))

    storage.remove_folder("inputs/job")
    storage.remove_folder("inputs/job")
    assert list(storage.list_folders("inputs")) == []


def test_discarded_uploads_leave_no_files(storage: ObjectStore, tmp_path: Path) -> None:
    staged = storage.create_staging_area("inputs")
    upload(staged)
    staged.discard()

    assert all_names(storage) == set()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_working_storage_is_writable(storage: ObjectStore) -> None:
    assert storage.disk_usage().is_writable


def test_a_folder_reports_its_free_space_and_whether_it_is_writable(tmp_path: Path) -> None:
    assert (FolderStore(tmp_path).disk_usage().free_bytes or 0) > 0
    assert FolderStore(tmp_path / "missing").disk_usage() != FolderStore(tmp_path).disk_usage()
    assert not FolderStore(tmp_path / "missing").disk_usage().is_writable


@pytest.mark.parametrize("size", [3, 8, 1000])
def test_all_chunks_of_a_file_come_from_one_version(bucket: BucketStore, size: int) -> None:
    async def stream(*, replace: bool) -> bytes:
        first = await bucket.read_chunk(NAME, 2, min(18, 2 + size))
        assert first is not None
        assert (first.size, len(first.data)) == (20, min(size, 16))
        if replace:
            bucket.remove([NAME])
            bucket.create(NAME, b"x" * 20, "b")
        return b"".join([chunk async for chunk in stream_chunks(bucket, NAME, first, 2, 18, size)])

    bucket.create(NAME, bytes(range(20)), "a")
    assert asyncio.run(stream(replace=False)) == bytes(range(2, 18))
    if size < 16:
        with pytest.raises(StorageUnavailable):
            asyncio.run(stream(replace=True))


def test_a_chunk_of_a_missing_file_is_none(bucket: BucketStore) -> None:
    assert asyncio.run(bucket.read_chunk(NAME, 0, 1)) is None
