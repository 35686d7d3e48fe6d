"""Model folders with weights in every precision and in shards, or damaged in every way."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from shared.errors import ConfigurationError
from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.drawing import draw
from tests.worker.images.image_checks import Pixels
from worker.models.weight_files import choose_weights

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")

CLASSES: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
USUAL = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All weights are exact in half precision, so that every variant gives the same image."""
    folder = tiny.save_sd(tmp_path_factory.mktemp("whole"))
    for part, kind in CLASSES.items():
        kind.from_pretrained(folder / part).half().to(torch.bfloat16).float().save_pretrained(folder / part)
    return folder


@pytest.fixture(scope="module")
def expected(whole: Path) -> Pixels:
    return draw(loaded(whole)).pixels


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


def keep_as(folder: Path, part: str, variant: str, *, shards: bool = False) -> None:
    """Replaces the weights of a part by this variant."""
    model = CLASSES[part].from_pretrained(folder / part)
    for weights in (folder / part).glob("*.safetensors"):
        weights.unlink()
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[variant]
    model.to(dtype).save_pretrained(folder / part, variant=variant, max_shard_size="3KB" if shards else "1GB")
    assert len(list((folder / part).glob("*.safetensors"))) > 1 or not shards


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("parts", [list(CLASSES), ["vae"], ["text_encoder"]])
def test_weights_may_exist_only_in_half_precision(
    folder: Path, expected: Pixels, parts: list[str], shards: bool, variant: str
) -> None:
    for part in parts:
        keep_as(folder, part, variant, shards=shards)

    model = loaded(folder)

    assert model.dtype == "float32"
    assert np.array_equal(draw(model).pixels, expected)


def test_each_part_may_have_its_own_variant(folder: Path, expected: Pixels) -> None:
    keep_as(folder, "unet", "fp16", shards=True)
    keep_as(folder, "vae", "bf16")
    (folder / "text_encoder" / "LICENSE").touch()
    (folder / "text_encoder" / ".DS_Store").touch()

    assert np.array_equal(draw(loaded(folder)).pixels, expected)


def test_the_most_suitable_of_several_variants_is_loaded(folder: Path, expected: Pixels) -> None:
    spoilt = {key: torch.zeros_like(tensor) for key, tensor in load_file(folder / "unet" / USUAL).items()}
    save_file(spoilt, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors", {"format": "pt"})
    save_file(spoilt, folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors", {"format": "pt"})

    assert np.array_equal(draw(loaded(folder)).pixels, expected)


@pytest.mark.parametrize(
    ("dtype", "variant"), [("float32", ""), ("float16", "fp16"), ("bfloat16", "bf16"), ("auto", "fp16")]
)
def test_the_variant_depends_on_the_dtype(dtype: str, variant: str) -> None:
    names = {
        "": ["model.safetensors"],
        "fp16": ["model.fp16-00001-of-00002.safetensors", "model.safetensors.index.fp16.json"],
        "bf16": ["model-00001-of-00002.bf16.safetensors", "model.safetensors.index.bf16.json"],
        "ema": ["model.ema.safetensors"],
    }

    assert choose_weights([name for files in names.values() for name in files], dtype) == (variant, names[variant])


def cut_off(folder: Path) -> None:
    weights = folder / "unet" / USUAL
    os.truncate(weights, weights.stat().st_size - 100)


def without_a_layer(folder: Path) -> None:
    weights = load_file(folder / "vae" / USUAL)
    weights.pop("decoder.conv_in.weight")
    save_file(weights, folder / "vae" / USUAL, {"format": "pt"})


def without_a_shard(folder: Path) -> None:
    keep_as(folder, "unet", "fp16", shards=True)
    next((folder / "unet").glob("*-00002-of-*.safetensors")).unlink()


def without_any_shard(folder: Path) -> None:
    keep_as(folder, "unet", "fp16", shards=True)
    for weights in (folder / "unet").glob("*.safetensors"):
        weights.unlink()


def without_a_part(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def with_a_broken_configuration(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("{")


def with_another(part: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, part: value}))

    change.__name__ = f"with_{value}"
    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_off, "could not be loaded"),
        (without_a_layer, "decoder.conv_in.weight is missing"),
        (without_a_shard, "00002-of-"),
        (without_any_shard, "could not be loaded"),
        (without_a_part, "could not be loaded"),
        (with_a_broken_configuration, "config.json of the model"),
        (
            with_another("unet", ["diffusers", "NoSuchModel"]),
            "which the installed diffusers does not have",
        ),
        (with_another("unet", ["diffusers", "DiffusionPipeline"]), "which the installed diffusers does not have"),
        (with_another("scheduler", ["diffusers", "utils"]), "could not be loaded"),
        (with_another("unet", ["own_code", "OwnModel"]), "needs its own code"),
        (with_another("unet", [{}, "OwnModel"]), "needs its own code"),
        (
            with_another("../unet", ["diffusers", "UNet2DConditionModel"]),
            "needs its own code",
        ),
    ],
)
def test_a_model_that_cannot_be_loaded_is_reported_in_one_sentence(
    folder: Path, damage: Callable[[Path], None], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(folder)

    with caplog.at_level(logging.CRITICAL), pytest.raises(ConfigurationError) as caught:
        loaded(folder)

    assert message in caught.value.detail
    assert "\n" not in caught.value.detail
    assert str(folder) in caught.value.detail


def test_code_in_a_models_folder_is_not_run(folder: Path, tmp_path: Path, expected: Pixels) -> None:
    ran = tmp_path / "ran"
    for part in (*CLASSES, "."):
        for name in ("pipeline.py", "modeling_own.py", "__init__.py"):
            (folder / part / name).write_text(f"open({str(ran)!r}, 'w')")
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_own.CLIPTextModel"}
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config))

    assert np.array_equal(draw(loaded(folder)).pixels, expected)
    assert not ran.exists()


def test_files_that_change_while_they_are_loaded_are_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = AutoencoderKL.from_pretrained

    def swap_meanwhile(*arguments: Any, **named: Any) -> Any:
        os.utime(folder / "unet" / USUAL, (0, 0))
        return load(*arguments, **named)

    monkeypatch.setattr(AutoencoderKL, "from_pretrained", swap_meanwhile)

    with pytest.raises(ConfigurationError, match="changed while they were loaded; start again when they are complete"):
        loaded(folder)
