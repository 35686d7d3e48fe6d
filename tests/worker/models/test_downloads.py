"""Downloads, with everything that can go wrong."""

import json
import shutil
import threading
from pathlib import Path

import pytest

from tests.worker.models.conftest import CLUTTER, INDEX, MEGABYTE, NAME, NEEDED, TOKEN, WEIGHTS, fetch, refusal
from tests.worker.models.hub import Hub
from worker.models.catalogue.prospects import prospect_of
from worker.models.download_plans import INCOMPLETE_DIR
from worker.models.hub import downloads
from worker.models.hub.model_store import remove_model
from worker.models.required_files import MODEL_CONFIG, parts_of, select_files
from worker.models.sources import ModelSource


def files_in(folder: Path) -> set[str]:
    """Without the private files of the hub's client."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {path for path in files if not path.startswith(".cache/")}


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob("*.incomplete"))


def test_only_files_that_the_pipeline_needs_are_downloaded(hub: Hub, folder: Path, published: Path) -> None:
    fetch(folder)

    assert files_in(folder) == {*NEEDED, "download.json"}
    assert all((folder / path).read_bytes() == (published / path).read_bytes() for path in NEEDED)
    assert not {name for name, _ in hub.sent} & set(CLUTTER)
    assert hub.sent[-1] == ("model_index.json", 0)


@pytest.fixture
def modular(hub: Hub, published: Path, tmp_path: Path) -> str:
    """A repository with a modular pipeline, whose index also says where each part comes from."""
    hub.folder = shutil.copytree(published, tmp_path / "modular")
    (hub.folder / "model_index.json").unlink()
    source = {"pretrained_model_name_or_path": NAME, "subfolder": "x"}
    parts = {name: [*value, source] for name, value in INDEX.items() if isinstance(value, list) and None not in value}
    index = {"_class_name": "StableDiffusionXLModularPipeline", **parts}
    (hub.folder / "modular_model_index.json").write_text(json.dumps(index))
    return "modular_model_index.json"


def test_a_modular_pipeline_is_downloaded_once_and_removed(hub: Hub, folder: Path, modular: str) -> None:
    source = ModelSource("SD_MODEL_ID", NAME, folder.parents[1], TOKEN)
    model = source.ensure_downloaded()

    assert model.is_modular
    assert files_in(folder) == {*NEEDED, modular, "download.json"} - {"model_index.json"}
    assert hub.sent[-1] == (modular, 0)
    hub.num_requests = 0
    assert source.ensure_downloaded() == model
    assert hub.num_requests == 0
    assert remove_model(folder.parents[1], NAME) > 0
    assert not folder.exists()


def test_what_a_modular_pipeline_takes_is_told_before_its_download(hub: Hub, folder: Path, modular: str) -> None:
    found = prospect_of(ModelSource("The name", NAME, folder.parents[1], TOKEN))

    assert found.missing_bytes > 6 * MEGABYTE
    assert not folder.exists()


def test_full_precision_is_downloaded_for_float32(hub: Hub, folder: Path) -> None:
    fetch(folder, dtype="float32")

    assert [path.name for path in (folder / "unet").glob("*.safetensors")] == ["diffusion_pytorch_model.safetensors"]


def test_the_token_is_sent_only_to_the_hub(hub: Hub, folder: Path) -> None:
    hub.elsewhere = hub.url.replace("127.0.0.1", "localhost")

    fetch(folder)

    assert hub.tokens_elsewhere == [None] * 3


def test_pickled_weights_are_never_downloaded(hub: Hub, folder: Path, published: Path, tmp_path: Path) -> None:
    hub.folder = shutil.copytree(published, tmp_path / "pickled")
    for weights in (hub.folder / "text_encoder").glob("*.safetensors"):
        weights.unlink()

    assert refusal(folder) == f"The text_encoder of {NAME} exists only as a pickle, which is never loaded."
    assert [name for name, _ in hub.sent] == ["model_index.json"]


def test_a_pickled_safety_checker_is_skipped(hub: Hub, folder: Path, published: Path, tmp_path: Path) -> None:
    hub.folder = shutil.copytree(published, tmp_path / "pickled")
    (hub.folder / "model_index.json").write_text(json.dumps(INDEX | {"safety_checker": ["stable_diffusion", "Some"]}))
    (hub.folder / "safety_checker" / "config.json").write_text("{}")
    (hub.folder / "safety_checker" / "model.safetensors").rename(hub.folder / "safety_checker" / "pytorch_model.bin")

    fetch(folder)

    assert files_in(folder) == {*NEEDED, "download.json"}


def test_a_model_is_complete_only_with_all_files(cut: Path) -> None:
    assert not (cut / "model_index.json").exists()
    assert not (cut / WEIGHTS).exists()


def test_a_broken_connection_is_resumed(hub: Hub, folder: Path, published: Path) -> None:
    hub.cuts = {WEIGHTS: [MEGABYTE, 0]}

    fetch(folder)

    assert [start for name, start in hub.sent if name == WEIGHTS] == [0, MEGABYTE, MEGABYTE]
    assert (folder / WEIGHTS).read_bytes() == (published / WEIGHTS).read_bytes()


def test_a_later_start_downloads_only_missing_files(hub: Hub, cut: Path, published: Path) -> None:
    (cut / INCOMPLETE_DIR / "unet").mkdir(parents=True, exist_ok=True)
    (cut / INCOMPLETE_DIR / "unet" / "of-a-killed-one.incomplete").write_bytes(b"x" * MEGABYTE)

    fetch(cut)

    assert hub.sent == [(WEIGHTS, 0), ("model_index.json", 0)]
    assert (cut / WEIGHTS).read_bytes() == (published / WEIGHTS).read_bytes()
    assert leftovers(cut) == []


def test_existing_files_count_as_done(hub: Hub, cut: Path) -> None:
    progress: list[tuple[int, int]] = []

    fetch(cut, on_progress=lambda _, done, total: progress.append((done, total)))

    size = sum((cut / path).stat().st_size for path in NEEDED)
    rest = 3 * MEGABYTE + (cut / "model_index.json").stat().st_size
    assert (progress[0], progress[-1]) == ((size - rest, size), (size, size))


def test_progress_is_reported_during_a_download(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PROGRESS_INTERVAL_SECONDS", 0.02)
    hub.stalls = {WEIGHTS: MEGABYTE}
    progress: list[int] = []

    def tell(_: str, done: int, total: int) -> None:
        progress.append(done)
        # All other files, and the downloaded part of this one, except what is still in the buffer of its writer.
        if total - done < 2.3 * MEGABYTE:
            hub.stalls.clear()
            hub.ended.set()

    # The server stops in the middle of the file, and later continues there.
    fetch(folder, on_progress=tell)

    assert progress == sorted(progress)
    assert len(set(progress)) > 2


def test_without_range_requests_the_whole_file_is_downloaded_again(hub: Hub, folder: Path, published: Path) -> None:
    hub.ranges = False
    hub.cuts = {WEIGHTS: [2 * MEGABYTE]}
    progress: list[int] = []

    fetch(folder, on_progress=lambda _, done, total: progress.append(total - done))

    assert progress[-1] == 0
    assert (folder / WEIGHTS).read_bytes() == (published / WEIGHTS).read_bytes()


def test_a_resumed_download_keeps_its_version(hub: Hub, cut: Path) -> None:
    hub.commit = "1" * 40

    assert f"`imagegen models remove {NAME}`" in refusal(cut)


def test_damaged_weights_are_deleted(hub: Hub, folder: Path) -> None:
    hub.damage = True

    assert "arrived damaged" in refusal(folder)

    hub.damage = False
    fetch(folder)
    assert (folder / "model_index.json").exists()


def test_a_complete_model_needs_no_request(hub: Hub, folder: Path) -> None:
    fetch(folder)
    hub.num_requests = 0

    fetch(folder)

    assert hub.num_requests == 0


def test_of_two_parallel_downloads_one_waits(hub: Hub, folder: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(folder,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(name for name, _ in hub.sent) == sorted([*NEEDED, "model_index.json"])


def test_a_repository_without_a_pipeline_is_refused(hub: Hub, folder: Path, published: Path, tmp_path: Path) -> None:
    hub.folder = shutil.copytree(published, tmp_path / "other", ignore=shutil.ignore_patterns("model_index.json"))

    assert refusal(folder) == f"{NAME} on Hugging Face has no model_index.json: it is not in diffusers' format."


def test_a_single_model_is_downloaded_from_the_root_of_its_repository(
    hub: Hub, published: Path, tmp_path: Path
) -> None:
    hub.folder = published / "unet"

    model = ModelSource("SD_SAFETY_CHECKER_ID", NAME, tmp_path, TOKEN, index=MODEL_CONFIG).ensure_downloaded()

    assert files_in(model.folder) == {
        "config.json",
        "diffusion_pytorch_model.fp16.safetensors",
        "download.json",
    }
    assert hub.sent[-1] == ("config.json", 0)


@pytest.mark.parametrize("path", ["../evil.json", "unet/../../evil.json", "/etc/evil.json", ".evil.json", "unet/.evil"])
def test_paths_outside_the_folder_are_ignored(path: str) -> None:
    parts = [*parts_of(INDEX, NAME), "..", "."]

    assert select_files([path], parts, NAME, "auto") == []
