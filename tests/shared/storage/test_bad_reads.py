"""A file that cannot be read now is not taken for one that is gone."""

import os
import resource
import sys
import threading
from pathlib import Path

import psutil
import pytest

from shared.errors import StorageUnavailable
from shared.storage.folder import FolderStore
from shared.storage.images import ImageStore
from shared.storage.object_store import StorageTimeouts
from tests.api.images import encoded, scene
from tests.api.problem import assert_problem
from tests.shared.storage.handles import UNREADABLE, no_handles
from tests.stack import Stack
from tests.worker.bench import Bench, wake
from worker.engines.null import NullEngine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="makes disks fail as Linux lets it")
NAME = "2026/11/23/a-0.png"
HASTY = StorageTimeouts(retry_seconds=0.1, request_seconds=1)


@pytest.fixture
def bench(redis_url: str, tmp_path: Path) -> Bench:
    return Bench(redis_url, f"{tmp_path.name}:", tmp_path / "outputs")


def test_a_disk_that_cannot_be_read_is_not_answered_with_none(tmp_path: Path) -> None:
    folder = FolderStore(tmp_path, HASTY)
    folder.create(NAME, b"x", "a")
    folder.remove([NAME])
    folder.path(NAME).symlink_to(UNREADABLE)

    with pytest.raises(StorageUnavailable):
        folder.read(NAME)


def test_what_cannot_be_read_or_written_for_a_moment_is_tried_again(tmp_path: Path) -> None:
    folder = FolderStore(tmp_path, StorageTimeouts(retry_seconds=10, request_seconds=1))
    folder.create(NAME, b"x", "a")
    found = list[object]()
    reading = threading.Thread(target=lambda: found.append(folder.read(NAME)))
    writing = threading.Thread(target=lambda: found.append(folder.create("2026/11/24/b-0.png", b"y", "b")))

    with no_handles():
        for each in (reading, writing):
            each.start()
        reading.join(0.3)
        assert found == []
    for each in (reading, writing):
        each.join(10)

    assert found in ([b"x", True], [True, b"x"])
    assert folder.read("2026/11/24/b-0.png") == b"y"


def test_what_goes_on_failing_ends_in_one_clear_error(tmp_path: Path) -> None:
    folder = FolderStore(tmp_path, HASTY)
    folder.create(NAME, b"x", "a")

    with no_handles():
        for work in (
            lambda: folder.read(NAME),
            lambda: folder.create("2026/11/23/b-0.png", b"x", "b"),
            lambda: list(folder.list_files("2026/11/23")),
            lambda: folder.list_days(),
            lambda: folder.create_staging_area("inputs").start_upload(),
        ):
            with pytest.raises(StorageUnavailable):
                work()
    assert folder.read("2026/11/23/c-0.png") is None


def test_a_job_whose_image_cannot_be_read_for_a_moment_is_done(bench: Bench) -> None:
    job = bench.submit([encoded(scene())])
    patient = ImageStore(FolderStore(bench.folder, StorageTimeouts(retry_seconds=20, request_seconds=1)))
    runner = bench.runner(NullEngine(), patient)
    name = next(path for path in bench.folder.rglob("*") if path.is_file())
    held = name.rename(bench.folder / "held")
    name.symlink_to(UNREADABLE)
    running = threading.Thread(target=wake, args=(runner,))

    running.start()
    running.join(0.5)
    assert bench.read(job).state == "queued"
    held.replace(name)
    running.join(20)

    assert bench.read(job).state == "succeeded"


def test_callers_are_told_to_come_back_while_no_file_can_be_opened(null: Stack) -> None:
    path = null.api.post("/api/txt2img", {"prompt": "x"}).json()["links"]["self"] + "/images/0"
    assert null.api.get(path).status_code == 200
    process = psutil.Process(null.api.process.pid)
    handles = {int(each.name) for each in Path(f"/proc/{process.pid}/fd").iterdir()}
    lowest = next(number for number in range(len(handles) + 1) if number not in handles)
    held = process.rlimit(resource.RLIMIT_NOFILE)
    process.rlimit(resource.RLIMIT_NOFILE, (lowest, held[1]))
    try:
        answers = [null.api.get(path), null.api.get(path, headers={"Range": "bytes=0-1"})]
    finally:
        process.rlimit(resource.RLIMIT_NOFILE, held)

    for answer in answers:
        assert_problem(answer, 503, "storage-unavailable")
        assert int(answer.headers["retry-after"]) > 0
    assert null.api.get(path).status_code == 200


def test_a_file_and_the_folders_that_name_it_are_on_the_disk_before_it_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, sync, link = list[str](), os.fsync, os.link

    def synced(descriptor: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path)
        done.append("image" if place.parent.name == ".staging" else place.as_posix())
        sync(descriptor)

    def linked(source: Path, target: Path) -> None:
        done.append("named")
        link(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)

    FolderStore(tmp_path).create(NAME, b"x", "a")
    FolderStore(tmp_path).create(NAME, b"another", "b")

    first, second = done[: done.index("named") + 2], done[done.index("named") + 2 :]
    assert first == [".", "image", ".", "2026", "2026/11", "named", "2026/11/23"]
    assert second == ["image", "named", "2026/11/23"]


def test_a_disk_without_links_keeps_what_is_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    folder = FolderStore(tmp_path)

    assert [folder.create(NAME, data, "a") for data in (b"first", b"second")] == [True, False]
    assert folder.read(NAME) == b"first"
