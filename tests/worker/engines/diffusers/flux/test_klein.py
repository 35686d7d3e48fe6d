"""The flux-local engine, with random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

from shared.errors import ConfigurationError, InvalidImage, InvalidOutput, InvalidRequest, OutOfMemory
from shared.jobs.requests import GenerationRequest
from tests.worker.engines import tiny
from tests.worker.engines.diffusers.flux.klein import save_klein
from tests.worker.engines.drawing import NOTHING, REFERENCE, Drawn, draw, preview_of, speckled
from tests.worker.recording_watch import RecordingWatch
from worker.engines.base import Step
from worker.engines.diffusers.engine import DiffusersEngine
from worker.engines.diffusers.options import DiffusersOptions
from worker.images.values import Inputs
from worker.models.sources import ModelSource

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")


def loaded(folder: Path, **options: Any) -> DiffusersEngine:
    model = ModelSource("SD_FLUX_MODEL_ID", str(folder), Path("unused")).ensure_downloaded()
    return DiffusersEngine.load(model, DiffusersOptions(**{"device": "cpu", **options}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_klein(tmp_path_factory.mktemp("klein"))


@pytest.fixture(scope="module")
def model(folder: Path) -> DiffusersEngine:
    return loaded(folder)


def images(count: int) -> Inputs:
    return Inputs(tuple(np.roll(speckled(96, 64), number) for number in range(count)))


def small(model: DiffusersEngine, watch: RecordingWatch | None = None, /, **fields: Any) -> Drawn:
    return draw(model, NOTHING, watch, **{"width": 128, "height": 64, **fields})


def test_defaults_of_a_distilled_model_match_its_training(model: DiffusersEngine) -> None:
    request, warnings = model.capabilities.resolve(GenerationRequest(prompt="x"))

    assert (request.num_inference_steps, request.guidance_scale) == (4, 1.0)
    assert (request.width, request.height) == (1024, 1024)
    assert warnings == ()


def test_defaults_of_a_base_model_are_those_of_diffusers(tmp_path: Path) -> None:
    capabilities = loaded(save_klein(tmp_path, distilled=False)).capabilities

    assert (capabilities.num_inference_steps, capabilities.guidance_scale) == (50, 4.0)
    assert "guidance_scale" not in capabilities.ignored


def test_what_it_cannot_honour_is_told(model: DiffusersEngine) -> None:
    unresolved = GenerationRequest(
        prompt="x", negative_prompt="y", scheduler="euler", guidance_scale=3.5, image=(REFERENCE,), strength=0.5
    )

    _, warnings = model.capabilities.resolve(unresolved, (64, 64))

    ignored = {warning.partition(" is ignored")[0] for warning in warnings}
    assert ignored == {"negative_prompt", "scheduler", "guidance_scale", "strength"}


def test_an_image_has_the_requested_size_and_depends_on_the_seed(model: DiffusersEngine) -> None:
    drawn, again, other = small(model, num_images=2), small(model, seed=2), small(model, seed=3)

    assert [image.pixels.shape for image in drawn.images] == [(64, 128, 3)] * 2
    assert [image.seed for image in drawn.images] == [1, 2]
    assert np.array_equal(drawn.images[1].pixels, again.pixels)
    assert not np.array_equal(again.pixels, other.pixels)


@pytest.mark.parametrize(("distilled", "texts"), [(True, 1), (False, 2)], ids=["distilled", "with guidance"])
def test_prompts_are_encoded_once_and_give_the_image_of_the_plain_pipeline(
    tmp_path: Path, distilled: bool, texts: int
) -> None:
    model, read = loaded(save_klein(tmp_path, distilled=distilled)), list[int]()
    bare = model._pipelines.text(
        prompt="a cat",
        width=128,
        height=64,
        num_inference_steps=2,
        guidance_scale=1.0 if distilled else 4.0,
        generator=torch.Generator().manual_seed(2),
        output_type="np",
    ).images[0]
    model._pipelines.text.text_encoder.register_forward_hook(lambda *_: read.append(1))

    drawn = small(model, num_images=2)

    assert np.array_equal(drawn.images[1].pixels, (bare * 255).round().astype(np.uint8))
    assert len(read) == texts
    assert not np.array_equal(small(model, prompt="a bird", seed=2).pixels, drawn.images[1].pixels)
    assert np.array_equal(small(model, seed=2).pixels, drawn.images[1].pixels)
    assert len(read) == texts + 1


def test_steps_are_counted_over_all_images(model: DiffusersEngine) -> None:
    drawn = small(model, num_images=2)

    assert drawn.counted == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_every_step_has_a_preview_with_one_pixel_per_patch(model: DiffusersEngine) -> None:
    previews = [preview_of(step) for step in small(model).steps]

    assert [preview.shape for preview in previews] == [(64 // 16, 128 // 16, 3)] * 2
    assert (previews[0].min(), previews[0].max()) == (0, 255)


@pytest.mark.parametrize("count", [1, 4])
def test_every_input_image_changes_the_result(model: DiffusersEngine, count: int) -> None:
    edited = draw(model, images(count)).pixels
    fewer = draw(model, images(count - 1), width=96, height=64).pixels

    assert edited.shape == (64, 96, 3)
    assert not np.array_equal(edited, fewer)


def test_a_fifth_input_image_is_refused(model: DiffusersEngine) -> None:
    request = GenerationRequest(prompt="x", image=(REFERENCE,) * 5)

    with pytest.raises(InvalidRequest) as caught:
        model.capabilities.check(request)

    assert [(error.pointer, error.detail) for error in caught.value.errors] == [
        ("/image", "may contain at most 4 images")
    ]


@pytest.mark.parametrize("size", [(63, 200), (1024, 64)])
def test_an_unusable_input_image_is_refused_with_the_reason(model: DiffusersEngine, size: tuple[int, int]) -> None:
    with pytest.raises(InvalidImage, match="Each side must have at least 64 pixels, and one side at most 8 times"):
        draw(model, Inputs((speckled(*size),)), width=64, height=64)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"width": 72}, "/width"),
        ({"height": 2064}, "/height"),
        ({"width": 48}, "/width"),
    ],
)
def test_unsupported_values_are_refused_by_field(model: DiffusersEngine, fields: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        model.capabilities.check(GenerationRequest(prompt="x", image=(REFERENCE,), **fields))

    assert [error.pointer for error in caught.value.errors] == [pointer]


def test_an_exception_in_a_step_ends_the_rendering(model: DiffusersEngine) -> None:
    steps: list[int] = []

    def stop(step: Step) -> None:
        steps.append(step.step)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(model, RecordingWatch(stop), num_inference_steps=5)

    assert steps == [1]


def test_a_warning_says_how_much_of_a_long_prompt_is_ignored(model: DiffusersEngine) -> None:
    (warning,) = small(model, prompt="x" * 600).watch.warnings

    assert warning.startswith("prompt is too long: the model ignores its last 110 tokens")


def test_an_image_that_does_not_fit_is_decoded_in_tiles(
    model: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = AutoencoderKLFlux2.decode

    def short(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(self, *args, **kwargs)

    monkeypatch.setattr(AutoencoderKLFlux2, "decode", short)

    drawn = small(model, width=640)

    assert drawn.watch.warnings == ["memory was short: images were encoded and decoded in tiles"]
    assert not model._pipelines.text.vae.use_tiling


def test_a_job_that_never_fits_fails_and_suggests_the_cloud(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = loaded(folder, suggest_cloud=True)
    monkeypatch.setattr(Flux2Transformer2DModel, "forward", short)

    with pytest.raises(OutOfMemory, match="should fit, and the backend flux-api makes 2048x2048"):
        draw(model, width=2048, height=2048)


def test_a_broken_image_is_decoded_again_in_float32(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = AutoencoderKLFlux2.decode

    def overflowing(self: Any, *args: Any, **kwargs: Any) -> Any:
        (image,) = decode(self, *args, **kwargs)
        return (image if self.dtype is torch.float32 else image * torch.nan,)

    model = loaded(folder, dtype="bfloat16")
    monkeypatch.setattr(AutoencoderKLFlux2, "decode", overflowing)

    drawn = small(model)

    assert drawn.watch.warnings == ["the image came out black or broken: it was decoded again in float32"]
    assert model._pipelines.text.vae.dtype is torch.bfloat16


def test_an_image_that_is_always_broken_is_never_delivered(
    model: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutoencoderKLFlux2, "decode", lambda _, latents, **__: (latents.new_zeros(1, 3, 64, 128),))

    with pytest.raises(InvalidOutput):
        small(model)


@pytest.mark.parametrize("strict", [True, False])
def test_every_image_is_checked(folder: Path, tmp_path: Path, strict: bool) -> None:
    checker = tiny.save_checker(tmp_path, strict=strict)
    model = loaded(folder, safety_checker=lambda: checker)

    assert model.capabilities.safety == "checked"
    assert [image.flagged for image in small(model, num_images=2).images] == [strict] * 2


def test_on_a_cpu_it_runs_in_full_precision_and_stays_there(model: DiffusersEngine) -> None:
    assert (model.device, model.dtype, model.placement) == ("cpu", "float32", "resident")


def test_float16_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"SD_DTYPE is float16, in which FLUX\.2 Klein gives black images"):
        loaded(folder, dtype="float16")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = save_klein(tmp_path)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))

    with pytest.raises(ConfigurationError, match="could not be loaded"):
        loaded(folder)
