"""Every family: the pixels of diffusers alone, progress, cancelling, previews, sizes and warnings."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shared.errors import InvalidRequest
from shared.jobs.requests import GenerationRequest
from tests.worker.engines.diffusers.families.conftest import HEIGHT, WIDTH, Model
from tests.worker.engines.drawing import REFERENCE, Drawn, draw, preview_of, right_half, speckled
from tests.worker.images.image_checks import Pixels
from tests.worker.recording_watch import RecordingWatch
from worker.engines.base import Step
from worker.engines.diffusers.acceleration.sample_calls import SampleCall
from worker.engines.diffusers.acceleration.tensor_trees import tensors_in
from worker.engines.diffusers.loading.warm_up import prepare
from worker.engines.diffusers.options import DiffusersOptions, Level
from worker.images.values import Inputs

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|tests)")

STEPS = 2
SIZE = {"width": WIDTH, "height": HEIGHT}
CFG = {"guidance_scale": 3.0, "negative_prompt": "a dog"}
#: How diffusers alone is called, beside prompt, size, steps and seed.
CALLS: dict[str, dict[str, Any]] = {
    "sd1": CFG,
    "sd2": CFG,
    "sdxl": CFG,
    "sdxl-turbo": CFG,
    "lcm": {"guidance_scale": 3.0},
    "sd3": CFG,
    "flux-dev": {"guidance_scale": 3.0},
    "flux-schnell": {"guidance_scale": 0.0, "max_sequence_length": 256},
    "flux-kontext": {"guidance_scale": 3.0, "max_area": WIDTH * HEIGHT},
    "flux-fill": {"guidance_scale": 3.0},
    "flux2-dev": {"guidance_scale": 3.0},
    "flux2-klein": {"guidance_scale": 1.0},
    "flux2-klein-base": {"guidance_scale": 3.0},
    "z-image": CFG,
    "z-image-turbo": {"guidance_scale": 0.0},
    "qwen-image": {"true_cfg_scale": 3.0, "negative_prompt": "a dog"},
    "qwen-image-edit": {"true_cfg_scale": 3.0, "negative_prompt": "a dog"},
    "qwen-image-edit-plus": {"true_cfg_scale": 3.0, "negative_prompt": "a dog"},
    "chroma": CFG,
    "sana": {**CFG, "use_resolution_binning": False},
    "sana-sprint": {"guidance_scale": 3.0, "use_resolution_binning": False},
    "lumina2": {**CFG, "cfg_trunc_ratio": 0.25},
    "pixart-sigma": {**CFG, "use_resolution_binning": False},
    "krea2": CFG,
    "krea2-turbo": {"guidance_scale": 0.0},
    "ernie-image": CFG,
    "ernie-image-turbo": {"guidance_scale": 1.0},
    "kandinsky5": CFG,
}
#: Steps and guidance by default, and fields without effect.
DEFAULTS: dict[str, tuple[int, float, set[str]]] = {
    "sd1": (25, 7.5, set()),
    "sd2": (25, 7.5, set()),
    "sdxl": (25, 5.0, set()),
    "sdxl-turbo": (4, 0.0, set()),
    "lcm": (4, 8.5, {"negative_prompt"}),
    "sd3": (28, 4.5, set()),
    "flux-dev": (28, 3.5, {"negative_prompt"}),
    "flux-schnell": (4, 0.0, {"negative_prompt", "guidance_scale"}),
    "flux-kontext": (28, 2.5, {"negative_prompt", "strength"}),
    "flux-fill": (50, 30.0, {"negative_prompt", "strength"}),
    "flux2-dev": (50, 4.0, {"negative_prompt", "strength"}),
    "flux2-klein": (4, 1.0, {"negative_prompt", "guidance_scale", "strength"}),
    "flux2-klein-base": (50, 4.0, {"negative_prompt", "strength"}),
    "z-image": (50, 4.0, set()),
    "z-image-turbo": (9, 0.0, {"negative_prompt", "guidance_scale"}),
    "qwen-image": (50, 4.0, set()),
    "qwen-image-edit": (50, 4.0, {"strength"}),
    "qwen-image-edit-plus": (40, 4.0, {"strength"}),
    "chroma": (40, 3.0, set()),
    "sana": (20, 4.5, {"strength"}),
    "sana-sprint": (2, 4.5, {"negative_prompt"}),
    "lumina2": (50, 4.0, {"strength"}),
    "pixart-sigma": (20, 4.5, {"strength", "loras"}),
    "krea2": (28, 4.5, {"strength"}),
    "krea2-turbo": (8, 0.0, {"negative_prompt", "guidance_scale", "strength"}),
    "ernie-image": (50, 4.0, {"strength"}),
    "ernie-image-turbo": (8, 1.0, {"negative_prompt", "guidance_scale", "strength"}),
    "kandinsky5": (50, 3.5, {"strength"}),
}
#: What only CLIP can do, as the only text encoder.
READ_BY_CLIP = {name: {"clip_skip"} for name in ("sd1", "sd2", "lcm")}


def inputs_of(model: Model) -> Inputs:
    """What the family cannot do without."""
    needs = model.engine.capabilities.requires
    images = (speckled(WIDTH, HEIGHT),) if "image" in needs else ()
    return Inputs(images, right_half(WIDTH, HEIGHT) if "mask" in needs else None)


def steps_of(model: Model) -> int:
    """Lumina 2 is guided in the first quarter only."""
    return 4 if model.name == "lumina2" else STEPS


def rendered(model: Model, watch: RecordingWatch | None = None, /, **fields: Any) -> Drawn:
    given = {**SIZE, "num_inference_steps": steps_of(model), **CFG, **fields}
    return draw(model.engine, inputs_of(model), watch, **given)


def bare_pixels(model: Model, **arguments: Any) -> Pixels:
    arguments = {"prompt": "a cat", **SIZE, "num_inference_steps": steps_of(model), **CALLS[model.name], **arguments}
    result = model.bare(**arguments, generator=torch.Generator().manual_seed(1), output_type="np")
    images = result.image if model.name == "kandinsky5" else result.images
    return (np.asarray(images)[0] * 255).round().astype(np.uint8)


def needed_by_bare(model: Model) -> dict[str, Any]:
    inputs = inputs_of(model)
    found: dict[str, Any] = {"image": [Image.fromarray(pixels) for pixels in inputs.images]} if inputs.images else {}
    if model.name in ("qwen-image-edit", "flux-fill") and found:
        found = {"image": found["image"][0]}
    return found | ({"mask_image": Image.fromarray(inputs.mask)} if inputs.mask is not None else {})


def test_the_pixels_are_those_of_diffusers_alone(model: Model) -> None:
    drawn = rendered(model)

    expected = bare_pixels(model, **needed_by_bare(model))
    # Outside the mask, the engine keeps every pixel.
    columns = slice(WIDTH * 3 // 4, None) if model.name == "flux-fill" else slice(None)
    assert np.array_equal(drawn.pixels[:, columns], expected[:, columns])
    assert drawn.pixels.shape == (HEIGHT, WIDTH, 3)
    assert drawn.counted == [(step + 1, steps_of(model)) for step in range(steps_of(model))]


def test_defaults_are_those_that_the_model_was_trained_for(model: Model) -> None:
    steps, guidance, ignored = DEFAULTS[model.name]
    capabilities = model.engine.capabilities

    assert (capabilities.num_inference_steps, capabilities.guidance_scale) == (steps, guidance)
    assert model.engine._pipelines.family.key == model.name
    named = {"negative_prompt", "guidance_scale", "strength", "loras"}
    assert set(capabilities.ignored) & named == ignored


def test_fields_without_effect_give_a_warning(model: Model) -> None:
    fields = {"prompt": "x", "negative_prompt": "y", "guidance_scale": 2.0, "clip_skip": 2}
    image = {"image": [REFERENCE], "strength": 0.5}

    _, warnings = model.engine.capabilities.resolve(GenerationRequest.model_validate({**fields, **image, **SIZE}))

    ignored = {warning.partition(" is ignored")[0] for warning in warnings if " is ignored" in warning}
    assert ignored == DEFAULTS[model.name][2] - {"loras"} | ({"clip_skip"} - READ_BY_CLIP.get(model.name, set()))


def test_a_request_needs_no_negative_prompt(model: Model) -> None:
    assert draw(model.engine, inputs_of(model), **SIZE, num_inference_steps=1).pixels.shape == (HEIGHT, WIDTH, 3)


@dataclass
class Shapes:
    """Stands in for an accelerator, and notes what a denoiser would be compiled for."""

    denoiser: Any
    noted: list[list[torch.Size]] = field(default_factory=list)

    def prepare(self, sizes: Sequence[str], images: Sequence[int], run: Callable[[str, int], object]) -> None:
        for size, count in itertools.product(sizes, images):
            self.note(partial(run, size, count))

    def note(self, run: Callable[[], object]) -> None:
        call = SampleCall.record(self.denoiser, run)
        self.noted.append([tensor.shape for tensor in tensors_in((call.args, call.kwargs))])


def test_a_model_is_compiled_for_the_calls_that_requests_make(model: Model) -> None:
    engine = model.engine
    shapes: Any = Shapes(engine._pipelines.denoiser)
    options = DiffusersOptions(level=Level.FAST, compile_sizes=(f"{WIDTH}x{HEIGHT}",))

    prepare(shapes, engine._pipelines, engine.capabilities, options, 1)

    if engine.capabilities.requires:
        assert shapes.noted == []
    else:
        shapes.note(lambda: draw(engine, prompt="x", **SIZE, num_inference_steps=1))
        assert shapes.noted[0] == shapes.noted[1]


def test_a_job_is_cancelled_within_a_step(model: Model) -> None:
    steps: list[int] = []

    def stop(step: Step) -> None:
        steps.append(step.step)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rendered(model, RecordingWatch(stop), num_inference_steps=5)

    assert steps == [1]
    assert rendered(model, num_inference_steps=1).pixels.shape == (HEIGHT, WIDTH, 3)


def test_every_step_has_a_preview_in_the_shape_of_the_image(model: Model) -> None:
    shown: list[Pixels] = []

    rendered(model, RecordingWatch(lambda step: shown.append(preview_of(step))))

    rows, columns, _ = shown[-1].shape
    assert len(shown) == steps_of(model)
    assert rows / columns == HEIGHT / WIDTH
    assert (shown[-1].min(), shown[-1].max()) == (0, 255)


def test_sides_are_multiples_of_what_the_model_needs(model: Model) -> None:
    capabilities = model.engine.capabilities
    side = capabilities.width // capabilities.multiple_of * capabilities.multiple_of

    request = {"prompt": "x", "image": [REFERENCE] if capabilities.requires else []}
    request |= {"mask": REFERENCE} if "mask" in capabilities.requires else {}
    capabilities.check(GenerationRequest.model_validate({**request, "width": side, "height": side}))
    with pytest.raises(InvalidRequest) as caught:
        capabilities.check(GenerationRequest.model_validate({**request, "width": side - 1, "height": side}))
    assert [error.pointer for error in caught.value.errors] == ["/width"]
