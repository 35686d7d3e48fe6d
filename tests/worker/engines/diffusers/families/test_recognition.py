"""Which family a model belongs to, from its index, its configurations and its name; and pipelines that none lists."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.diffusers.families import models, parts
from tests.worker.engines.diffusers.families.models import save_model
from tests.worker.engines.diffusers.families.parts import WIDTH
from tests.worker.engines.drawing import draw
from worker.engines.diffusers.capabilities import capabilities_of
from worker.engines.diffusers.options import DiffusersOptions
from worker.models.families import FAMILIES, UNLISTED, family_of
from worker.models.hub.licences import commercial_use_of
from worker.models.sources import folder_model

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")


def described(folder: Path, index: dict[str, Any], **configs: dict[str, Any]) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    for part, config in configs.items():
        (folder / part).mkdir()
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part / name).write_text(json.dumps(config))
    return folder_model(str(folder), folder)


@pytest.mark.parametrize(
    ("name", "pipeline", "configs", "key"),
    [
        ("Z-Image-Turbo", "ZImagePipeline", {}, "z-image-turbo"),
        ("Z-Image", "ZImagePipeline", {}, "z-image"),
        ("turbocharged", "ZImagePipeline", {}, "z-image"),
        ("ERNIE-Image-Turbo", "ErnieImagePipeline", {}, "ernie-image-turbo"),
        ("sd3.5_large_turbo", "StableDiffusion3Pipeline", {}, "sd3.5-turbo"),
        ("any", "FluxPipeline", {"transformer": {"guidance_embeds": True}}, "flux-dev"),
        ("any", "FluxPipeline", {"transformer": {"guidance_embeds": False}}, "flux-schnell"),
        ("dreamshaperXL_lightning", "StableDiffusionXLPipeline", {}, "sdxl-lightning"),
        ("my-XL", "StableDiffusionXLPipeline", {}, "sdxl"),
        ("any", "StableDiffusionPipeline", {"unet": {"time_cond_proj_dim": 256}}, "lcm"),
        ("any", "StableDiffusionPipeline", {"scheduler": {"_class_name": "LCMScheduler"}}, "sd-turbo"),
        ("any", "StableDiffusionPipeline", {"scheduler": {"prediction_type": "v_prediction"}}, "sd2"),
        ("any", "AuraFlowPipeline", {}, "unlisted"),
    ],
)
def test_variants_are_told_apart(name: str, pipeline: str, configs: dict[str, Any], key: str, tmp_path: Path) -> None:
    assert family_of(described(tmp_path / name, {"_class_name": pipeline}, **configs)).key == key


@pytest.mark.parametrize(
    ("overrides", "key"),
    [({"family": "z-image-turbo"}, "z-image-turbo"), ({"distilled": True}, "z-image-turbo"), ({}, "z-image")],
)
def test_the_operator_may_name_the_family(overrides: dict[str, Any], key: str, tmp_path: Path) -> None:
    (tmp_path / "imagegen.json").write_text(json.dumps(overrides))

    assert family_of(described(tmp_path, {"_class_name": "ZImagePipeline"})).key == key


@pytest.mark.parametrize(
    ("width", "index", "overrides", "key", "commercial"),
    [
        (7680, {"is_distilled": True}, {}, "flux2-klein", True),
        (7680, {}, {}, "flux2-klein-base", True),
        (12288, {"is_distilled": True}, {}, "flux2-klein-9b", False),
        (12288, {}, {}, "flux2-klein-9b-base", False),
        (7680, {}, {"distilled": True}, "flux2-klein", True),
        (12288, {}, {"distilled": True}, "flux2-klein-9b", False),
    ],
)
def test_only_the_small_klein_may_be_used_commercially(
    width: int, index: dict[str, Any], overrides: dict[str, Any], key: str, commercial: bool, tmp_path: Path
) -> None:
    (tmp_path / "imagegen.json").write_text(json.dumps(overrides))
    index = {"_class_name": "Flux2KleinPipeline", **index}

    family = family_of(described(tmp_path, index, transformer={"joint_attention_dim": width}))

    assert (family.key, commercial_use_of(family.licence)) == (key, commercial)


def test_licences_with_conditions_do_not_count_as_permission() -> None:
    """By their cards: Stability's community licence and NVIDIA's; merges have that of what was merged in."""
    permits = {family.key: commercial_use_of(family.licence) for family in FAMILIES}

    conditional = ("sd-turbo", "sdxl-turbo", "sdxl-lightning", "sd3", "sd3.5-turbo", "krea2", "krea2-turbo")
    assert [permits[key] for key in conditional] == [None] * len(conditional)
    forbidden = ("flux-dev", "flux-kontext", "flux-fill", "flux2-dev", "sana", "sana-sprint")
    assert [permits[key] for key in forbidden] == [False] * len(forbidden)


@pytest.mark.parametrize(
    "licence", ["CreativeML OpenRAIL-M", "creativeml-openrail-m", "Apache 2.0", "apache-2.0", "MIT"]
)
def test_a_licence_counts_by_its_name_as_by_its_id(licence: str) -> None:
    assert commercial_use_of(licence) is True


def test_a_distilled_family_is_for_models_that_others_with_its_pipeline_are_not() -> None:
    pipelines = {name for row in FAMILIES for name in row.pipelines}
    for name in pipelines:
        rows = [row for row in FAMILIES if name in row.pipelines]
        assert all(row.is_variant is not None for row in rows[:-1])
        assert rows[-1].is_variant is None or name == "FluxPipeline"


def test_every_named_pipeline_is_part_of_diffusers() -> None:
    named = {
        name
        for row in FAMILIES
        for name in (*row.pipelines, row.runs, row.siblings.image, row.siblings.inpaint)
        if name is not None and "{}" not in name
    }

    assert {name for name in named if not hasattr(diffusers, name)} == set()


def test_capabilities_need_no_weights(tmp_path: Path) -> None:
    folder = tiny.save_sd(tmp_path / "model")
    whole = capabilities_of(folder_model("model", folder), DiffusersOptions())
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()

    assert capabilities_of(folder_model("model", folder), DiffusersOptions()) == whole


def aura_flow() -> Any:
    return diffusers.AuraFlowPipeline(
        scheduler=parts.flow_scheduler(),
        vae=parts.autoencoder(shift_factor=None),
        **parts.t5(),
        transformer=diffusers.AuraFlowTransformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            **models.HEADS,
            joint_attention_dim=WIDTH,
            caption_projection_dim=16,
            out_channels=4,
            pos_embed_max_size=1024,
        ),
    )


def test_an_unlisted_pipeline_runs_with_what_its_signature_tells_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    builders: dict[str, Callable[[], Any]] = {"aura": aura_flow}
    monkeypatch.setattr(models, "MODELS", builders)
    folder = save_model("aura", tmp_path)

    with caplog.at_level("WARNING", "worker"):
        model = loaded(folder)

    assert "is a AuraFlowPipeline, which is not listed: its defaults are those of diffusers" in caplog.text
    assert model._pipelines.family.key == UNLISTED.key
    assert (model.capabilities.num_inference_steps, model.capabilities.guidance_scale) == (50, 3.5)
    bare = diffusers.AuraFlowPipeline.from_pretrained(folder)
    bare.set_progress_bar_config(disable=True)
    arguments = {"width": 64, "height": 64, "num_inference_steps": 2, "guidance_scale": 3.5, "output_type": "np"}
    expected = bare("a cat", generator=torch.Generator().manual_seed(1), **arguments).images[0]
    drawn = draw(model, width=64, height=64)
    assert np.array_equal(drawn.pixels, (expected * 255).round().astype(np.uint8))
    assert drawn.counted == [(1, 2), (2, 2)]
