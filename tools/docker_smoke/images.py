"""The images: built as a commit has them, small, without secrets, and built again in seconds."""

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.docker_smoke.checks import ROOT, Failed, check, inspect, run, timed
from tools.docker_smoke.stack import CANARY

IMAGES = {
    "imagegen-api": ("Dockerfile.api",),
    "imagegen-worker-slim": ("Dockerfile.worker", "--target", "slim"),
    "imagegen-worker": ("Dockerfile.worker",),
}


def images(options: argparse.Namespace) -> None:
    with context() as folder:
        build(folder, options)
        with (folder / "shared/errors.py").open("a") as code:
            code.write("# changed\n")
        print("  ...   again, after a change of code")
        spent = timed(lambda: build(folder, options))
        check(spent < 90, "a change of code builds all three again in seconds", f"{spent:.1f} s")
    base = int(inspect("python:3.11-slim-bookworm", ".Size"))
    for image in IMAGES:
        size = int(inspect(image, ".Size"))
        print(f"  ...   {image}: {size / 1e6:.0f} MB, {(size - base) / 1e6:.0f} MB of it above the Python base")
        check(inspect(image, ".Config.User") == "10001:10001", f"{image} does not run as root")
        check(not holds_canary(image), f"{image} holds no secret and no file that is not the service's, in no layer")
    check(int(inspect("imagegen-api", ".Size")) < 250e6, "the API's image is smaller than 250 MB")
    for image in ("imagegen-api", "imagegen-worker-slim"):
        run("docker", "run", "--rm", image, "python3", "-c", "import torch", fails=True)
        check(True, f"{image} has no torch")


@contextmanager
def context() -> Iterator[Path]:
    """The sources as a commit would have them, and beside them what must never get into an image."""
    with tempfile.TemporaryDirectory() as folder:
        for name in run("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
            if (ROOT / name).is_file():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, Path(folder) / name)
        for name in (".env", "outputs/private.txt", "data/appendonly.aof", "api/.env", "worker/.env.local"):
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_text(f"SD_API_KEY={CANARY}\n")
        yield Path(folder)


def build(folder: Path, options: argparse.Namespace) -> None:
    for image, (dockerfile, *target) in IMAGES.items():
        index = () if options.torch_index is None else ("--build-arg", f"TORCH_INDEX={options.torch_index}")
        network = ("--network", options.network) if options.network else ()
        torch = index if image == "imagegen-worker" else ()
        command = ("docker", "build", *network, *torch, "-f", dockerfile, *target, "-t", image, ".")
        print(f"  ...   {image} built in {timed(lambda c=command: run(*c, cwd=folder)):.1f} s", flush=True)  # type: ignore[misc]


def holds_canary(image: str) -> bool:
    with subprocess.Popen(("docker", "save", image), stdout=subprocess.PIPE) as save:  # noqa: S603, S607
        if save.stdout is None:
            raise Failed("docker save has no output")
        before, found = b"", False
        while chunk := save.stdout.read(1 << 20):
            found = found or CANARY.encode() in before + chunk
            before = chunk[-len(CANARY) :]
    return found
