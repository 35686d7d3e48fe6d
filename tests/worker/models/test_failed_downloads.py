"""Downloads that the disk, the network or the hub refuses."""

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from tests.worker.models.conftest import NAME, refusal
from tests.worker.models.hub import Hub

Usage = namedtuple("Usage", "total used free")


def test_too_little_disk_space_is_reported_before_the_download(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 256 << 20))

    message = refusal(folder)

    assert (
        "it needs 9.0 MB, and 0.3 GB are free. Free some space, or set SD_MODEL_DIR to a folder on another disk."
        in message
    )
    assert [name for name, _ in hub.sent] == ["model_index.json"]


def test_a_disk_that_fills_up_during_the_download_is_reported(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)

    assert "the disk is full. Free some space" in refusal(folder)


def test_a_folder_that_is_not_writable_is_reported(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("no folder")

    assert "set SD_MODEL_DIR to another folder" in refusal(tmp_path / "models" / NAME)


@pytest.mark.parametrize(
    ("refused", "remedy"),
    [
        ("RepoNotFound", "Hugging Face has no model of this name; a private one needs SD_HUGGINGFACE_TOKEN"),
        ("GatedRepo", f"accept its terms at https://huggingface.co/{NAME}, and set SD_HUGGINGFACE_TOKEN"),
        ("bad token", "Hugging Face rejects SD_HUGGINGFACE_TOKEN for it; create another token at https://"),
        ("forbidden", "Hugging Face rejects SD_HUGGINGFACE_TOKEN for it; create another token at https://"),
        ("unavailable", "Hugging Face is unreachable (it responds with HTTP 503). Try again later"),
    ],
)
def test_every_refusal_says_what_to_do_without_the_token(hub: Hub, folder: Path, refused: str, remedy: str) -> None:
    hub.refusal = refused

    message = refusal(folder, "hf_wrong")

    assert remedy in message
    assert "hf_wrong" not in message
    assert not folder.parent.exists()


def test_without_a_network_the_error_says_what_to_do(no_network: None, folder: Path) -> None:
    message = refusal(folder)

    assert f"The model {NAME} is not in {folder}, and Hugging Face is unreachable" in message
    assert "or copy the folder from another machine" in message


def test_downloaded_files_are_kept_while_the_network_is_down(cut: Path, no_network: None) -> None:
    assert "Try again later; the download will resume where it stopped, or copy the folder" in refusal(cut)
    assert (cut / "text_encoder" / "config.json").exists()


def test_offline_mode_sends_no_request(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    assert "HF_HUB_OFFLINE is set" in refusal(folder)
    assert hub.num_requests == 0


def test_an_interrupted_download_reports_its_current_obstacle(hub: Hub, cut: Path) -> None:
    hub.refusal = "GatedRepo"

    assert "accept its terms" in refusal(cut, "hf_wrong")
    assert not (cut / "model_index.json").exists()
