"""What every home of files promises, whichever it is."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.errors import InvalidImage, StorageUnavailable
from shared.storage.bucket import Bucket
from shared.storage.folder import Folder
from shared.storage.home import Arrived, Home, Staged, pieces
from tests.api.pictures import encoded, scene
from tests.storage.conftest import bucket_at
from tests.storage.s3 import S3Server

_numbers = itertools.count()
PICTURE = encoded(scene())
NAME = "2026/11/23/a-0.png"


@pytest.fixture
def bucket(s3: S3Server, tmp_path: Path) -> Bucket:
    return bucket_at(s3, s3.create(f"homes-{next(_numbers)}") + "/some/prefix", tmp_path)


@pytest.fixture(params=["folder", "bucket"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    home: Home = Folder(tmp_path) if request.param == "folder" else request.getfixturevalue("bucket")
    return home


def names(home: Home) -> set[str]:
    return {file.name for file in home.files()} - {".imagegen"}


def arrive(staged: Staged, data: bytes = PICTURE) -> Arrived:
    with staged.receive() as file:
        file.write(data[:10])
        file.write(data[10:])
        return file.finish(max_pixels=10**6)


def test_what_is_written_is_read_and_listed_until_it_is_removed(home: Home) -> None:
    home.write(NAME, b"first")
    home.write(NAME, b"second")

    assert home.read(NAME) == b"second"
    (file,) = [file for file in home.files() if file.name == NAME]
    assert file.size == 6
    assert abs(file.modified_at - datetime.now(UTC)) < timedelta(minutes=1)

    home.remove([NAME, "2026/11/23/never-was.png"])
    home.tidy()
    assert home.read(NAME) is None
    assert names(home) == set()
    home.remove([])


def test_pictures_that_come_in_are_kept_under_the_name_of_their_job(home: Home) -> None:
    staged = home.stage("inputs")
    arrived = [arrive(staged), arrive(staged, encoded(scene(31, 17))), arrive(staged)]
    with pytest.raises(InvalidImage):
        arrive(staged, b"no picture")
    with staged.receive() as body:
        body.write(b"JSON")
        assert (body.size, body.content()) == (4, b"JSON")

    assert staged.holds_files
    staged.keep("job")
    assert not staged.holds_files

    assert arrived[0].reference == arrived[2].reference
    assert arrived[1].header.size == (31, 17)
    kept = [f"inputs/job/{each.reference.removeprefix('sha256:')}" for each in arrived[:2]]
    assert names(home) == set(kept)
    assert home.read(kept[0]) == PICTURE
    (folder,) = home.folders("inputs")
    assert (folder.name, folder.files) == ("job", 2)
    assert folder.bytes == len(PICTURE) + len(encoded(scene(31, 17)))

    home.clear("inputs/job")
    home.clear("inputs/job")
    assert list(home.folders("inputs")) == []


def test_pictures_that_nobody_keeps_leave_nothing(home: Home, tmp_path: Path) -> None:
    staged = home.stage("inputs")
    arrive(staged)
    staged.drop()

    assert names(home) == set()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_home_that_works_has_room(home: Home) -> None:
    assert home.room().writable


def test_a_folder_tells_its_room_and_that_it_cannot_be_written(tmp_path: Path) -> None:
    assert (Folder(tmp_path).room().free_bytes or 0) > 0
    assert Folder(tmp_path / "missing").room() != Folder(tmp_path).room()
    assert not Folder(tmp_path / "missing").room().writable


@pytest.mark.parametrize("size", [3, 8, 1000])
def test_a_file_of_a_bucket_comes_in_pieces_of_one_version(bucket: Bucket, size: int) -> None:
    async def sent(*, meddle: bool) -> bytes:
        first = await bucket.piece(NAME, 2, min(18, 2 + size))
        assert first is not None
        assert (first.size, len(first.data)) == (20, min(size, 16))
        if meddle:
            bucket.write(NAME, b"x" * 20)
        return b"".join([piece async for piece in pieces(bucket, NAME, first, 2, 18, size)])

    bucket.write(NAME, bytes(range(20)))
    assert asyncio.run(sent(meddle=False)) == bytes(range(2, 18))
    if size < 16:
        with pytest.raises(StorageUnavailable):
            asyncio.run(sent(meddle=True))


def test_a_piece_of_what_is_not_there_is_none(bucket: Bucket) -> None:
    assert asyncio.run(bucket.piece(NAME, 0, 1)) is None
