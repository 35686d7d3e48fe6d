"""For the Makefile: whether `.venv` belongs to this folder, and which build of PyTorch to put into it.

Needs nothing but Python's own library.
"""

import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

VENV = Path(".venv")
#: The folder that the scripts in the environment name.
FOLDER_FILE = VENV / ".folder"
#: Any of them is there where an NVIDIA driver is, WSL's included.
DRIVER_FILES = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")
REACH_SECONDS = 5.0


def fit() -> None:
    """Scripts and the link to this code hold whole paths: they are changed where the folder was moved or copied.

    Fails where it cannot be told what to change.
    """
    here, made_in = os.path.realpath("."), _made_in()
    if made_in is None:
        sys.exit(1)
    if made_in != here:
        packages = VENV.glob("lib/python*/site-packages")
        links = [
            file for folder in packages for file in (*folder.glob("*imagegen*"), *folder.glob("*imagegen*/*.json"))
        ]
        for file in (*(VENV / "bin").iterdir(), *links, VENV / "pyvenv.cfg"):
            _change(file, made_in, here)
        print(f"The environment in .venv was made in {made_in}; now it belongs to this folder.")
    FOLDER_FILE.write_text(here)


def switch(choice: str, index: str) -> None:
    """To the build of PyTorch that is asked for by name, where another one is installed."""
    builds = [folder.name for folder in VENV.glob("lib/python*/site-packages/torch-*.dist-info")]
    if choice == "auto" or not builds or all((choice == "cpu") == ("+cpu" in build) for build in builds):
        return
    if choice == "cpu" and not _answers(f"{index}/torch/"):
        sys.exit(f"PyTorch stays with CUDA: {index}, which has it without, does not answer.")
    print(f"Installing PyTorch anew, because of TORCH={choice}")
    pip = (sys.executable, "-m", "pip")
    subprocess.run((*pip, "uninstall", "--quiet", "--yes", "torch"), check=True)
    options = ("--extra-index-url", index) if choice == "cpu" else ()
    subprocess.run((*pip, "install", "--quiet", "--constraint", "constraints.txt", *options, "torch"), check=True)


def _made_in() -> str | None:
    if FOLDER_FILE.is_file():
        return FOLDER_FILE.read_text()
    try:
        command = next(line for line in (VENV / "pyvenv.cfg").read_text().splitlines() if line.startswith("command = "))
    except (OSError, StopIteration):
        return None
    begin = command.rfind(" /")
    return os.path.realpath(command[begin + 1 :].removesuffix(f"/{VENV}")) if begin > 0 else None


def _change(file: Path, old: str, new: str) -> None:
    if file.is_symlink() or not file.is_file():
        return
    data = file.read_bytes()
    # Programs that are no scripts name no folder, and would not run with a name of another length.
    if b"\0" not in data and f"{old}/".encode() in data:
        file.write_bytes(data.replace(f"{old}/".encode(), f"{new}/".encode()))


def torch(choice: str, index: str) -> None:
    """Prints pip's options for the build of PyTorch that is wanted: cpu, cuda, or auto for what fits this machine."""
    if choice not in ("auto", "cpu", "cuda"):
        sys.exit(f"TORCH={choice} is no build of PyTorch; there are auto, cpu and cuda.")
    if sys.platform != "linux" or choice == "cuda" or (choice == "auto" and _has_driver()):
        return
    if choice == "auto" and _installed():
        return
    if _answers(f"{index}/torch/"):
        _say(
            "No NVIDIA driver is here: PyTorch comes without CUDA, 1.3 GB in place of 5.1. With it: make run TORCH=cuda"
        )
        print(f"--extra-index-url {index}")
    else:
        _say(f"PyTorch comes with CUDA, 5.1 GB: {index}, which has it without, does not answer.")


def _has_driver() -> bool:
    return shutil.which("nvidia-smi") is not None or any(Path(file).exists() for file in DRIVER_FILES)


def _installed() -> bool:
    return any(VENV.glob("lib/python*/site-packages/torch/__init__.py"))


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=REACH_SECONDS) as answer:  # noqa: S310 - the Makefile's own
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["fit"]:
            fit()
        case ["switch", choice, index]:
            switch(choice, index)
        case ["torch", choice, index]:
            torch(choice, index)
