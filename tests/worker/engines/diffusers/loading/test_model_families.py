"""Models of common architectures load and render; their weights are random."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shared.errors import ConfigurationError, OutOfMemory
from shared.jobs.requests import GenerationRequest
from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.drawing import preview_of
from tests.worker.recording_watch import RecordingWatch
from worker.engines.base import Step
from worker.engines.diffusers.engine import DiffusersEngine
from worker.images.values import Inputs, RenderedImage
from worker.models.sources import STARTER

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")

FAMILIES: dict[str, Callable[[Path], Path]] = {"sd": tiny.save_sd, "sdxl": tiny.save_sdxl}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DiffusersEngine:
    return loaded(FAMILIES[request.param](tmp_path_factory.mktemp(request.param)))


def drawn(
    model: DiffusersEngine, on_step: Callable[[Step], None] = lambda _: None, **fields: object
) -> list[RenderedImage]:
    unresolved = GenerationRequest.model_validate({"prompt": "a cat", "seed": 1, "num_inference_steps": 2, **fields})
    request, _ = model.capabilities.resolve(unresolved)
    return list(model.generate(request, Inputs(), RecordingWatch(on_step)))


def test_the_default_size_comes_from_the_model(model: DiffusersEngine) -> None:
    assert (model.capabilities.width, model.capabilities.height) == (tiny.NATIVE_SIDE, tiny.NATIVE_SIDE)


def test_a_request_without_a_size_gets_the_default_size(model: DiffusersEngine) -> None:
    (image,) = drawn(model)

    assert image.pixels.shape == (tiny.NATIVE_SIDE, tiny.NATIVE_SIDE, 3)


def test_each_of_several_images_has_its_own_seed(model: DiffusersEngine) -> None:
    assert [image.seed for image in drawn(model, num_images=3)] == [1, 2, 3]


def test_four_channel_latents_have_a_preview(model: DiffusersEngine) -> None:
    steps: list[Step] = []

    drawn(model, steps.append)

    preview = preview_of(steps[0])
    # One pixel per latent; in this model that is half the size of the image.
    assert preview.shape == (tiny.NATIVE_SIDE // 2, tiny.NATIVE_SIDE // 2, 3)
    assert (preview.min(), preview.max()) == (0, 255)


def test_an_exception_in_a_step_ends_the_rendering(model: DiffusersEngine) -> None:
    steps = []

    def stop(step: Step) -> None:
        steps.append(step.step)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn(model, stop, num_inference_steps=5)

    assert steps == [1]


@pytest.fixture
def crowded() -> Callable[[Step], None]:
    """A step that allocates more memory than any machine has."""

    def fill(_: Step) -> None:
        torch.empty(2**60)

    return fill


def test_out_of_memory_suggests_the_models_default_size(
    model: DiffusersEngine, crowded: Callable[[Step], None]
) -> None:
    with pytest.raises(OutOfMemory, match="64x64"):
        drawn(model, crowded, width=128, height=128)


def test_a_local_model_is_named_by_its_folder(model: DiffusersEngine) -> None:
    assert Path(model.capabilities.model).is_dir()


@pytest.mark.parametrize("name", ["OwnPipeline", "utils", "UNet2DConditionModel", "os.system", "", "KolorsPipeline"])
def test_a_pipeline_that_diffusers_does_not_have_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))

    with pytest.raises(ConfigurationError, match=f"is a {name}, which the installed diffusers does not have"):
        loaded(tmp_path)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_pickled_weights_are_refused(tmp_path: Path, part: str) -> None:
    folder = tiny.save_sd(tmp_path / "tiny")
    (weights,) = (folder / part).glob("*.safetensors")
    names = {"model.safetensors": "pytorch_model.bin"}
    weights.rename(weights.with_name(names.get(weights.name, f"{weights.stem}.bin")))

    with pytest.raises(ConfigurationError, match="could not be loaded"):
        loaded(folder)


def test_a_missing_device_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="SD_DEVICE is cuda:99"):
        loaded("starter", device="cuda:99")


def test_the_starter_model_overrides_the_defaults(starter: DiffusersEngine) -> None:
    capabilities = starter.capabilities

    assert (capabilities.model, capabilities.num_inference_steps, capabilities.guidance_scale) == ("starter", 20, 4.0)
    assert (STARTER / "imagegen.json").is_file()
