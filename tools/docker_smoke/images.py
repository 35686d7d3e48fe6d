"""Builds the images from a clean clone and checks them: small, without secrets, quick to rebuild."""

import argparse
import shutil
import subprocess
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tools.docker_smoke.checks import ROOT, check, inspect, run, timed
from tools.docker_smoke.stack import CANARY

BASE = "python:3.11-slim-bookworm"
#: 250 MB minus the published python:3.11-slim-bookworm; a prepared base may be larger.
MAX_ADDED_BYTES = 110e6
IMAGES = {
    "imagegen-api": ("Dockerfile.api",),
    "imagegen-worker-slim": ("Dockerfile.worker", "--target", "slim"),
    "imagegen-worker": ("Dockerfile.worker",),
}


def check_images(folder: Path, options: argparse.Namespace) -> None:
    build(folder, options)
    code = folder / "shared/errors.py"
    before = code.read_text()
    code.write_text(f"{before}# {time.time_ns()}\n")
    print("  ...   rebuilding after a change of code")
    seconds = timed(lambda: build(folder, options, tag=":changed"))
    code.write_text(before)
    run("docker", "rmi", *(f"{image}:changed" for image in IMAGES))
    # Not part of a fresh clone.
    (folder / ".env").unlink()
    check(seconds < 90, "after a change of code, all three are rebuilt in seconds", f"{seconds:.1f} s")
    base = base_size()
    for image in IMAGES:
        size = int(inspect(image, ".Size"))
        print(f"  ...   {image}: {size / 1e6:.0f} MB, {(size - base) / 1e6:.0f} MB more than the Python base")
        check(inspect(image, ".Config.User") == "10001:10001", f"{image} does not run as root")
        check(not contains_canary(image), f"no layer of {image} contains a secret or a foreign file")
    added = int(inspect("imagegen-api", ".Size")) - base
    check(
        added < MAX_ADDED_BYTES,
        "the API's image is smaller than 250 MB on the published base",
        f"adds {added / 1e6:.0f} MB",
    )
    for image in ("imagegen-api", "imagegen-worker-slim"):
        run("docker", "run", "--rm", image, "python3", "-c", "import torch", fails=True)
        check(True, f"{image} has no torch")


@contextmanager
def build_context() -> Iterator[Path]:
    """The sources as in a clone that only its owner may read, and files that must never get into an image."""
    with tempfile.TemporaryDirectory() as folder:
        for name in run("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
            if (ROOT / name).is_file():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, Path(folder) / name)
        for name in (".env", "outputs/private.txt", "data/appendonly.aof", "api/.env", "worker/.env.local"):
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_text(f"SD_API_KEY={CANARY}\n")
        for path in Path(folder).rglob("*"):
            path.chmod(path.stat().st_mode & 0o700)
        yield Path(folder)


def build(folder: Path, options: argparse.Namespace, tag: str = "") -> None:
    for image, (dockerfile, *target) in IMAGES.items():
        index = () if options.torch_index is None else ("--build-arg", f"TORCH_INDEX={options.torch_index}")
        network = ("--network", options.network) if options.network else ()
        torch = index if image == "imagegen-worker" else ()
        command = ("docker", "build", *network, *torch, "-f", dockerfile, *target, "-t", image + tag, ".")
        print(f"  ...   {image} built in {timed(lambda c=command: run(*c, cwd=folder)):.1f} s", flush=True)  # type: ignore[misc]


def contains_canary(image: str) -> bool:
    """Whether a file of any layer contains it, even one that a later layer removed."""
    command = ("docker", "save", image)
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as save,  # noqa: S603
        tarfile.open(fileobj=save.stdout, mode="r|") as layers,
    ):
        files = (layers.extractfile(member) for member in layers if member.isfile())
        # Reads every layer to its end, because the engine waits for its reader.
        return sum(layer_contains_canary(file) for file in files if file is not None) > 0


def layer_contains_canary(layer: IO[bytes]) -> bool:
    """Some engines compress the layers that they save."""
    first = layer.read(2)
    unpack = zlib.decompressobj(wbits=31).decompress if first == b"\x1f\x8b" else bytes
    tail, found, chunk = b"", False, first
    while chunk:
        text = tail + unpack(chunk)
        found = found or CANARY.encode() in text
        tail, chunk = text[-len(CANARY) :], layer.read(1 << 20)
    return found


def base_size() -> int:
    """Pulls the base, because current builders do not keep it under its name."""
    if not run("docker", "images", "--quiet", BASE):
        run("docker", "pull", "--quiet", BASE)
    return int(inspect(BASE, ".Size"))
