"""For the Makefile: repairs a `.venv` that was moved, and chooses the build of PyTorch; needs no other package."""

import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

VENV = Path(".venv")
#: Contains the path that the scripts in the environment name.
FOLDER_FILE = VENV / ".folder"
#: At least one of them exists where an NVIDIA driver is installed, WSL included.
DRIVER_FILES = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")
TIMEOUT_SECONDS = 5.0
#: Linux before 5.1 reads this much of a script's first line; later ones read 255.
MAX_FIRST_LINE_BYTES = 127


def relocate() -> None:
    """Replaces the old path in scripts, and in the link to this code, if the folder was moved or copied.

    Exits with 1 if the old path is unknown, or with a reason on standard output if that is another.
    """
    current, old = os.path.realpath("."), _created_in()
    if not _is_utf_8(current):
        # Python does not find its own files there.
        print("The name of this folder is not UTF-8 text: rename it")
        sys.exit(1)
    if old is None:
        sys.exit(1)
    if old != current:
        packages = VENV.glob("lib/python*/site-packages")
        links = [
            file for folder in packages for file in (*folder.glob("*imagegen*"), *folder.glob("*imagegen*/*.json"))
        ]
        try:
            for file in (*(VENV / "bin").iterdir(), *links, VENV / "pyvenv.cfg"):
                _replace_path(file, old, current)
            FOLDER_FILE.write_bytes(os.fsencode(current))
        except OSError as error:
            print(f"The environment in .venv was created in {old} and cannot be changed: {error.strerror}")
            sys.exit(1)
        print(f"The environment in .venv was created in {old}; now it belongs to this folder.")
    elif not FOLDER_FILE.is_file():
        FOLDER_FILE.write_bytes(os.fsencode(current))


def switch_torch(build: str, index: str) -> None:
    """Reinstalls PyTorch if another build is installed than the one asked for by name."""
    installed = [folder.name for folder in VENV.glob("lib/python*/site-packages/torch-*.dist-info")]
    if build == "auto" or not installed or all((build == "cpu") == ("+cpu" in name) for name in installed):
        return
    if build == "cpu" and not _responds(f"{index}/torch/"):
        sys.exit(f"PyTorch stays with CUDA: {index}, which has the build without, does not respond.")
    print(f"Reinstalling PyTorch because of TORCH={build}")
    pip = (sys.executable, "-m", "pip")
    subprocess.run((*pip, "uninstall", "--quiet", "--yes", "torch"), check=True)  # noqa: S603 - all of it from here
    options = ("--extra-index-url", index) if build == "cpu" else ()
    subprocess.run((*pip, "install", "--quiet", "--constraint", "constraints.txt", *options, "torch"), check=True)  # noqa: S603


def torch_options(build: str, index: str) -> None:
    """Prints pip's options for the build of PyTorch: cpu, cuda, or auto for what fits this machine."""
    if build not in ("auto", "cpu", "cuda"):
        sys.exit(f"TORCH={build} is not a build of PyTorch: choose auto, cpu or cuda.")
    if sys.platform != "linux" or build == "cuda" or (build == "auto" and _has_driver()):
        return
    if build == "auto" and _is_torch_installed():
        return
    if _responds(f"{index}/torch/"):
        _inform(
            "No NVIDIA driver found: installing PyTorch without CUDA, 1.3 GB instead of 5.1. To install it with CUDA: "
            "make run TORCH=cuda"
        )
        print(f"--extra-index-url {index}")
    else:
        _inform(f"Installing PyTorch with CUDA, 5.1 GB: {index}, which has the build without, does not respond.")


def _is_utf_8(path: str) -> bool:
    try:
        return bool(os.fsencode(path).decode())
    except UnicodeDecodeError:
        return False


def _created_in() -> str | None:
    if FOLDER_FILE.is_file():
        return os.fsdecode(FOLDER_FILE.read_bytes())
    try:
        lines = os.fsdecode((VENV / "pyvenv.cfg").read_bytes()).splitlines()
        command = next(line for line in lines if line.startswith("command = "))
    except (OSError, StopIteration):
        return None
    begin = command.rfind(" /")
    return os.path.realpath(command[begin + 1 :].removesuffix(f"/{VENV}")) if begin > 0 else None


def _replace_path(file: Path, old: str, new: str) -> None:
    if file.is_symlink() or not file.is_file():
        return
    data = file.read_bytes()
    before, after = os.fsencode(f"{old}/"), os.fsencode(f"{new}/")
    # Strings of Python have quotes of either kind.
    after = _escaped(after) if file.suffix == ".py" else after
    # Binary programs name no folder, and would not run with a path of another length.
    if b"\0" not in data and (before in data or _escaped(before) in data):
        file.write_bytes(_executable(data.replace(_escaped(before), after).replace(before, after), after))


def _escaped(path: bytes) -> bytes:
    return path.replace(b"\\", rb"\\").replace(b"'", rb"\'").replace(b'"', b'\\"')


def _executable(script: bytes, folder: bytes) -> bytes:
    """A kernel ends the path of an interpreter at a space or after some bytes, so a shell starts Python, as in scripts
    that pip writes.
    """
    first, _, rest = script.partition(b"\n")
    has_other_form = b" " in folder or len(first) > MAX_FIRST_LINE_BYTES
    if not (has_other_form and first.startswith(b"#!" + folder)):
        return script
    interpreter = first.removeprefix(b"#!")
    return b"#!/bin/sh\n'''exec' \"%b\" \"$0\" \"$@\"\n' '''\n%b" % (interpreter, rest)


def _has_driver() -> bool:
    return shutil.which("nvidia-smi") is not None or any(Path(file).exists() for file in DRIVER_FILES)


def _is_torch_installed() -> bool:
    return any(VENV.glob("lib/python*/site-packages/torch/__init__.py"))


def _responds(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 - from the Makefile
            return bool(response.status == 200)
    except (OSError, ValueError):
        return False


def _inform(sentence: str) -> None:
    """On standard error, because the Makefile reads standard output."""
    print(sentence, file=sys.stderr)


if __name__ == "__main__":
    # Names of folders may have bytes that are not UTF-8.
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    match sys.argv[1:]:
        case ["relocate"]:
            relocate()
        case ["switch-torch", build, index]:
            switch_torch(build, index)
        case ["torch-options", build, index]:
            torch_options(build, index)
