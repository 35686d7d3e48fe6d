"""What a single file holds is told from its header: by shapes, by markers, by ModelSpec, and by its name."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.worker.models.checkpoints.headers import (
    Shapes,
    clip_shapes,
    flux_shapes,
    sd2_shapes,
    sd15_shapes,
    sdxl_shapes,
    unet_shapes,
    write_header,
)
from worker.models.checkpoints.header import read_header
from worker.models.checkpoints.recognition import Recognised, recognise
from worker.models.checkpoints.rejections import NotACheckpoint

EPSILON, VELOCITY = "epsilon", "v_prediction"
LCM_UNET = {"model.diffusion_model.time_embed.cond_proj.weight": (32, 256)}


def recognised(folder: Path, name: str, shapes: Shapes, metadata: Mapping[str, str] | None = None) -> Recognised:
    file = write_header(folder / f"{name}.safetensors", shapes, metadata)
    return recognise(read_header(file), name)


@pytest.mark.parametrize(
    ("name", "shapes", "pipeline", "key"),
    [
        ("dreamshaper_8", sd15_shapes(), "StableDiffusionPipeline", "sd1"),
        ("sd-v1-5-inpainting", sd15_shapes(9), "StableDiffusionInpaintPipeline", "sd1"),
        ("v2-1_768-ema-pruned", sd2_shapes(), "StableDiffusionPipeline", "sd2"),
        ("512-inpainting-ema", sd2_shapes(9), "StableDiffusionInpaintPipeline", "sd2"),
        ("juggernautXL_v9", sdxl_shapes(), "StableDiffusionXLPipeline", "sdxl"),
        ("sd_xl_base_1.0_inpainting", sdxl_shapes(9), "StableDiffusionXLInpaintPipeline", "sdxl"),
        ("sd_xl_turbo_1.0_fp16", sdxl_shapes(), "StableDiffusionXLPipeline", "sdxl-turbo"),
        ("dreamshaperXL_turboDpmppSDE", sdxl_shapes(), "StableDiffusionXLPipeline", "sdxl-lightning"),
        ("HyperRealismXL", sdxl_shapes(), "StableDiffusionXLPipeline", "sdxl"),
        ("LCM_Dreamshaper_v7", sd15_shapes() | LCM_UNET, "LatentConsistencyModelPipeline", None),
    ],
)
def test_models_of_stable_diffusion(name: str, shapes: Shapes, pipeline: str, key: str | None, tmp_path: Path) -> None:
    found = recognised(tmp_path, name, shapes)

    assert (found.variant.pipeline_class, found.variant.family_key) == (pipeline, key)
    assert found.missing == ()


@pytest.mark.parametrize(
    ("name", "shapes", "pipeline", "key"),
    [
        ("flux1-dev", flux_shapes(), "FluxPipeline", "flux-dev"),
        ("flux1-schnell", flux_shapes(guidance=False), "FluxPipeline", "flux-schnell"),
        ("flux1-fill-dev", flux_shapes(384), "FluxFillPipeline", "flux-fill"),
        ("flux1-kontext-dev", flux_shapes(), "FluxKontextPipeline", "flux-kontext"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_transformers_of_flux(prefix: str, name: str, shapes: Shapes, pipeline: str, key: str, tmp_path: Path) -> None:
    found = recognised(tmp_path, name, {f"{prefix}{tensor}": shape for tensor, shape in shapes.items()})

    assert (found.variant.pipeline_class, found.variant.family_key) == (pipeline, key)
    assert found.missing == ("vae", "text_encoder", "text_encoder_2")


@pytest.mark.parametrize(
    ("name", "shapes", "metadata", "prediction"),
    [
        ("sd15", sd15_shapes(), {}, None),
        ("v2-1_768-nonema-pruned", sd2_shapes(), {}, VELOCITY),
        ("512-base-ema", sd2_shapes(), {}, EPSILON),
        ("any", sd2_shapes(), {"modelspec.prediction_type": "epsilon"}, EPSILON),
        ("any", sd15_shapes(), {"modelspec.prediction_type": "v"}, VELOCITY),
        ("noob", sdxl_shapes() | {"v_pred": (0,), "ztsnr": (0,)}, {}, VELOCITY),
        ("noobaiXL_vPred10", sdxl_shapes(), {}, VELOCITY),
        ("any", sdxl_shapes(), {}, EPSILON),
    ],
)
def test_what_a_model_predicts(
    name: str, shapes: Shapes, metadata: dict[str, str], prediction: str | None, tmp_path: Path
) -> None:
    found = recognised(tmp_path, name, shapes, metadata)

    assert found.configs["scheduler"].get("prediction_type") == prediction


def test_distilled_models_get_their_scheduler(tmp_path: Path) -> None:
    lcm = recognised(tmp_path, "someLCM", sd15_shapes())
    lightning = recognised(tmp_path, "sdxl_lightning_4step", sdxl_shapes())
    schnell = recognised(tmp_path, "flux1-schnell", flux_shapes(guidance=False))

    assert lcm.index["scheduler"] == ["diffusers", "LCMScheduler"]
    assert lightning.configs["scheduler"]["timestep_spacing"] == "trailing"
    assert schnell.configs["scheduler"]["shift"] == 1.0
    assert schnell.configs["transformer"]["guidance_embeds"] is False


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({"lora_unet_down_blocks_0.lora_up.weight": (4, 4)}, "This is a LoRA: put it into SD_LORA_DIR."),
        ({"unet.down_blocks.0.to_q.lora_A.weight": (4, 4)}, "This is a LoRA: put it into SD_LORA_DIR."),
        ({"emb_params": (4, 768)}, "This is a textual inversion embedding: put it into SD_EMBEDDING_DIR."),
        (
            {"clip_l": (1, 768), "clip_g": (1, 1280)},
            "This is a textual inversion embedding: put it into SD_EMBEDDING_DIR.",
        ),
        ({"control_model.time_embed.0.weight": (4, 4)}, "This is a ControlNet, which is not supported."),
        ({"decoder.conv_in.weight": (4, 4)}, "The file holds only an autoencoder, not a whole model."),
        (
            {"conv_first.weight": (4, 4), "body.0.weight": (4, 4)},
            "The file holds only an upscaler (put it into SD_MODEL_DIR/upscalers)",
        ),
        ({"text_model.embeddings.x.weight": (4, 4)}, "The file holds only a text encoder, not a whole model."),
        ({"conditioner.embedders.0.model.x": (4,)}, "This is the refiner of Stable Diffusion XL, which draws no image"),
        ({"weights": (4, 4)}, "No supported family of models has such tensors"),
        (unet_shapes(8) | clip_shapes(), "This Stable Diffusion needs an image to edit as input"),
        (unet_shapes(7) | clip_shapes(), "This Stable Diffusion needs an image to enlarge as input"),
        (flux_shapes(128), "FLUX.1 Depth and Canny need a control image"),
        (sdxl_shapes() | {"edm_mean": (4,)}, "Playground 2.5 is supported as a folder"),
    ],
)
def test_what_is_no_model_is_named(shapes: Shapes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(NotACheckpoint) as caught:
        recognised(tmp_path, "file", shapes)

    assert str(caught.value).startswith(reason)


def test_a_part_of_an_unusual_layout_is_named(tmp_path: Path) -> None:
    shapes = sd15_shapes()
    del shapes["model.diffusion_model.middle_block.1.transformer_blocks.0.norm1.weight"]

    with pytest.raises(NotACheckpoint, match="Its denoiser has an unusual layout"):
        recognised(tmp_path, "file", shapes)


def test_authors_tell_title_licence_and_trigger_words(tmp_path: Path) -> None:
    metadata = {
        "modelspec.title": "Fox  \n Painter",
        "modelspec.license": "CC-BY-NC-4.0",
        "modelspec.trigger_phrase": "fox style, , fox style,ink",
        "ss_tag_frequency": "x" * 100_000,
    }

    spec = recognised(tmp_path, "file", sd15_shapes(), metadata).spec

    assert (spec.title, spec.licence, spec.trigger_words) == ("Fox Painter", "CC-BY-NC-4.0", ("fox style", "ink"))


def test_long_texts_of_a_header_are_ignored(tmp_path: Path) -> None:
    """One of 16 MB with millions of words would take seconds and a gigabyte at each scan."""
    metadata = {"modelspec.title": "x" * 5000, "modelspec.trigger_phrase": "fox," * 100_000}

    spec = recognised(tmp_path, "file", sd15_shapes(), metadata).spec

    assert (spec.title, spec.trigger_words) == (None, ())
