"""Batches of jobs: each image has exactly the pixels that it would have alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from shared.jobs.requests import GenerationRequest
from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.drawing import NOTHING, REFERENCE, draw, preview_of, right_half, speckled
from tests.worker.images.image_checks import Pixels
from tests.worker.recording_watch import RecordingWatch
from worker.engines.base import Step
from worker.engines.diffusers.denoising.batch_invariance import batch_invariant
from worker.engines.diffusers.engine import DiffusersEngine
from worker.images.values import Inputs, RenderedImage
from worker.jobs.batching import BatchWatch

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")

HEART = {"prompt": "a red heart on a blue background", "seed": 42}
STARS = {"prompt": "a yellow star on a green background", "seed": 7, "num_images": 2}
APPLE = {"prompt": "a green apple", "negative_prompt": "blue", "seed": 3}
REQUESTS = (HEART, STARS, APPLE)
SMALL = {"width": 64, "height": 64}


def rendered_as_batch(
    model: DiffusersEngine,
    requests: Sequence[dict[str, Any]],
    watches: Sequence[RecordingWatch] = (),
    inputs: Sequence[Inputs] = (),
) -> list[list[RenderedImage]]:
    """The images of each request, with two steps by default, rendered as one batch."""
    resolved = [
        model.capabilities.resolve(GenerationRequest.model_validate({"num_inference_steps": 2, **fields}))[0]
        for fields in requests
    ]
    watch = BatchWatch(watches or [RecordingWatch() for _ in resolved], [request.num_images for request in resolved])
    batch = model.generate_batch(resolved, inputs or [NOTHING] * len(resolved), watch)
    return [list(images) for images in batch]


def same(one: Sequence[RenderedImage], other: Sequence[RenderedImage]) -> bool:
    return [image.seed for image in one] == [image.seed for image in other] and all(
        np.array_equal(*pair) for pair in zip((p.pixels for p in one), (p.pixels for p in other), strict=True)
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch size of each prediction."""
    counted: list[int] = []
    forward = UNet2DConditionModel.forward

    def counting(self: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        counted.append(len(sample))
        return forward(self, sample, *args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", counting)
    return counted


@pytest.mark.parametrize(
    "shared",
    [
        {},
        {**SMALL, "guidance_scale": 1.0},
        {**SMALL, "negative_prompt": "red"},
        {"width": 72, "height": 104, "scheduler": "euler_a", "num_inference_steps": 3},
    ],
    ids=["by default", "without guidance", "with a negative prompt", "of odd size, with noise at each step"],
)
def test_every_image_has_the_pixels_that_it_would_have_alone(
    starter: DiffusersEngine, shared: dict[str, Any], calls: list[int]
) -> None:
    requests = [{**request, **shared} for request in REQUESTS]

    batch = rendered_as_batch(starter, requests)

    assert set(calls) == {4 if "guidance_scale" in shared else 8}
    for images, request in zip(batch, requests, strict=True):
        for index, image in enumerate(images):
            alone = draw(starter, **{**request, "seed": request["seed"] + index, "num_images": 1})
            assert np.array_equal(image.pixels, alone.pixels)


@pytest.mark.parametrize("masked", [False, True], ids=["whole images", "within masks"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_each_job_of_a_batch_has_its_own_init_image(
    starter: DiffusersEngine, masked: bool, strength: float, calls: list[int]
) -> None:
    scene, mask = speckled(64, 64), right_half(64, 64)
    inputs = [
        Inputs((scene,), mask if masked else None),
        Inputs((scene[::-1].copy(),), mask.T.copy() if masked else None),
        Inputs((255 - scene,), mask[:, ::-1].copy() if masked else None),
    ]
    edit: dict[str, Any] = {"image": (REFERENCE,), "mask": REFERENCE if masked else None, "strength": strength}
    requests = [{**request, **edit, **SMALL, "num_inference_steps": 4} for request in REQUESTS]

    batch = rendered_as_batch(starter, requests, inputs=inputs)

    assert set(calls) == {8}
    for images, request, job_inputs in zip(batch, requests, inputs, strict=True):
        for index, image in enumerate(images):
            alone = draw(starter, job_inputs, **{**request, "seed": request["seed"] + index, "num_images": 1})
            assert np.array_equal(image.pixels, alone.pixels)


def test_inputs_that_all_images_share_are_computed_once() -> None:
    computed: list[int] = []

    class Counted(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            computed.append(len(x))
            return super().forward(x)

    class OnCpu(torch.nn.Sequential):
        device = torch.device("cpu")

    layer, one, others = Counted(8, 8), torch.rand(2, 8), torch.rand(4, 8)
    model = OnCpu(layer)
    # With guidance: all images without their prompts, then all with them.
    shared, different = one.repeat_interleave(3, 0), torch.cat([one, others])
    with torch.no_grad(), batch_invariant(model, 3):
        of_shared, calls_for_shared = layer(shared), list(computed)
        of_different = layer(different)

    assert calls_for_shared == [2]
    assert computed == [2] * 4
    assert torch.equal(of_shared, layer(one).repeat_interleave(3, 0))
    assert torch.equal(of_different[[0, 3]], layer(different[[0, 3]]))


def test_a_batch_leaves_the_model_unchanged(starter: DiffusersEngine) -> None:
    before = draw(starter, **HEART, **SMALL)

    rendered_as_batch(starter, [{**request, **SMALL} for request in REQUESTS])

    assert same(draw(starter, **HEART, **SMALL).images, before.images)


def test_a_warning_about_a_prompt_goes_to_its_job_only(starter: DiffusersEngine) -> None:
    watches = [RecordingWatch(), RecordingWatch()]

    rendered_as_batch(starter, [HEART, {**APPLE, "prompt": "apple " * 100}], watches)

    assert watches[0].warnings == []
    assert "prompt is too long" in watches[1].warnings[0]


def test_each_job_gets_previews_of_its_own_image(starter: DiffusersEngine) -> None:
    shown: list[list[Pixels]] = [[], []]
    watches = [
        RecordingWatch(lambda step: shown[0].append(preview_of(step))),
        RecordingWatch(lambda step: shown[1].append(preview_of(step))),
    ]

    heart, stars = rendered_as_batch(starter, [{**HEART, **SMALL}, {**STARS, **SMALL}], watches)

    assert np.abs(shown[0][-1].astype(int) - heart[0].pixels).mean() < 1
    assert np.abs(shown[1][-1].astype(int) - stars[0].pixels).mean() < 1


def test_a_batch_that_did_not_fit_is_not_repeated(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("starter")
    counting = UNet2DConditionModel.forward

    def full(self: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = counting(self, sample, *args, **kwargs)
        if len(sample) > 2 * 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return result

    monkeypatch.setattr(UNet2DConditionModel, "forward", full)
    shown: list[Any] = []
    watches = [RecordingWatch(), RecordingWatch(), RecordingWatch()]
    watches[2].on_step = lambda step: shown.append(step.render_preview and step.render_preview(0))

    first = rendered_as_batch(model, REQUESTS, watches)

    resolved, _ = model.capabilities.resolve(GenerationRequest.model_validate(HEART))
    assert [len(images) for images in first] == [1, 2, 1]
    assert watches[2].warnings == ["memory was short: images were made one by one"]
    # There is no preview of it while the others are rendered.
    assert [preview is None for preview in shown] == [True] * 6 + [False] * 2
    assert model.batch_capacity(resolved) == 3
    assert model.batch_capacity(resolved.model_copy(update={"width": 256, "height": 128})) == 1


def test_an_inpainting_model_renders_one_image_at_a_time(tmp_path: Path) -> None:
    model = loaded(tiny.save_inpainting(tmp_path))
    pair = draw(model, num_images=2)

    assert np.array_equal(pair.images[1].pixels, draw(model, seed=2).pixels)
    assert model.batch_capacity(GenerationRequest(prompt="x", width=64, height=64)) == 1


@pytest.mark.parametrize("save", [tiny.save_sd, tiny.save_sdxl], ids=["sd", "sdxl"])
def test_prompts_are_encoded_once_and_give_the_same_pixels_again(save: Any, tmp_path: Path) -> None:
    model = loaded(save(tmp_path))
    encoded: list[object] = []
    for name in ("text_encoder", "text_encoder_2"):
        if (encoder := getattr(model._pipelines.text, name, None)) is not None:
            encoder.register_forward_hook(lambda *_: encoded.append(1))
    first = draw(model, negative_prompt="dog")
    once = len(encoded)

    again, other = draw(model, negative_prompt="dog"), draw(model, prompt="a bird", negative_prompt="dog")

    assert np.array_equal(again.pixels, first.pixels)
    assert not np.array_equal(other.pixels, first.pixels)
    # Only the other prompt: the negative one is cached.
    assert len(encoded) == once * 3 // 2


def test_a_cancelled_job_does_not_end_the_others(starter: DiffusersEngine) -> None:
    class Cancelled(Exception):
        pass

    def cancel(_: Step) -> None:
        raise Cancelled

    watches = [RecordingWatch(), RecordingWatch()]
    watches[0].on_step = cancel

    _, apple = rendered_as_batch(starter, [{**HEART, **SMALL}, {**APPLE, **SMALL}], watches)

    assert same(apple, draw(starter, **APPLE, **SMALL).images)
