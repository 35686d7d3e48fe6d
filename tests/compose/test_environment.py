"""The Makefile's environment works after its folder moved, and contains the PyTorch that fits the machine."""

import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.stack import free_port

ROOT = Path(__file__).parents[2]
HAS_DRIVER = shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What `make run` needs of a checkout; its environment prints which code it runs."""
    folder = tmp_path / "first"
    for package in ("compose/cli", "tools"):
        (folder / package).mkdir(parents=True)
    for name in (
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
        "compose/__init__.py",
        "compose/cli/__init__.py",
        "tools/__init__.py",
        "tools/virtual_environment.py",
    ):
        shutil.copy(ROOT / name, folder / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    (folder / "compose/cli/__main__.py").write_text("import link_to_imagegen\n")
    packages = next(folder.glob(".venv/lib/python*/site-packages"))
    (packages / "link_to_imagegen.py").write_text(f"print('runs', '{folder}/compose')\n")
    script = folder / ".venv/bin/imagegen"
    script.write_text(f"#!{folder}/.venv/bin/python\nimport sys\nprint(*sys.argv[1:])\n")
    script.chmod(0o755)
    (folder / ".venv/.run").touch()
    return folder


def make(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    # Without the variables of `make test`, which may run this.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(
        ["/usr/bin/env", "make", "run", *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_copied_folder_runs_its_code_and_reports_the_change_once(checkout: Path, tmp_path: Path) -> None:
    assert make(checkout).stdout == f"runs {checkout}/compose\n"
    other = tmp_path / "Anna's other"
    shutil.copytree(checkout, other, symlinks=True)

    first, second = make(other), make(other)

    assert first.stdout.splitlines() == [
        f"The environment in .venv was created in {checkout}; now it belongs to this folder.",
        f"runs {other}/compose",
    ]
    assert second.stdout == f"runs {other}/compose\n"
    # The name of the folder has a space, which the first line of a script cannot have.
    assert subprocess.check_output([other / ".venv/bin/imagegen", "a b", "c"], text=True) == "a b c\n"
    assert make(checkout).stdout == f"runs {checkout}/compose\n"


def test_a_moved_folder_runs_before_its_path_was_recorded(checkout: Path, tmp_path: Path) -> None:
    # Kernels read the beginning of a long first line of a script only.
    second = checkout.rename(tmp_path / ("second" * 40))

    done = make(second)

    assert done.stdout.endswith(f"runs {second}/compose\n"), done.stderr
    assert subprocess.check_output([second / ".venv/bin/imagegen", "c"], text=True) == "c\n"


def test_an_environment_of_unknown_origin_is_refused(checkout: Path) -> None:
    (checkout / ".venv/pyvenv.cfg").write_text("home = /usr/bin\n")

    done = make(checkout)

    assert done.returncode == 2
    assert "run `make clean` and try again" in done.stderr
    assert "runs" not in done.stdout


def test_a_missing_python_is_named(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")

    done = make(checkout, "PYTHON=python3.99")

    assert done.stdout.startswith("There is no program python3.99: name a Python 3.11 to 3.14")


@pytest.mark.parametrize("version", [(3, 10), (3, 15)])
def test_a_python_that_pytorch_is_not_built_for_is_refused(checkout: Path, version: tuple[int, int]) -> None:
    shutil.rmtree(checkout / ".venv")
    python = checkout / "python"
    code = f"import sys; sys.version_info = {version}; exec(sys.argv[1])"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{code}" "$2"\n')
    python.chmod(0o755)

    done = make(checkout, f"PYTHON={python}")

    assert done.stdout == "Python 3.11 to 3.14 is required; name it with: make run PYTHON=python3.14\n"
    assert not (checkout / ".venv").exists()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """An index of PyTorch's builds without CUDA."""
    (tmp_path / "index/torch").mkdir(parents=True)

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "index"))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def options(build: str, index: str, folder: Path, path: str = "/nowhere") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tools.virtual_environment", "torch-options", build, index]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyTorch comes without CUDA")
@pytest.mark.skipif(HAS_DRIVER, reason="an NVIDIA driver is here")
def test_a_machine_without_a_driver_gets_pytorch_without_cuda_if_its_index_responds(index: str, tmp_path: Path) -> None:
    found = options("auto", index, tmp_path)
    assert found.stdout == f"--extra-index-url {index}\n"
    assert "make run TORCH=cuda" in found.stderr

    unreachable = options("auto", f"http://127.0.0.1:{free_port()}", tmp_path)
    assert (unreachable.returncode, unreachable.stdout) == (0, "")
    assert "does not respond" in unreachable.stderr

    (tmp_path / "driver").mkdir()
    (tmp_path / "driver/nvidia-smi").touch(0o755)
    assert options("auto", index, tmp_path, path=str(tmp_path / "driver")).stdout == ""
    assert options("cpu", index, tmp_path, path=str(tmp_path / "driver")).stdout == f"--extra-index-url {index}\n"


def test_an_installed_pytorch_stays_and_a_named_build_wins(index: str, tmp_path: Path) -> None:
    assert options("cuda", index, tmp_path).stdout == ""
    assert "choose auto, cpu or cuda" in options("gpu", index, tmp_path).stderr

    (tmp_path / ".venv/lib/python3/site-packages/torch").mkdir(parents=True)
    (tmp_path / ".venv/lib/python3/site-packages/torch/__init__.py").touch()
    assert options("auto", index, tmp_path).stdout == ""
