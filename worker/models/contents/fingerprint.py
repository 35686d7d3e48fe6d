"""A fingerprint that changes whenever a model's images may change."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

#: Libraries that influence the images.
LIBRARIES = ("torch", "diffusers", "transformers")


def fingerprint(paths: Iterable[Path], *settings: object) -> str:
    """A hash of the libraries' versions, of `settings`, and of the revisions of these files and folders."""
    revisions = [f"{path} {revision_of(path)}" for path in paths]
    return hashlib.sha256(repr([*_versions(), *map(str, settings), *revisions]).encode()).hexdigest()


@cache
def _versions() -> Sequence[str]:
    """Once, because each has to be found in a file."""
    return [version(library) for library in LIBRARIES]


def revision_of_files(files: Iterable[tuple[str, str]]) -> str:
    """A short hash of names and what changes with the files, such as size and modification time."""
    digest = hashlib.sha256()
    for name, state in files:
        digest.update(f"{name} {state}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def revision_of(path: Path) -> str:
    """Of a file, or of all files in a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(file.relative_to(path).as_posix(), file.stat()) for file in files if file.is_file()]
    return revision_of_files((name, f"{found.st_size} {found.st_mtime_ns}") for name, found in stats)
