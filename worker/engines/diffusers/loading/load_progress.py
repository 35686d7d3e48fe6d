"""How many bytes of a model's files have been read while it is loaded."""

import threading
from collections.abc import Collection, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from worker.engines.base import OnLoad
from worker.models.local_model import LocalModel
from worker.models.weight_files import weights_in

INTERVAL_SECONDS = 0.5


def files_to_read(model: LocalModel, dtype: str, present: Collection[str] = ()) -> dict[Path, int]:
    """The files with weights that loading reads, and their sizes. The parts in `present` are in memory already."""
    files = [model.path] if model.file_parts else []
    for part in model.index:
        if part not in (*model.file_parts, *present, "safety_checker"):
            files += weights_in(model.folder / part, dtype)
    return {file.resolve(): file.stat().st_size for file in files if file.is_file()}


@dataclass
class ReadBytes:
    """Libraries map weights into memory: what the system has read of a mapping counts, and all of one that has ended.

    Where the system does not tell, as macOS, nothing counts before the end.
    """

    sizes: Mapping[Path, int]
    _read: dict[Path, int] = field(default_factory=dict)
    _mapped: Set[Path] = frozenset()

    @property
    def total(self) -> int:
        return sum(self.sizes.values())

    def measure(self) -> int:
        mapped = self._mappings()
        for file in self._mapped - mapped.keys():
            self._read[file] = self.sizes[file]
        for file, read in mapped.items():
            self._read[file] = max(self._read.get(file, 0), min(read, self.sizes[file]))
        self._mapped = mapped.keys()
        return sum(self._read.values())

    def _mappings(self) -> dict[Path, int]:
        process = psutil.Process()
        mappings = process.memory_maps() if hasattr(process, "memory_maps") else ()
        return {path: mapping.rss for mapping in mappings if (path := Path(mapping.path)) in self.sizes}


@contextmanager
def load_progress(files: Mapping[Path, int], on_load: OnLoad) -> Iterator[None]:
    """Call `on_load` with the bytes read of these files and their sizes, until the block ends."""
    read, ended = ReadBytes(files), threading.Event()

    def report() -> None:
        while not ended.wait(INTERVAL_SECONDS):
            on_load(read.measure(), read.total)

    on_load(0, read.total)
    thread = threading.Thread(target=report, name="load-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    on_load(read.total, read.total)
