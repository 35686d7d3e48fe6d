"""A fingerprint that changes whenever a model's images may change."""

import hashlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

#: Libraries that influence the images.
LIBRARIES = ("torch", "diffusers", "transformers")


def fingerprint(paths: Iterable[Path], *settings: object) -> str:
    """A hash of the libraries' versions, of `settings`, and of the path, size and modification time of every file."""
    digest = hashlib.sha256(repr([*map(version, LIBRARIES), *map(str, settings)]).encode())
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            stat = file.stat()
            digest.update(f"{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def revision_of(paths: Iterable[Path]) -> str:
    """A short hash of the path, size and modification time of every file, relative to the given ones."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            stat = file.stat()
            if not file.is_dir():
                digest.update(f"{file.relative_to(path)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
