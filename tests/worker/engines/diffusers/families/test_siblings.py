"""Input images and masks: by other pipelines of diffusers on the same weights, or by the family's own."""

import inspect
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.diffusers.families.conftest import HEIGHT, WIDTH, Model
from tests.worker.engines.diffusers.families.test_families import CALLS, CFG, SIZE
from tests.worker.engines.drawing import draw, right_half, speckled
from tests.worker.images.image_checks import Pixels
from worker.images.values import Inputs

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|tests)")

STEPS, STRENGTH = 4, 0.6
IMAGE, MASK = speckled(WIDTH, HEIGHT), right_half(WIDTH, HEIGHT)
#: The pipelines of diffusers that start from an image, and that repaint what a mask shows.
SIBLINGS: dict[str, tuple[str | None, str | None]] = {
    "sd1": ("StableDiffusionImg2ImgPipeline", None),
    "sd2": ("StableDiffusionImg2ImgPipeline", None),
    "sdxl": ("StableDiffusionXLImg2ImgPipeline", None),
    "sdxl-turbo": ("StableDiffusionXLImg2ImgPipeline", None),
    "lcm": ("StableDiffusionImg2ImgPipeline", None),
    "sd3": ("StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"),
    "flux-dev": ("FluxImg2ImgPipeline", "FluxInpaintPipeline"),
    "flux-schnell": ("FluxImg2ImgPipeline", "FluxInpaintPipeline"),
    "flux-kontext": (None, "FluxKontextInpaintPipeline"),
    "z-image": ("ZImageImg2ImgPipeline", "ZImageInpaintPipeline"),
    "z-image-turbo": ("ZImageImg2ImgPipeline", "ZImageInpaintPipeline"),
    "qwen-image": ("QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline"),
    "chroma": ("ChromaImg2ImgPipeline", None),
    "flux2-klein": (None, "Flux2KleinInpaintPipeline"),
    "flux2-klein-base": (None, "Flux2KleinInpaintPipeline"),
    "sana-sprint": ("SanaSprintImg2ImgPipeline", None),
}


def bare_pixels(model: Model, name: str, **arguments: Any) -> Pixels:
    pipeline = getattr(diffusers, name)
    parts = {key: part for key, part in model.bare.components.items() if key in inspect.signature(pipeline).parameters}
    parts |= {"is_distilled": True} if model.name == "flux2-klein" else {}
    pipe = pipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    arguments = {"prompt": "a cat", **SIZE, "num_inference_steps": STEPS, **CALLS[model.name], **arguments}
    # Of Sana Sprint: it has such a timestep for two steps only.
    arguments["intermediate_timesteps"] = None
    known = inspect.signature(pipeline.__call__).parameters
    images = pipe(
        **{key: value for key, value in arguments.items() if key in known},
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images
    return (np.asarray(images)[0] * 255).round().astype(np.uint8)


def test_an_image_is_changed_as_by_diffusers_alone(model: Model) -> None:
    name, _ = SIBLINGS.get(model.name, (None, None))
    if name is None:
        assert model.engine._pipelines.image is None
        return

    drawn = draw(model.engine, Inputs((IMAGE,)), **{**SIZE, **CFG, "num_inference_steps": STEPS, "strength": STRENGTH})

    expected = bare_pixels(model, name, image=Image.fromarray(IMAGE), strength=STRENGTH)
    assert np.array_equal(drawn.pixels, expected)
    assert drawn.counted[-1][0] == drawn.counted[-1][1]
    assert all(step <= steps for step, steps in drawn.counted)


def test_a_mask_is_repainted_as_by_diffusers_alone(model: Model) -> None:
    _, name = SIBLINGS.get(model.name, (None, None))
    if name is None:
        # Stable Diffusion blends latents, which is tested with its init images.
        others = model.name in ("flux-fill", "qwen-image-edit") or model.engine._pipelines.family.blends_masks
        assert others or not model.engine.capabilities.inpainting
        return

    inputs = Inputs((IMAGE,), MASK)
    drawn = draw(model.engine, inputs, **{**SIZE, **CFG, "num_inference_steps": STEPS, "strength": STRENGTH})

    arguments = {"image": Image.fromarray(IMAGE), "mask_image": Image.fromarray(MASK), "strength": STRENGTH}
    arguments |= {"_auto_resize": False} if model.name == "flux-kontext" else {}
    expected = bare_pixels(model, name, **arguments)
    assert np.array_equal(drawn.pixels[:, : WIDTH // 2], IMAGE[:, : WIDTH // 2])
    assert np.array_equal(drawn.pixels[:, WIDTH // 2 :], expected[:, WIDTH // 2 :])


def test_images_to_look_at_change_the_result(model: Model) -> None:
    count = model.engine._pipelines.family.references
    if not count:
        return

    fields = {**SIZE, **CFG, "num_inference_steps": 2}
    one, other = (draw(model.engine, Inputs((pixels,)), **fields).pixels for pixels in (IMAGE, 255 - IMAGE))

    assert not np.array_equal(one, other)
    if count > 1:
        assert not np.array_equal(draw(model.engine, Inputs((IMAGE, IMAGE)), **fields).pixels, one)


def test_an_inpainting_model_repaints_as_diffusers_alone(tmp_path: Path) -> None:
    folder = tiny.save_inpainting(tmp_path / "model")
    bare = diffusers.StableDiffusionInpaintPipeline.from_pretrained(folder)
    bare.set_progress_bar_config(disable=True)
    given = {**SIZE, **CFG, "num_inference_steps": STEPS, "strength": STRENGTH}

    drawn = draw(loaded(folder), Inputs((IMAGE,), MASK), **given)

    images = {"image": Image.fromarray(IMAGE), "mask_image": Image.fromarray(MASK)}
    image = bare("a cat", **images, **given, generator=torch.Generator().manual_seed(1)).images[0]
    assert np.array_equal(drawn.pixels[:, WIDTH // 2 :], np.asarray(image)[:, WIDTH // 2 :])
    assert np.array_equal(drawn.pixels[:, : WIDTH // 2], IMAGE[:, : WIDTH // 2])
