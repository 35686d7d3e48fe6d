"""LoRAs of families with transformers, in the formats of diffusers and of PEFT."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

from shared.errors import InvalidRequest
from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.diffusers.families.models import save_model
from tests.worker.engines.drawing import draw
from worker.engines.diffusers.engine import DiffusersEngine

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|peft)")

FAMILIES = ("sd3", "flux-dev", "flux2-klein", "z-image", "qwen-image", "krea2", "lumina2")
SIZE = {"width": 64, "height": 64}
#: How names begin in the format of PEFT.
PEFT = "base_model.model."
#: A layer of FLUX.2, in files with the names of diffusers and of its authors.
NAMINGS = {"ours": "transformer.transformer_blocks.0.attn.to_out.0", "theirs": f"{PEFT}double_blocks.0.img_attn.proj"}


def lora_weights(transformer: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    weights = {}
    for path, module in transformer.named_modules():
        if path.endswith(("attn.to_q", "attn.to_v", "attention.to_q", "attention.to_v", "attn1.to_q", "attn1.to_v")):
            weights[f"{path}.lora_A.weight"] = torch.randn(2, module.in_features)
            weights[f"{path}.lora_B.weight"] = torch.randn(module.out_features, 2)
    assert weights
    return weights


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DiffusersEngine:
    """With the same LoRA in two formats, and one of another family."""
    folder = save_model(request.param, tmp_path_factory.mktemp("model"))
    lora_dir = tmp_path_factory.mktemp("loras")
    transformer = DiffusionPipeline.from_pretrained(folder).transformer
    weights = lora_weights(transformer)
    save_file({f"transformer.{key}": tensor for key, tensor in weights.items()}, lora_dir / "diffusers.safetensors")
    save_file({f"{PEFT}{key}": tensor for key, tensor in weights.items()}, lora_dir / "peft.safetensors")
    if request.param == "flux2-klein":
        layer = transformer.transformer_blocks[0].attn.to_out[0]
        down, up = torch.ones(2, layer.in_features), torch.ones(layer.out_features, 2)
        for file, name in NAMINGS.items():
            save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, lora_dir / f"{file}.safetensors")
    tiny.save_lora(lora_dir, "for-sd", tiny.save_sd(lora_dir.parent / f"sd-{request.param}"))
    return loaded(folder, lora_dir=lora_dir)


def using(name: str) -> list[dict[str, object]]:
    return [{"name": name, "scale": 1.0}]


def test_a_lora_changes_the_image_in_both_formats_and_leaves_nothing_behind(model: DiffusersEngine) -> None:
    before = draw(model, **SIZE).pixels

    one, other = (draw(model, **SIZE, loras=using(name)) for name in ("diffusers", "peft"))

    assert not np.array_equal(one.pixels, before)
    assert np.array_equal(one.pixels, other.pixels)
    assert one.watch.warnings == other.watch.warnings == []
    assert np.array_equal(draw(model, **SIZE).pixels, before)


def test_a_lora_of_another_family_is_one_clear_error(model: DiffusersEngine) -> None:
    before = draw(model, **SIZE).pixels

    with pytest.raises(InvalidRequest, match="The LoRA for-sd does not fit the model"):
        draw(model, **SIZE, loras=using("for-sd"))

    assert np.array_equal(draw(model, **SIZE).pixels, before)


@pytest.mark.parametrize("model", ["flux2-klein"], indirect=True)
def test_a_lora_in_the_format_of_peft_may_have_the_names_of_the_authors(model: DiffusersEngine) -> None:
    ours, theirs = (draw(model, **SIZE, loras=using(name)) for name in NAMINGS)

    assert np.array_equal(ours.pixels, theirs.pixels)
    assert not np.array_equal(ours.pixels, draw(model, **SIZE).pixels)
    assert theirs.watch.warnings == []
