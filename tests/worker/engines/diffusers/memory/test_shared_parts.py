"""Which parts of several models are the same, and so read and held once."""

import json
import shutil
from pathlib import Path
from typing import Any, get_type_hints

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.worker.engines import tiny
from tests.worker.engines.diffusers.checkpoints import original_layouts
from tests.worker.engines.diffusers.checkpoints.tiny_models import single_file, tiny_pipeline
from tests.worker.engines.diffusers.families import parts
from tests.worker.engines.diffusers.families.models import save_model
from tests.worker.engines.diffusers.memory.two_models import (
    ONE,
    OTHER,
    SIZE,
    bare_pixels,
    change,
    load,
    models_in,
    part_of,
    pixels_of,
    pool_of,
    shared_names,
)
from tests.worker.engines.drawing import draw
from worker.engines.diffusers.engine import DiffusersEngine
from worker.engines.diffusers.loading.pipelines import load_pipelines
from worker.engines.diffusers.memory.shared_parts import PartLoading, SharedParts
from worker.engines.diffusers.options import DiffusersOptions
from worker.engines.held_models import total_bytes
from worker.models.contents.part_sources import is_changed_by_loras
from worker.models.families import FAMILIES
from worker.models.sources import folder_model

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|peft)")


def test_equal_parts_are_read_and_counted_once_and_the_pixels_are_those_of_diffusers_alone(
    two_models: Path, parts_read: list[str]
) -> None:
    pool = pool_of(models_in(two_models))

    with pool.use(ONE) as one, pool.use(OTHER) as other:
        assert isinstance(one, DiffusersEngine)
        assert isinstance(other, DiffusersEngine)
        assert shared_names(one, other) == {"text_encoder", "vae"}
        assert sorted(parts_read) == ["text_encoder", "transformer", "transformer", "vae"]
        assert total_bytes(pool.models) == sum(other.sizes.values()) + one.sizes[id(part_of(one, "transformer"))]
        for name, engine in ((ONE, one), (OTHER, other), (ONE, one)):
            assert np.array_equal(pixels_of(engine), bare_pixels(two_models / name))


def test_parts_with_other_weights_are_not_shared(two_models: Path) -> None:
    change(two_models / OTHER / "text_encoder")
    models = models_in(two_models)

    assert shared_names(load(models, ONE), load(models, OTHER)) == {"vae"}


def test_only_configurations_that_mean_the_same_are_shared(two_models: Path) -> None:
    rewrite(two_models / OTHER / "text_encoder" / "config.json", _name_or_path="elsewhere", transformers_version="1")
    rewrite(two_models / OTHER / "vae" / "config.json", scaling_factor=0.5)
    models = models_in(two_models)

    assert shared_names(load(models, ONE), load(models, OTHER)) == {"text_encoder"}


def rewrite(config: Path, **changes: Any) -> None:
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))


def test_parts_in_another_precision_are_not_shared(two_models: Path) -> None:
    model, shared = folder_model(ONE, two_models / ONE), SharedParts()
    loaded = [
        load_pipelines(
            model, torch.device("cpu"), getattr(torch, dtype), DiffusersOptions(), PartLoading(model, dtype, shared)
        )
        for dtype in ("float32", "bfloat16", "float32")
    ]

    encoders = [pipelines.text.text_encoder for pipelines in loaded]
    assert encoders[0] is encoders[2]
    assert encoders[1].dtype is torch.bfloat16


def test_a_part_that_its_model_has_converted_for_a_while_is_not_taken(two_models: Path) -> None:
    models = models_in(two_models)
    one = load(models, ONE)
    part_of(one, "vae").to(torch.bfloat16)

    assert shared_names(one, load(models, OTHER)) == {"text_encoder"}


def test_what_loras_and_embeddings_change_belongs_to_one_model(tmp_path: Path) -> None:
    tiny.save_sd(tmp_path / ONE)
    shutil.copytree(tmp_path / ONE, tmp_path / OTHER)
    models = models_in(tmp_path)

    assert shared_names(load(models, ONE), load(models, OTHER)) == {"vae"}


def test_no_shared_part_is_one_that_diffusers_loads_loras_into() -> None:
    """A private attribute tells which: as of diffusers 0.42."""
    changed = set()
    for name in {name for family in FAMILIES for name in family.pipelines}:
        types = get_type_hints(getattr(diffusers, name).__init__)
        parts = getattr(getattr(diffusers, name), "_lora_loadable_modules", [])
        changed |= {(part, types[part].__name__, name) for part in parts if part in types}

    others = {one for one in changed if one[0] not in ("unet", "transformer") and not is_changed_by_loras(one[1])}
    assert others == {("text_encoder", "T5EncoderModel", "ChromaPipeline")}


def test_a_lora_changes_no_text_encoder_that_other_models_may_have(tmp_path: Path) -> None:
    folder, loras = save_model("chroma", tmp_path), tmp_path / "loras"
    width = {"hidden": parts.WIDTH, "denoiser": 16}
    loras.mkdir()
    weights = {"text_encoder.encoder.block.0.layer.0.SelfAttention.q": width["hidden"]}
    weights["transformer.transformer_blocks.0.attn.to_q"] = width["denoiser"]
    pairs = {f"{layer}.lora_{way}.weight": side for layer, side in weights.items() for way in ("A", "B")}
    shapes = {name: (2, side) if ".lora_A" in name else (side, 2) for name, side in pairs.items()}
    save_file({name: torch.randn(shape) for name, shape in shapes.items()}, loras / "both.safetensors")
    engine = load(models_in(tmp_path, lora_dir=loras), folder.name)
    before = dict(part_of(engine, "text_encoder").named_parameters())

    drawn = draw(engine, **SIZE, loras=[{"name": "both"}])

    assert "2 of 4 weights have no effect" in drawn.watch.warnings[0]
    assert dict(part_of(engine, "text_encoder").named_parameters()).keys() == before.keys()


def test_transformers_on_one_base_share_its_parts_without_comparing_files(tmp_path: Path) -> None:
    pipe = tiny_pipeline("flux1")
    pipe.save_pretrained(tmp_path / "owner" / "base")
    for name in (ONE, OTHER):
        with torch.no_grad():
            pipe.transformer.proj_out.weight.mul_(-1)
        original_layouts.write(tmp_path / f"{name}.safetensors", original_layouts.flux(pipe.transformer))
    models = models_in(tmp_path)
    one, other, base = (load(models, name) for name in (ONE, OTHER, "owner/base"))

    assert shared_names(one, other) == shared_names(one, base) == {"text_encoder_2", "vae"}
    assert not (tmp_path / "data").exists()
    pixels = [draw(engine, **SIZE).pixels for engine in (one, other, base)]
    assert not np.array_equal(pixels[0], pixels[1])
    # The second change undoes the first.
    assert np.array_equal(pixels[1], pixels[2])


def test_parts_of_single_files_are_shared_as_well(tmp_path: Path) -> None:
    pipe = tiny_pipeline("sd15")
    original_layouts.write(tmp_path / f"{ONE}.safetensors", *single_file("sd15", pipe))
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(-1)
    original_layouts.write(tmp_path / f"{OTHER}.safetensors", *single_file("sd15", pipe))
    models = models_in(tmp_path)
    one, other = load(models, ONE), load(models, OTHER)

    assert shared_names(one, other) == {"vae"}
    assert np.array_equal(draw(other, **SIZE).pixels, draw(load(models_in(tmp_path), OTHER), **SIZE).pixels)
