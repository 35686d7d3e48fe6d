"""A disk that fails for a moment is not mistaken for a missing file."""

import os
import resource
import shutil
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
from tests.shared.storage.disk_faults import UNREADABLE, no_file_handles
from tests.stack import Stack
from tests.worker.bench import Bench, wake
from worker.engines.null import NullEngine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="simulates disk faults in ways of Linux")
NAME = "2026/11/23/a-0.png"
SHORT_TIMEOUTS = StorageTimeouts(retry_seconds=0.1, request_seconds=1)


@pytest.fixture
def bench(redis_url: str, tmp_path: Path) -> Bench:
    return Bench(redis_url, f"{tmp_path.name}:", tmp_path / "outputs")


def test_an_unreadable_file_is_not_reported_as_missing(tmp_path: Path) -> None:
    folder = FolderStore(tmp_path, SHORT_TIMEOUTS)
    folder.create(NAME, b"x", "a")
    folder.remove([NAME])
    folder.path(NAME).symlink_to(UNREADABLE)

    with pytest.raises(StorageUnavailable):
        folder.read(NAME)


def test_reads_and_writes_are_retried_while_the_disk_fails(tmp_path: Path) -> None:
    folder = FolderStore(tmp_path, StorageTimeouts(retry_seconds=60, request_seconds=1))
    folder.create(NAME, b"x", "a")
    results = list[object]()
    reader = threading.Thread(target=lambda: results.append(folder.read(NAME)))
    writer = threading.Thread(target=lambda: results.append(folder.create("2026/11/24/b-0.png", b"y", "b")))

    with no_file_handles():
        for thread in (reader, writer):
            thread.start()
        reader.join(0.3)
        assert results == []
    for thread in (reader, writer):
        thread.join(60)

    assert results in ([b"x", True], [True, b"x"])
    assert folder.read("2026/11/24/b-0.png") == b"y"


def test_operations_raise_storage_unavailable_if_the_disk_keeps_failing(tmp_path: Path) -> None:
    folder = FolderStore(tmp_path, SHORT_TIMEOUTS)
    folder.create(NAME, b"x", "a")

    with no_file_handles():
        for operation in (
            lambda: folder.read(NAME),
            lambda: folder.create("2026/11/23/b-0.png", b"x", "b"),
            lambda: list(folder.list_files("2026/11/23")),
            lambda: folder.list_days(),
            lambda: folder.create_staging_area("inputs").start_upload(),
        ):
            with pytest.raises(StorageUnavailable):
                operation()
    assert folder.read("2026/11/23/c-0.png") is None


def test_a_job_survives_a_moment_in_which_its_input_image_is_unreadable(bench: Bench) -> None:
    job = bench.submit([encoded(scene())])
    images = ImageStore(FolderStore(bench.folder, StorageTimeouts(retry_seconds=60, request_seconds=1)))
    runner = bench.runner(NullEngine(), images)
    name = next(path for path in bench.folder.rglob("*") if path.is_file())
    moved = name.rename(bench.folder / "moved")
    name.symlink_to(UNREADABLE)
    worker = threading.Thread(target=wake, args=(runner,))

    worker.start()
    worker.join(0.5)
    assert bench.read(job).state == "queued"
    moved.replace(name)
    worker.join(60)

    assert bench.read(job).state == "succeeded"


def test_requests_get_503_while_the_api_can_open_no_files(null: Stack) -> None:
    path = null.api.post("/api/txt2img", {"prompt": "x"}).json()["links"]["self"] + "/images/0"
    assert null.api.get(path).status_code == 200
    process = psutil.Process(null.api.process.pid)
    limits = process.rlimit(resource.RLIMIT_NOFILE)
    # Open files stay open, among them the standard streams, which have the only numbers below this limit.
    process.rlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        answers = [null.api.get(path), null.api.get(path, headers={"Range": "bytes=0-1"})]
    finally:
        process.rlimit(resource.RLIMIT_NOFILE, limits)

    for answer in answers:
        assert_problem(answer, 503, "storage-unavailable")
        assert int(answer.headers["retry-after"]) > 0
    assert null.api.get(path).status_code == 200


def test_a_file_and_its_folders_are_synced_before_create_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, fsync, link = list[str](), os.fsync, os.link

    def record_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path)
        steps.append("image" if path.parent.name == ".staging" else path.as_posix())
        fsync(descriptor)

    def record_link(source: Path, target: Path) -> None:
        steps.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "link", record_link)

    FolderStore(tmp_path).create(NAME, b"x", "a")
    FolderStore(tmp_path).create(NAME, b"another", "b")

    end_of_first = steps.index("link") + 2
    first, second = steps[:end_of_first], steps[end_of_first:]
    assert first == [".", "image", ".", "2026", "2026/11", "link", "2026/11/23"]
    assert second == ["image", "link", "2026/11/23"]


def test_a_disk_without_links_never_replaces_a_file_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    folder = FolderStore(tmp_path)

    assert [folder.create(NAME, data, "a") for data in (b"first", b"second")] == [True, False]
    assert folder.read(NAME) == b"first"


def test_a_folder_that_cannot_be_removed_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = FolderStore(tmp_path)
    folder.create("inputs/job/image", b"x", "a")

    def fail(_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shutil, "rmtree", fail)
    folder.remove_folder("inputs/job")

    assert f"{tmp_path}/inputs/job could not be removed: Input/output error" in caplog.text
