"""The command `imagegen models`."""

import importlib.util
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compose.cli.app import cli
from shared.settings.explanations import install_command
from tests.support.process import Process
from tests.worker.models.checkpoints.headers import sd15_shapes, write_header
from tests.worker.models.conftest import NAME, NEEDED, TOKEN
from tests.worker.models.hub import Hub
from worker.models.hub.model_store import remove_model

LARGE = "unet/diffusion_pytorch_model.fp16.safetensors"


class Shell:
    """A shell in its own folder, with the token of the hub."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.folder = folder
        self.hub = hub

    def output(self, *arguments: str, code: int = 0, **settings: str) -> str:
        env = {"SD_MODEL_DIR": str(self.folder / "models"), "SD_HUGGINGFACE_TOKEN": TOKEN}
        result = CliRunner().invoke(cli, ["models", *arguments], env=env | settings)
        assert result.exit_code == code, result.output
        return result.output.strip()

    def process(self, *arguments: str) -> Process:
        command = [sys.executable, "-m", "compose.cli.app", "models", *arguments]
        return Process(command, self.folder, {"HF_ENDPOINT": self.hub.url, "SD_HUGGINGFACE_TOKEN": TOKEN})


def row(table: str, name: str) -> list[str]:
    line = next(line for line in table.splitlines() if name in line)
    return re.split(r"\s{2,}", line.strip())


@pytest.fixture
def shell(hub: Hub, tmp_path: Path) -> Shell:
    return Shell(tmp_path, hub)


def test_the_models_of_the_settings_are_pulled_listed_and_removed(shell: Shell) -> None:
    before = shell.output("list", SD_MODEL_ID=NAME)
    pulled = shell.output("pull", SD_MODEL_ID=NAME)
    after = shell.output("list", SD_MODEL_ID=NAME)
    removed = shell.output("remove", NAME)

    missing = f"missing: It is not downloaded: `imagegen models pull {NAME}`."
    assert row(before, NAME) == [NAME, missing, "SD_MODEL_ID"]
    assert pulled == f"{NAME} is in {shell.folder}/models/{NAME}"
    assert row(after, NAME) == [NAME, "9.0 MB", "available", "some-community-license", "SD_MODEL_ID"]
    assert removed == f"Removed {NAME} (9.0 MB)"
    assert not list((shell.folder / "models").iterdir())


def test_a_killed_pull_is_listed_and_resumes(shell: Shell) -> None:
    shell.hub.stalls = {LARGE: 2_000_000}
    killed = shell.process("pull", NAME)
    model, end = shell.folder / "models" / NAME, time.monotonic() + 60
    others = [model / path for path in NEEDED if path not in (LARGE, "model_index.json")]
    while not all(path.exists() for path in others) or LARGE not in dict(shell.hub.sent):
        assert time.monotonic() < end, killed.output
        threading.Event().wait(0.02)
    killed.send(signal.SIGKILL)
    killed.wait()

    listed = shell.output("list")
    shell.hub.stalls = {}
    shell.output("pull", NAME)

    assert "6.0 MB of 9.0 MB are downloaded; continue with `imagegen models pull" in listed
    assert (model / "model_index.json").exists()
    assert [name for name, _ in shell.hub.sent].count(LARGE) == 2
    assert len(shell.hub.sent) == len(NEEDED) + 2


def test_a_pull_that_is_interrupted_ends_at_once(shell: Shell) -> None:
    shell.hub.stalls = {LARGE: 0}
    pulling = shell.process("pull", NAME)
    end = time.monotonic() + 60
    while LARGE not in dict(shell.hub.sent):
        assert time.monotonic() < end, pulling.output
        threading.Event().wait(0.02)

    pulling.send(signal.SIGINT)

    assert pulling.wait(10) == 130
    assert "Traceback" not in pulling.output


def test_a_failed_pull_is_reported_in_one_sentence(shell: Shell) -> None:
    shell.hub.refusal = "GatedRepo"

    message = shell.output("pull", NAME, code=1, SD_HUGGINGFACE_TOKEN="hf_other")

    assert message.startswith(
        f"The model {NAME} cannot be downloaded: accept its terms at https://huggingface.co/{NAME}"
    )
    assert "hf_other" not in message


@pytest.mark.parametrize("name", [NAME, "../..", "..", "/etc", "keep", "", "a//b", "../models/keep"])
def test_only_an_existing_model_can_be_removed(shell: Shell, name: str) -> None:
    (shell.folder / "models" / "keep").mkdir(parents=True)

    shell.output("remove", name, code=1)

    assert (shell.folder / "models" / "keep").exists()


def test_a_file_is_removed_by_its_name_with_what_lies_beside_it(shell: Shell) -> None:
    models = shell.folder / "models"
    write_header(models / "sd" / "mine.safetensors", sd15_shapes())
    (models / "sd" / "mine.imagegen.json").write_text("{}")

    assert shell.output("remove", "sd/mine").startswith("Removed sd/mine (")
    assert not list(models.iterdir())


def test_a_transformer_is_removed_by_the_name_of_its_folder_and_other_files_there_stay(tmp_path: Path) -> None:
    other = write_header(tmp_path / "pair" / "other.safetensors", sd15_shapes())
    write_header(tmp_path / "pair" / "unet.safetensors", sd15_shapes())
    (tmp_path / "pair" / "imagegen.json").write_text('{"base": "owner/base", "transformer": "unet.safetensors"}')

    assert remove_model(tmp_path, "pair") > 0

    assert list((tmp_path / "pair").iterdir()) == [other]


def test_a_link_is_removed_and_its_target_stays(shell: Shell) -> None:
    target = write_header(shell.folder / "elsewhere.safetensors", sd15_shapes())
    (shell.folder / "models").mkdir()
    (shell.folder / "models" / "link.safetensors").symlink_to(target)
    (shell.folder / "models" / "folder").symlink_to(shell.folder)

    shell.output("remove", "link")
    shell.output("remove", "folder/elsewhere", code=1)

    assert target.exists()


def test_a_plan_tells_download_licence_and_memory_and_downloads_no_weights(shell: Shell) -> None:
    lines = {line[:15].strip(): line[15:] for line in shell.output("plan", NAME).splitlines()}

    assert lines["family"] == "Stable Diffusion 1"
    assert lines["licence"] == "some-community-license"
    assert lines["commercial use"] == "see its licence"
    assert lines["download"] == "9.0 MB of 9.0 MB"
    assert lines["precision"] == "float32"
    # Half-precision files take twice their size in memory.
    assert lines["weights"] == "18.0 MB (text_encoder 12.0 MB, unet 6.0 MB)"
    assert lines["memory"].startswith("main memory has ")
    assert not [name for name, start in shell.hub.sent if name.endswith(".safetensors") and start]
    assert not (shell.folder / "models" / NAME).exists()


def test_a_plan_of_a_model_on_this_machine_needs_no_network(shell: Shell) -> None:
    shell.hub.num_requests = 0

    output = shell.output("plan", "starter", SD_DTYPE="bfloat16")

    assert "none: it is on this machine" in output
    assert "bfloat16" in output
    assert shell.hub.num_requests == 0


@pytest.mark.skipif(importlib.util.find_spec("torchao") is not None, reason="torchao is installed")
def test_a_plan_follows_the_setting_of_quantization_and_says_what_it_needs(shell: Shell) -> None:
    output = shell.output("plan", "starter", SD_DTYPE="bfloat16", SD_QUANTIZE="8bit")

    assert "bfloat16, stored as 8bit" in output
    assert f"cannot be loaded: SD_QUANTIZE=8bit needs the package torchao: {install_command('quantize')}" in output


def test_a_plan_of_an_unknown_model_is_one_sentence(shell: Shell) -> None:
    assert shell.output("plan", "nobody/nothing", code=1).startswith(
        "The model nobody/nothing cannot be downloaded: Hugging Face has no model of this name"
    )
