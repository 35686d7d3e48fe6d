"""How many bytes of a model are read while it is loaded."""

import mmap
import os
from pathlib import Path

import psutil
import pytest

from shared.jobs.types import Backend
from tests.worker.engines import tiny
from worker.engines.diffusers.loading.load_progress import ReadBytes, files_to_read
from worker.engines.diffusers.loading.local_models import LocalModels
from worker.engines.diffusers.options import DiffusersOptions
from worker.models.catalogue import Catalogue
from worker.models.sources import folder_model

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")

MEGABYTE = 1 << 20


@pytest.mark.skipif(not hasattr(psutil.Process, "memory_maps"), reason="this system does not tell what is read")
def test_what_is_read_of_a_mapped_file_counts_and_nothing_else_of_the_process(tmp_path: Path) -> None:
    file, other = tmp_path / "a b.safetensors", tmp_path / "other"
    for path in (file, other):
        path.write_bytes(os.urandom(16 * MEGABYTE))
    read = ReadBytes({file: 16 * MEGABYTE})
    grown = [bytearray(64 * MEGABYTE)]
    with file.open("rb") as opened, other.open("rb") as ignored:
        ignored_map = mmap.mmap(ignored.fileno(), 0, access=mmap.ACCESS_READ)
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        sum(ignored_map[:: mmap.PAGESIZE])

        assert read.measure() <= 4 * MEGABYTE
        sum(mapped[: 8 * MEGABYTE : mmap.PAGESIZE])
        assert 8 * MEGABYTE <= read.measure() <= 12 * MEGABYTE
        mapped.close()

    assert read.measure() == 16 * MEGABYTE, "a mapping that has ended was read"
    assert grown


def test_a_system_that_tells_nothing_reads_nothing_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(psutil.Process, "memory_maps")

    assert ReadBytes({tmp_path: 5}).measure() == 0


def test_only_the_files_of_the_chosen_precision_are_to_be_read(tmp_path: Path) -> None:
    folder = tiny.save_sd(tmp_path / "tiny")
    chosen = folder / "unet" / "diffusion_pytorch_model.safetensors"
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(chosen.read_bytes())

    files = files_to_read(folder_model(str(folder), folder, "model_index.json"), "float32")

    parts = ("unet", "vae", "text_encoder")
    names = {file.relative_to(folder.resolve()).as_posix() for file in files}
    assert {name.split("/")[0] for name in names} == set(parts)
    assert not any("fp16" in name for name in names)
    assert files[chosen.resolve()] == chosen.stat().st_size


def test_a_load_begins_with_nothing_and_ends_with_all_bytes_to_read(tmp_path: Path) -> None:
    folder = tiny.save_sd(tmp_path / "tiny")
    model = folder_model(str(folder), folder, "model_index.json")
    models = LocalModels(Catalogue(tmp_path, ()), model, DiffusersOptions(), Backend.SD)
    reports: list[tuple[int, int]] = []

    models.load(model.name, lambda done, total: reports.append((done, total))).close()

    total = sum(files_to_read(model, "float32").values())
    assert reports[0] == (0, total)
    assert reports[-1] == (total, total)
    assert reports == sorted(reports)
