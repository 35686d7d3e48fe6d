"""Walks through the folder of models, with one look at each file, for what may be a model."""

import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from worker.models.download_plans import PLAN_FILE
from worker.models.local_model import MODULAR_INDEX
from worker.models.overrides import OVERRIDES_FILE
from worker.models.required_files import MODEL_CONFIG, PIPELINE_INDEX
from worker.models.weight_files import ALL_SUFFIXES, FILE_SUFFIXES

#: Deeper folders and further files are ignored.
MAX_DEPTH, MAX_FILES, MAX_NAME = 8, 20_000, 200
SIDECAR = f".{OVERRIDES_FILE}"
#: Beside a file that aria2 is downloading.
DOWNLOAD_MARK = ".aria2"

#: Size, modification time in nanoseconds, and inode of a file by its path below the folder.
Signature = tuple[tuple[str, int, int, int], ...]
_Entries = Mapping[str, "os.DirEntry[str]"]


class CandidateKind(StrEnum):
    """In the order of inspection: files may need a folder as their base, and pairs claim a file."""

    FOLDER = "folder"
    PLANNED = "planned"
    """A folder whose download is not complete."""
    PAIR = "pair"
    """A folder with an imagegen.json that may name a transformer and its base."""
    FILE = "file"
    PICKLE = "pickle"
    OUTSIDE = "outside"
    """A symbolic link to a place outside, or to nothing."""


@dataclass(frozen=True)
class Candidate:
    name: str
    kind: CandidateKind
    path: Path
    signature: Signature = ()
    """Changes whenever a file of the candidate does."""
    sidecar: Path | None = None
    downloading: bool = False
    """Whether another program is downloading it, by the file beside it."""

    @property
    def full_name(self) -> str:
        """The name with the file's extension, if another model has the name without it."""
        return (
            f"{self.name}{self.path.suffix}" if self.kind in (CandidateKind.FILE, CandidateKind.PICKLE) else self.name
        )

    @property
    def size(self) -> int:
        return sum(size for path, size, *_ in self.signature if not path.endswith(OVERRIDES_FILE))

    @property
    def age(self) -> float:
        """Seconds since one of its files changed."""
        return time.time() - max((modified for _, _, modified, _ in self.signature), default=0) / 1e9


