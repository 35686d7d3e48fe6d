"""What comes of a download, whatever happens on its way."""

import errno
import json
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from tests.models.conftest import CLUTTER, INDEX, MEGABYTE, NAME, NEEDED, TOKEN
from tests.models.hub import Hub
from worker.models.downloads import Downloader
from worker.models.hub import Hub as Client
from worker.models.pipelines import CONFIG, RemoteFile, parts_of, wanted
from worker.models.sources import Source

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
#: What WEIGHTS is called in the repository.
SOURCE = "unet/diffusion_pytorch_model.fp16.safetensors"
Usage = namedtuple("Usage", "total used free")


def fetch(
    folder: Path,
    token: str | None = TOKEN,
    half: bool = True,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> None:
    Downloader(Client(token), half, on_progress, pauses=(0.01, 0.01)).fetch(NAME, folder)


def refusal(folder: Path, token: str | None = TOKEN) -> str:
    with pytest.raises(ConfigurationError) as caught:
        fetch(folder, token)
    return caught.value.detail


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models" / NAME


@pytest.fixture
def cut(hub: Hub, folder: Path) -> Path:
    """A download that was given up two thirds through its largest file."""
    hub.cuts = {SOURCE: [2 * MEGABYTE, 0, 0]}
    assert "what has come is kept" in refusal(folder)
    hub.sent.clear()
    return folder


def test_only_what_the_pipeline_needs_is_fetched(hub: Hub, folder: Path, published: Path) -> None:
    fetch(folder)

    assert files_in(folder) == {*NEEDED.values(), "download.json"}
    assert all((folder / path).read_bytes() == (published / source).read_bytes() for source, path in NEEDED.items())
    assert not {name for name, _ in hub.sent} & set(CLUTTER)


def test_full_precision_is_fetched_where_it_is_wanted(hub: Hub, folder: Path, published: Path) -> None:
    fetch(folder, half=False)

    assert (folder / WEIGHTS).read_bytes() == (published / WEIGHTS).read_bytes()


def test_pickled_weights_are_never_fetched(hub: Hub, folder: Path, published: Path, tmp_path: Path) -> None:
    hub.folder = shutil.copytree(published, tmp_path / "pickled")
    for weights in (hub.folder / "text_encoder").glob("*.safetensors"):
        weights.unlink()

    assert refusal(folder) == f"The text_encoder of {NAME} is there only as a pickle, which is never read."
    assert [name for name, _ in hub.sent] == ["model_index.json"]


def test_a_safety_checker_that_is_a_pickle_is_left_to_another_one(
    hub: Hub, folder: Path, published: Path, tmp_path: Path
) -> None:
    hub.folder = shutil.copytree(published, tmp_path / "pickled")
    (hub.folder / "model_index.json").write_text(json.dumps(INDEX | {"safety_checker": ["stable_diffusion", "Some"]}))
    (hub.folder / "safety_checker" / "config.json").write_text("{}")
    (hub.folder / "safety_checker" / "model.safetensors").rename(hub.folder / "safety_checker" / "pytorch_model.bin")

    fetch(folder)

    assert files_in(folder) == {*NEEDED.values(), "download.json"}


def test_a_model_is_whole_only_when_all_of_it_is_there(cut: Path) -> None:
    assert not (cut / "model_index.json").exists()
    assert not (cut / WEIGHTS).exists()


def test_a_broken_connection_is_taken_up_where_it_broke(hub: Hub, folder: Path, published: Path) -> None:
    hub.cuts = {SOURCE: [MEGABYTE, MEGABYTE]}

    fetch(folder)

    assert [start for name, start in hub.sent if name == SOURCE] == [0, MEGABYTE, 2 * MEGABYTE]
    assert (folder / WEIGHTS).read_bytes() == (published / SOURCE).read_bytes()


def test_a_later_start_goes_on_where_an_earlier_one_was_cut(hub: Hub, cut: Path, published: Path) -> None:
    fetch(cut)

    assert hub.sent == [(SOURCE, 2 * MEGABYTE), ("model_index.json", 0)]
    assert (cut / WEIGHTS).read_bytes() == (published / SOURCE).read_bytes()


def test_what_is_there_counts_as_done(hub: Hub, cut: Path) -> None:
    told: list[tuple[int, int]] = []

    fetch(cut, on_progress=lambda _, done, total: told.append((done, total)))

    size = sum((cut / path).stat().st_size for path in NEEDED.values())
    rest = MEGABYTE + (cut / "model_index.json").stat().st_size
    assert (told[0], told[-1]) == ((size - rest, size), (size, size))


def test_a_server_that_sends_no_parts_sends_the_whole_file_again(hub: Hub, cut: Path, published: Path) -> None:
    hub.ranges = False
    told: list[int] = []

    fetch(cut, on_progress=lambda _, done, total: told.append(total - done))

    assert told[-1] == 0
    assert (cut / WEIGHTS).read_bytes() == (published / SOURCE).read_bytes()


def test_a_download_goes_on_with_the_version_it_began_with(hub: Hub, cut: Path) -> None:
    hub.commit = "1" * 40

    assert f"`imagegen models remove {NAME}`" in refusal(cut)


def test_damaged_weights_are_not_kept(hub: Hub, folder: Path) -> None:
    hub.damage = True

    assert "came damaged" in refusal(folder)

    hub.damage = False
    fetch(folder)
    assert (folder / "model_index.json").exists()


def test_a_part_that_was_damaged_on_the_disk_is_not_built_upon(hub: Hub, cut: Path) -> None:
    partial = cut / f"{WEIGHTS}.part"
    partial.write_bytes(bytes(partial.stat().st_size))

    assert "came damaged" in refusal(cut)

    fetch(cut)
    assert (cut / WEIGHTS).exists()


def test_a_model_that_is_there_is_not_asked_for(hub: Hub, folder: Path) -> None:
    fetch(folder)
    hub.asked = 0

    fetch(folder)

    assert hub.asked == 0


def test_of_two_at_the_same_time_one_waits_for_the_other(hub: Hub, folder: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(folder,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(name for name, _ in hub.sent) == sorted([*NEEDED, "model_index.json"])


def test_too_little_room_is_told_before_anything_is_fetched(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 256 << 20))

    told = refusal(folder)

    assert "9.0 MB more are needed and 0.3 GB are free. Make room, or name another disk with SD_MODEL_DIR." in told
    assert [name for name, _ in hub.sent] == ["model_index.json"]


def test_a_disk_that_fills_up_meanwhile_is_told(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("worker.models.transfers.os.fsync", full)

    assert "the disk is full. Make room" in refusal(folder)


def test_a_folder_that_cannot_be_written_is_told(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("no folder")

    assert "name another folder with SD_MODEL_DIR" in refusal(tmp_path / "models" / NAME)


@pytest.mark.parametrize(
    ("refused", "remedy"),
    [
        ("RepoNotFound", "Hugging Face has none of this name; a private one needs SD_HUGGINGFACE_TOKEN"),
        ("GatedRepo", f"accept its terms at https://huggingface.co/{NAME}, and set SD_HUGGINGFACE_TOKEN"),
        ("bad token", "Hugging Face does not take SD_HUGGINGFACE_TOKEN for it; make another one at https://"),
        ("forbidden", "Hugging Face does not take SD_HUGGINGFACE_TOKEN for it; make another one at https://"),
        ("unavailable", "Hugging Face cannot be reached (it answers 503): try again"),
    ],
)
def test_every_refusal_names_its_remedy_and_not_the_token(hub: Hub, folder: Path, refused: str, remedy: str) -> None:
    hub.refusal = refused

    told = refusal(folder, "hf_wrong")

    assert remedy in told
    assert "hf_wrong" not in told
    assert not folder.parent.exists()


def test_without_network_the_remedy_is_told(no_network: None, folder: Path) -> None:
    told = refusal(folder)

    assert f"The model {NAME} is not in {folder}, and Hugging Face cannot be reached" in told
    assert "or copy the folder from another machine" in told


def test_a_network_that_goes_away_meanwhile_is_waited_for_a_little(
    hub: Hub, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.cuts = {SOURCE: [0, 0]}

    fetch(folder)

    assert caplog.text.count("going on in 0.01 s") == 2


def test_what_is_no_pipeline_is_refused(hub: Hub, folder: Path, published: Path, tmp_path: Path) -> None:
    hub.folder = shutil.copytree(published, tmp_path / "other", ignore=shutil.ignore_patterns("model_index.json"))

    assert refusal(folder) == f"{NAME} on Hugging Face has no model_index.json: it is not in diffusers' format."


def test_a_model_by_itself_is_fetched_from_the_root_of_its_repository(
    hub: Hub, published: Path, tmp_path: Path
) -> None:
    hub.folder = published / "unet"

    model = Source("SD_SAFETY_CHECKER_ID", NAME, tmp_path, TOKEN, index=CONFIG).find()

    assert files_in(Path(model.location)) == {"config.json", "diffusion_pytorch_model.safetensors", "download.json"}
    assert hub.sent[-1] == ("config.json", 0)


@pytest.mark.parametrize("path", ["../evil.json", "unet/../../evil.json", "/etc/evil.json", ".evil.json", "unet/.evil"])
def test_a_path_that_leaves_the_folder_is_no_file_of_a_model(path: str) -> None:
    parts = [*parts_of(INDEX, NAME), "..", "."]

    assert wanted([RemoteFile(path, 1)], parts, NAME, half=True) == []
