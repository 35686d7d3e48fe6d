"""A machine with several GPUs: a worker of each local backend for each, pinned to it and named by it."""

import os
from importlib import metadata
from pathlib import Path

import pytest

from compose.cli.logs import LogFilter
from compose.launcher import services
from compose.launcher.log_files import LogLine
from shared.jobs.types import Backend
from shared.settings.launcher import LauncherSettings
from shared.workers import gpus
from shared.workers.gpus import installed_gpus, visible_gpus


def planned(backend: Backend, count: int, **settings: str) -> dict[str, dict[str, str]]:
    given = LauncherSettings(**settings)
    return {service.name: dict(service.env) for service in services.workers(given, {"SD_X": "1"}, backend, count)}


def test_each_gpu_gets_a_worker_of_each_local_backend() -> None:
    assert planned(Backend.SD, 2) == {
        f"worker-sd-cuda{number}": {
            "SD_X": "1",
            "SD_BACKEND": "sd",
            "SD_DEVICE": f"cuda:{number}",
            "SD_HOST_WORKERS": "2",
        }
        for number in (0, 1)
    }
    assert len(planned(Backend.FLUX_LOCAL, 8)) == 8


@pytest.mark.parametrize(
    ("backend", "count", "device"),
    [
        (Backend.SD, 0, "auto"),
        (Backend.SD, 1, "auto"),
        (Backend.SD, 4, "cuda:2"),
        (Backend.SD, 4, "cpu"),
        (Backend.FLUX_API, 4, "auto"),
        (Backend.NULL, 4, "auto"),
    ],
)
def test_everything_else_is_one_worker_as_before(backend: Backend, count: int, device: str) -> None:
    assert planned(backend, count, device=device) == {
        f"worker-{backend}": {"SD_X": "1", "SD_BACKEND": str(backend)},
    }


def test_the_nodes_of_a_backend_have_different_names() -> None:
    given = LauncherSettings()

    commands = [service.command for service in services.workers(given, {}, Backend.SD, 3)]

    assert [command[-1] for command in commands] == [f"sd-cuda{number}" for number in range(3)]


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "version", lambda _: "2.13.0")


@pytest.mark.usefixtures("cuda_build")
@pytest.mark.parametrize(
    ("visible", "count"),
    [
        (None, 4),
        ("0", 1),
        ("1,3", 2),
        ("0, 1", 2),
        ("", 0),
        ("-1", 0),
        ("0,-1,2", 1),
        ("0,4,1", 1),
        ("1,1", 0),
        ("GPU-8932f937,GPU-12", 2),
        ("GPU-8932f937,1", 1),
        ("MIG-1,MIG-2", 1),
    ],
)
def test_gpus_are_those_that_cuda_shows(visible: str | None, count: int) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}

    assert visible_gpus(environment, lambda: 4) == count


@pytest.mark.parametrize("build", ["2.13.0+cpu", None])
def test_a_pytorch_without_cuda_has_no_gpus(build: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if build is None:
            raise metadata.PackageNotFoundError(name)
        return build

    monkeypatch.setattr(gpus, "version", version)

    assert visible_gpus({}, lambda: 4) == 0


def test_installed_gpus_are_counted_by_the_driver(tmp_path: Path) -> None:
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()

    assert installed_gpus(tmp_path) == 2


@pytest.mark.parametrize(
    ("script", "count"),
    [("echo 'GPU 0: H100 (UUID: x)'; echo 'GPU 1: H100 (UUID: y)'", 2), ("echo 'No devices were found'; exit 6", 0)],
)
def test_without_the_folder_of_the_driver_its_program_lists_them(
    script: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    assert installed_gpus(tmp_path / "none") == count


def test_logs_of_a_backend_are_those_of_all_its_workers() -> None:
    log_filter, single = LogFilter(["worker-sd"], None), LogFilter(["worker-sd-cuda1"], None)
    lines = [LogLine(f"worker-{name}", "x") for name in ("sd-cuda0", "sd-cuda1", "sd", "flux-local-cuda0")]

    assert [log_filter.matches(line) for line in lines] == [True, True, True, False]
    assert [single.matches(line) for line in lines] == [False, True, False, False]