@dataclass
class FolderScan:
    """One walk. What cannot be read is not there."""

    root: Path
    skipped: tuple[Path, ...] = ()
    """Folders of another kind, such as that of LoRAs."""
    files: int = 0
    is_complete: bool = True
    _real_root: str = field(init=False)

    def __post_init__(self) -> None:
        self._real_root = os.path.realpath(self.root)

    def candidates(self) -> Iterator[Candidate]:
        yield from self._walk(self.root.absolute(), "", 0, {str(folder.absolute()) for folder in self.skipped})

    def candidate_at(self, path: Path, name: str) -> Candidate | None:
        """A folder or file anywhere, under this name; None if there is none."""
        if path.is_file():
            beside = {f"{path.stem}{SIDECAR}", OVERRIDES_FILE, path.name, f"{path.name}{DOWNLOAD_MARK}"}
            entries = {file: entry for file, entry in self._entries(path.parent).items() if file in beside}
            found = (file for file in self._files(path.parent, "", entries) if file.path == path)
            return next((replace(file, name=name) for file in found), None)
        entries = self._entries(path)
        kind = _kind_of(entries)
        return None if kind is None else self._folder(path, name, kind, entries)

    def _walk(self, folder: Path, name: str, depth: int, skipped: set[str]) -> Iterator[Candidate]:
        entries = self._entries(folder)
        kind = _kind_of(entries) if name else None
        if name and kind is not None:
            yield self._folder(folder, name, kind, entries)
        # The parts of a model are not models, and neither is a single part, such as a safety checker.
        if kind in (CandidateKind.FOLDER, CandidateKind.PLANNED) or (name and kind is None and MODEL_CONFIG in entries):
            return
        yield from self._files(folder, name, entries)
        for entry in filter(_is_usable, entries.values()):
            below = f"{name}/{entry.name}" if name else entry.name
            if entry.is_symlink() and self._leads_outside(entry):
                if not entry.is_file() or entry.name.endswith(ALL_SUFFIXES):
                    yield Candidate(_stem(below), CandidateKind.OUTSIDE, Path(entry.path))
            elif _is_folder(entry) and depth < MAX_DEPTH and entry.path not in skipped and not _is_loop(entry):
                yield from self._walk(Path(entry.path), below, depth + 1, skipped)

    def _entries(self, folder: Path) -> dict[str, "os.DirEntry[str]"]:
        """By name, sorted, within the limit of files."""
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            return {}
        room = max(0, MAX_FILES - self.files)
        self.is_complete = self.is_complete and len(listed) <= room
        self.files += len(listed)
        return {entry.name: entry for entry in listed[:room]}

    def _folder(self, folder: Path, name: str, kind: CandidateKind, entries: _Entries) -> Candidate:
        if kind is not CandidateKind.PAIR:
            return Candidate(name, kind, folder, tuple(self._signature(folder, "", 0)))
        listed = [entry for file, entry in entries.items() if file.endswith((*FILE_SUFFIXES, OVERRIDES_FILE))]
        signature = tuple(_look_at(entry, entry.name) for entry in listed)
        return Candidate(name, kind, folder, signature, folder / OVERRIDES_FILE)

    def _files(self, folder: Path, name: str, entries: _Entries) -> Iterator[Candidate]:
        for suffix in ALL_SUFFIXES:
            for file, entry in entries.items():
                if not file.endswith(suffix) or not _is_usable(entry) or not _is_file(entry):
                    continue
                if entry.is_symlink() and self._leads_outside(entry):
                    continue
                sidecars = (f"{_stem(file)}{SIDECAR}", OVERRIDES_FILE)
                sidecar = next((entries[beside] for beside in sidecars if beside in entries), None)
                yield Candidate(
                    name=_stem(f"{name}/{file}" if name else file),
                    kind=CandidateKind.FILE if suffix in FILE_SUFFIXES else CandidateKind.PICKLE,
                    path=folder / file,
                    signature=tuple(_look_at(each, each.name) for each in (entry, sidecar) if each),
                    sidecar=Path(sidecar.path) if sidecar else None,
                    downloading=f"{file}{DOWNLOAD_MARK}" in entries,
                )

    def _signature(self, folder: Path, below: str, depth: int) -> Iterator[tuple[str, int, int, int]]:
        """Of every file of a model's folder. Its sub-folders are the parts."""
        for entry in self._entries(folder).values():
            path = f"{below}{entry.name}"
            if entry.name.startswith("."):
                continue
            if not _is_folder(entry):
                yield _look_at(entry, path)
            elif depth < 2:
                yield from self._signature(Path(entry.path), f"{path}/", depth + 1)

    def _leads_outside(self, entry: "os.DirEntry[str]") -> bool:
        target = os.path.realpath(entry.path)
        return not f"{target}/".startswith(f"{self._real_root}/") or not Path(target).exists()


def _look_at(entry: "os.DirEntry[str]", path: str) -> tuple[str, int, int, int]:
    try:
        found = entry.stat()
    except OSError:
        return path, 0, 0, 0
    return path, found.st_size if stat.S_ISREG(found.st_mode) else 0, found.st_mtime_ns, found.st_ino


def _kind_of(entries: _Entries) -> CandidateKind | None:
    if PIPELINE_INDEX in entries or MODULAR_INDEX in entries:
        return CandidateKind.FOLDER
    if PLAN_FILE in entries and MODEL_CONFIG not in entries:
        return CandidateKind.PLANNED
    return CandidateKind.PAIR if OVERRIDES_FILE in entries else None


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: "os.DirEntry[str]") -> bool:
    """Not a pipe: whoever opens one waits for another program."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_loop(entry: "os.DirEntry[str]") -> bool:
    """Whether a link leads to a folder that holds it."""
    if not entry.is_symlink():
        return False
    path = Path(entry.path)
    return path.parent.resolve().is_relative_to(path.resolve())


def _is_usable(entry: "os.DirEntry[str]") -> bool:
    return not entry.name.startswith(".") and entry.name.isprintable() and len(entry.name) <= MAX_NAME


def _stem(name: str) -> str:
    return name.removesuffix(next((suffix for suffix in ALL_SUFFIXES if name.endswith(suffix)), ""))
