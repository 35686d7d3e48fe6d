"""LoRAs, which requests choose by name."""

import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from shared.errors import InvalidRequest
from shared.jobs.requests import GenerationRequest, Lora
from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.drawing import NOTHING, draw, right_half, speckled
from tests.worker.recording_watch import RecordingWatch
from worker.engines.diffusers.engine import DiffusersEngine
from worker.engines.diffusers.loras import loras
from worker.engines.diffusers.loras.lora_files import find_loras
from worker.images.values import Inputs

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|peft)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_sd(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def lora_dir(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LoRAs that fit, one with dots in its name, and two that do not."""
    lora_dir = tmp_path_factory.mktemp("loras")
    tiny.save_lora(lora_dir, "fine", folder)
    tiny.save_lora(lora_dir / "v1.5 detail", "weights", folder, rank=3)
    other = tiny.save_sdxl(lora_dir.parent / "xl")
    tiny.save_lora(lora_dir, "for-xl", other)
    (lora_dir / "no-weights.safetensors").write_bytes(b"nothing of the kind")
    return lora_dir


@pytest.fixture(scope="module")
def formats(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> DiffusersEngine:
    """The same LoRA in the formats of different tools, and with weights that this model cannot use."""
    lora_dir = tmp_path_factory.mktemp("formats")
    usual = load_file(tiny.save_lora(lora_dir, "diffusers", folder) / "diffusers.safetensors")
    kohya = tiny.as_kohya(usual)
    text = {
        f"lora_te2_text_model_{layer}.lora_{way}.weight": torch.ones(2, 2) for layer in "ab" for way in ("down", "up")
    }
    peft = {key.replace("unet.", "base_model.model."): tensor for key, tensor in usual.items()}
    # PEFT stores the scale beside the file: here half, for weights of twice the size.
    (lora_dir / "peft").mkdir()
    (lora_dir / "peft" / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4, "peft_type": "LORA"}))
    save_file(
        {key: t / 2 if "lora_B" in key else t for key, t in peft.items()}, lora_dir / "peft" / "adapter.safetensors"
    )
    save_file(kohya, lora_dir / "SHOUTED.SAFETENSORS")
    save_file(kohya | text, lora_dir / "for-two-encoders.safetensors")
    save_file(kohya | {"bundle_emb.word.string_to_param": torch.ones(2, 8)}, lora_dir / "with-a-word.safetensors")
    save_file({"unet.weight": torch.ones(2)}, lora_dir / "whole-model.safetensors")
    loha = {key.replace("lora_down.weight", "hada_w1_a"): tensor for key, tensor in kohya.items()}
    save_file(loha, lora_dir / "loha.safetensors")
    whole = (lora_dir / "diffusers.safetensors").read_bytes()
    (lora_dir / "cut-off.safetensors").write_bytes(whole[:-100])
    return loaded(folder, lora_dir=lora_dir)


@pytest.fixture(scope="module")
def model(folder: Path, lora_dir: Path) -> DiffusersEngine:
    return loaded(folder, lora_dir=lora_dir)


def using(*names: str, scale: float = 1.0) -> list[dict[str, object]]:
    return [{"name": name, "scale": scale} for name in names]


def test_names_are_paths_and_folders_with_a_single_file(lora_dir: Path) -> None:
    assert list(find_loras(lora_dir)) == ["fine", "for-xl", "no-weights", "v1.5 detail", "v1.5 detail/weights"]


def test_files_of_every_name_are_found_in_every_folder(lora_dir: Path, tmp_path: Path) -> None:
    # "cafe" with the accent as a separate character, as on macOS.
    names = [
        "people/anna",
        "people/bert",
        "people/old/anna",
        "smile\u263a",
        "-flag",
        "a.b c..d",
        "cafe\u0301",
        "\u82b1/\u685c",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lora_dir / "fine.safetensors", tmp_path / f"{name}.safetensors")
    shutil.copy(lora_dir / "fine.safetensors", tmp_path / "SHOUTED.SAFETENSORS")
    (tmp_path / "linked").symlink_to(lora_dir)
    (tmp_path / "round").symlink_to(tmp_path)

    found = find_loras(tmp_path)

    assert set(found) == {
        *(unicodedata.normalize("NFC", name) for name in names),
        "SHOUTED",
        *(f"linked/{name}" for name in find_loras(lora_dir)),
        "people/old",
        "\u82b1",
    }
    assert all(Lora(name=name).name == name for name in found)
    assert Lora(name="cafe\u0301").name in found


def test_ignored_files_are_logged(lora_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (" blank", "back\\slash", "line\nbreak", "turned\u202e", "x" * 201):
        shutil.copy(lora_dir / "fine.safetensors", tmp_path / f"{name}.safetensors")
    (tmp_path / "twice").mkdir()
    for name in ("one.safetensors", "one.SAFETENSORS"):
        shutil.copy(lora_dir / "fine.safetensors", tmp_path / "twice" / name)

    assert list(find_loras(tmp_path)) == ["twice/one"]
    assert caplog.text.count("ignoring the LoRA") == 6


def test_pickles_and_hidden_files_are_no_loras(lora_dir: Path, tmp_path: Path) -> None:
    (tmp_path / ".trash").mkdir()
    for name in ("pickled.ckpt", "pickled.bin", ".safetensors", ".trash/fine.safetensors"):
        shutil.copy(lora_dir / "fine.safetensors", tmp_path / name)
    (tmp_path / "dangling.safetensors").symlink_to(tmp_path / "nothing")

    assert find_loras(tmp_path) == {}


def test_a_missing_folder_has_no_loras(tmp_path: Path) -> None:
    assert find_loras(tmp_path / "nothing") == {}


def test_a_lora_changes_the_image_by_its_scale(model: DiffusersEngine) -> None:
    plain, little, much = (draw(model, loras=using("fine", scale=scale)).pixels for scale in (0, 0.5, 2))

    assert np.array_equal(plain, draw(model).pixels)
    assert not np.array_equal(plain, little)
    assert not np.array_equal(little, much)


def test_the_next_job_runs_without_the_lora(model: DiffusersEngine) -> None:
    before = draw(model).pixels

    draw(model, loras=using("fine"))

    assert np.array_equal(draw(model).pixels, before)


def test_several_loras_can_be_combined(model: DiffusersEngine) -> None:
    one, other, both = (draw(model, loras=using(*names)).pixels for names in ASKED)

    assert not np.array_equal(both, one)
    assert not np.array_equal(both, other)


ASKED = (("fine",), ("v1.5 detail",), ("fine", "v1.5 detail"))


def test_loras_apply_to_edits_too(model: DiffusersEngine) -> None:
    start = Inputs((speckled(),), right_half())

    assert not np.array_equal(draw(model, start, loras=using("fine")).pixels, draw(model, start).pixels)


def test_the_lora_of_a_failed_job_has_no_effect_afterwards(model: DiffusersEngine) -> None:
    before = draw(model).pixels

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(model, NOTHING, RecordingWatch(stop), loras=using("fine"))

    assert np.array_equal(draw(model).pixels, before)


@pytest.mark.parametrize("name", ["SHOUTED", "peft/adapter"])
def test_every_file_format_gives_the_same_image(formats: DiffusersEngine, name: str) -> None:
    drawn = draw(formats, loras=using(name))

    assert np.array_equal(drawn.pixels, draw(formats, loras=using("diffusers")).pixels)
    assert drawn.watch.warnings == []


@pytest.mark.parametrize(("name", "useless", "total"), [("for-two-encoders", 4, 36), ("with-a-word", 1, 33)])
def test_a_partly_usable_lora_gives_a_warning(formats: DiffusersEngine, name: str, useless: int, total: int) -> None:
    for _ in range(2):
        drawn = draw(formats, loras=using(name))

        (warning,) = drawn.watch.warnings
        assert f"of the LoRA {name}, {useless} of {total} weights have no effect" in warning
        assert np.array_equal(drawn.pixels, draw(formats, loras=using("diffusers")).pixels)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut-off", "The LoRA cut-off cannot be used: its file is damaged."),
        ("loha", ": it is a LoHa or a LoKr, not a LoRA."),
        ("whole-model", ": it has no LoRA weights that diffusers supports."),
    ],
)
def test_the_error_of_an_unusable_lora_says_why_without_its_path(
    formats: DiffusersEngine, name: str, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        draw(formats, loras=using(name))

    assert message in caught.value.detail
    assert ".safetensors" not in caught.value.detail


@pytest.mark.parametrize(
    ("name", "message"),
    [("for-xl", "does not fit the model .* its layers have different sizes"), ("no-weights", "is damaged")],
)
def test_a_lora_that_does_not_fit_fails_only_its_job(model: DiffusersEngine, name: str, message: str) -> None:
    before = draw(model).pixels

    with pytest.raises(InvalidRequest, match=f"The LoRA {name} .*{message}"):
        draw(model, loras=using("fine", name))

    assert np.array_equal(draw(model).pixels, before)
    assert not np.array_equal(draw(model, loras=using("fine")).pixels, before)


def test_a_missing_lora_is_refused_by_field(model: DiffusersEngine) -> None:
    request = GenerationRequest.model_validate({"prompt": "x", "loras": using("fine", "nothing")})

    with pytest.raises(InvalidRequest) as caught:
        model.capabilities.check(request)

    (error,) = caught.value.errors
    assert error.pointer == "/loras/1/name"
    assert error.detail == "must be one of fine, for-xl, no-weights, v1.5 detail, v1.5 detail/weights"


def test_the_number_of_loaded_loras_is_limited(model: DiffusersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loras, "MAX_LOADED", 1)
    gone: list[str] = []
    delete = StableDiffusionPipeline.delete_adapters

    def record(pipe: StableDiffusionPipeline, name: str) -> None:
        gone.append(name)
        delete(pipe, name)

    monkeypatch.setattr(StableDiffusionPipeline, "delete_adapters", record)
    first = draw(model, loras=using("fine")).pixels

    draw(model, loras=using("v1.5 detail"))

    assert len(gone) >= 1
    assert np.array_equal(draw(model, loras=using("fine")).pixels, first)


def test_a_lora_that_arrives_later_is_used_without_a_restart(folder: Path, lora_dir: Path, tmp_path: Path) -> None:
    model = loaded(folder, lora_dir=tmp_path)
    plain = draw(model).pixels
    before = model.fingerprint()
    shutil.copy(lora_dir / "fine.safetensors", tmp_path / "late.safetensors")

    request, _ = model.capabilities.resolve(GenerationRequest(prompt="a cat", seed=1, num_inference_steps=2))
    late = request.model_copy(update={"loras": (Lora(name="late"),)})
    (image,) = model.generate(late, Inputs(), RecordingWatch())

    assert not np.array_equal(image.pixels, plain)
    assert model.fingerprint() != before


def test_a_replaced_file_is_loaded_anew_and_a_deleted_one_is_an_error(
    folder: Path, lora_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.safetensors"
    shutil.copy(lora_dir / "fine.safetensors", file)
    model = loaded(folder, lora_dir=tmp_path)
    first = draw(model, loras=using("mine")).pixels

    shutil.copy(lora_dir / "v1.5 detail" / "weights.safetensors", file)
    second = draw(model, loras=using("mine")).pixels
    file.unlink()

    assert not np.array_equal(first, second)
    with pytest.raises(InvalidRequest, match="The LoRA mine is no longer in SD_LORA_DIR"):
        draw(model, loras=using("mine"))
    assert np.array_equal(draw(loaded(folder)).pixels, draw(model).pixels)
