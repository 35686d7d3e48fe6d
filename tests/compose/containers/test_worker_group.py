"""A container with several GPUs: one worker for each, which live and end together."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compose.container import worker_group
from compose.container.worker_group import WorkerGroup
from shared.jobs.types import Backend
from shared.workers.gpus import worker_slots
from tests.support.polling import wait_until
from tests.support.process import Process

#: Stands for a worker: says what it was given, touches its file, and ends with the code in a file named by its device.
WORKER = """
import os, pathlib, sys, time
folder, device = pathlib.Path(os.environ["FOLDER"]), os.environ["SD_DEVICE"]
(folder / f"started-{device}").write_text(os.environ["SD_HOST_WORKERS"] + " " + sys.argv[1])
end = folder / f"end-{device}"
while not (code := end.exists() and end.read_text()):
    pathlib.Path(os.environ["SD_ALIVE_FILE"]).touch()
    time.sleep(0.05)
sys.exit(int(code))
"""


@contextmanager
def running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[WorkerGroup, list[int]]]:
    monkeypatch.setattr(worker_group, "command", lambda name: (sys.executable, "-c", WORKER, name))
    monkeypatch.setattr(worker_group, "TICK_SECONDS", 0.05)
    slots = list(worker_slots(Backend.SD, "auto", 2))
    group = WorkerGroup(slots, str(folder / "alive"), {**os.environ, "FOLDER": str(folder)})
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(group.run()))
    thread.start()
    try:
        yield group, codes
    finally:
        group.stop()
        thread.join(20)


def test_each_gpu_has_a_worker_and_the_container_is_healthy_once_all_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path, monkeypatch):
        wait_until((tmp_path / "alive").exists)

        started = {file.name: file.read_text() for file in tmp_path.glob("started-*")}
        assert started == {"started-cuda:0": "2 sd-cuda0", "started-cuda:1": "2 sd-cuda1"}


def test_a_worker_that_ends_ends_the_container_with_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, monkeypatch) as (_, codes):
        wait_until((tmp_path / "alive").exists)

        (tmp_path / "end-cuda:1").write_text("7")

        wait_until(lambda: bool(codes))
        assert codes == [7]


def test_stopping_the_container_stops_every_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, monkeypatch) as (group, codes):
        wait_until((tmp_path / "alive").exists)

        group.stop()

        wait_until(lambda: bool(codes))


def test_with_one_gpu_the_container_becomes_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[tuple[object, dict[str, str]]] = []
    monkeypatch.setattr(os, "execvpe", lambda _, command, environment: became.append((command, environment)))
    monkeypatch.setattr(worker_group, "visible_gpus", lambda _: 1)
    # In a real process, nothing comes after becoming another program.
    monkeypatch.setattr(WorkerGroup, "run", lambda _: 0)
    monkeypatch.setattr(WorkerGroup, "__init__", lambda *_: None)

    worker_group.main({"SD_BACKEND": "flux-local", "A": "b"})

    ((command, environment),) = became
    assert command == worker_group.command("flux-local")
    assert environment == {"SD_BACKEND": "flux-local", "A": "b"}


def test_a_misspelt_backend_is_named_in_one_sentence(tmp_path: Path) -> None:
    process = Process([sys.executable, "-m", "compose.container.worker_group"], tmp_path, {"SD_BACKEND": "sdd"})

    assert process.wait() == 1
    assert process.output.startswith("SD_BACKEND is wrong: must be one of")
