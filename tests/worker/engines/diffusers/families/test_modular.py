"""Modular pipelines: listed, described and run like others, with the pixels of diffusers alone."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from shared.errors import ConfigurationError
from shared.jobs.types import Backend
from shared.models.catalogue import ModelEntry, ModelState
from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.diffusers.families import models
from tests.worker.engines.diffusers.families.conftest import HEIGHT, WIDTH, Model
from tests.worker.engines.drawing import NOTHING, draw, preview_of, right_half, speckled
from tests.worker.images.image_checks import Pixels
from tests.worker.recording_watch import RecordingWatch
from worker.engines.base import Step
from worker.engines.diffusers.loading.local_models import LocalModels
from worker.engines.diffusers.options import DiffusersOptions
from worker.images.values import Inputs
from worker.models.catalogue import Catalogue
from worker.models.sources import STARTER, folder_model

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|tests)")

STEPS, GUIDANCE, STRENGTH = 2, 3.0, 0.6
SIZE = {"width": WIDTH, "height": HEIGHT}
IMAGE, MASK = speckled(WIDTH, HEIGHT), right_half(WIDTH, HEIGHT)
FIELDS = {**SIZE, "guidance_scale": GUIDANCE, "negative_prompt": "a dog"}


def sdxl() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return diffusers.StableDiffusionXLPipeline.from_pretrained(tiny.save_sdxl(Path(folder)))


#: The ordinary pipeline that gives the parts, the family, and whether it starts from an image and repaints a mask.
MODULAR: dict[str, tuple[Callable[[], Any], str, bool, bool]] = {
    "ZImageModularPipeline": (models.z_image, "z-image", True, False),
    "QwenImageModularPipeline": (models.qwen_image, "qwen-image", True, True),
    "StableDiffusionXLModularPipeline": (sdxl, "sdxl", True, True),
    "FluxModularPipeline": (models.flux, "flux-dev", True, False),
    "Flux2KleinModularPipeline": (lambda: models.klein(distilled=True), "flux2-klein", False, False),
    "ErnieImageModularPipeline": (models.ernie_image, "ernie-image", False, False),
}


def save(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    ordinary, pipe = MODULAR[name][0](), getattr(diffusers, name)()
    parts = {key: part for key, part in ordinary.components.items() if key in pipe.component_names and part is not None}
    pipe.update_components(**parts)
    pipe.save_pretrained(str(folder), overwrite_modular_index=True)
    return folder


def bare_pixels(model: Model, **arguments: Any) -> Pixels:
    given = {"prompt": "a cat", **SIZE, "num_inference_steps": STEPS, **arguments}
    is_guided = "negative_prompt" not in model.engine.capabilities.ignored
    if is_guided:
        given["negative_prompt"] = "a dog"
    if "guidance_scale" in model.bare.blocks.input_names:
        given["guidance_scale"] = GUIDANCE
    elif is_guided:
        guider = model.bare.guider.new(guidance_scale=GUIDANCE, enabled=True)
        model.bare.update_components(guider=guider)
    images = model.bare(**given, generator=torch.Generator().manual_seed(1), output="images", output_type="pil")
    return np.asarray(images[0])


@pytest.fixture(scope="module", params=MODULAR)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, stand_ins: None) -> Model:
    return Model(request.param, save(request.param, tmp_path_factory.mktemp("modular") / "model"))


def entries(folder: Path) -> dict[str, ModelEntry]:
    """As a worker lists them."""
    catalogue = Catalogue(folder, (), settling_seconds=0)
    starter = folder_model("starter", STARTER)
    found = LocalModels(catalogue, starter, DiffusersOptions(device="cpu"), Backend.SD).scan()
    return {name: entry for name, entry in found.items() if name != "starter"}


def test_the_pixels_are_those_of_diffusers_alone(model: Model) -> None:
    drawn = draw(model.engine, **FIELDS, num_inference_steps=STEPS)

    assert np.array_equal(drawn.pixels, bare_pixels(model))
    assert drawn.counted == [(1, STEPS), (2, STEPS)]


def test_it_is_listed_with_what_its_family_can_do(model: Model) -> None:
    (entry,) = entries(model.folder.parent).values()

    _, family, starts, repaints = MODULAR[model.name]
    assert (entry.name, entry.state, entry.family) == ("model", ModelState.AVAILABLE, family)
    capabilities = entry.capabilities
    assert capabilities is not None
    assert ("strength" not in capabilities.ignored, capabilities.inpainting) == (starts, repaints)


def test_an_image_is_changed_as_by_diffusers_alone(model: Model) -> None:
    if not MODULAR[model.name][2]:
        assert model.engine._pipelines.image is None
        return

    drawn = draw(model.engine, Inputs((IMAGE,)), **FIELDS, num_inference_steps=4, strength=STRENGTH)

    arguments = {"image": Image.fromarray(IMAGE), "strength": STRENGTH, "num_inference_steps": 4}
    assert np.array_equal(drawn.pixels, bare_pixels(model, **arguments))
    # As the ordinary pipelines round: those with a UNet down.
    steps = 2 if hasattr(model.bare, "unet") else 3
    assert drawn.counted == [(step, steps) for step in range(1, steps + 1)]


def test_a_mask_is_repainted_as_by_diffusers_alone(model: Model) -> None:
    if not MODULAR[model.name][3]:
        assert not model.engine.capabilities.inpainting
        return

    drawn = draw(model.engine, Inputs((IMAGE,), MASK), **FIELDS, num_inference_steps=4, strength=STRENGTH)

    arguments = {"image": Image.fromarray(IMAGE), "mask_image": Image.fromarray(MASK), "strength": STRENGTH}
    expected = bare_pixels(model, **arguments, num_inference_steps=4)
    assert np.array_equal(drawn.pixels[:, : WIDTH // 2], IMAGE[:, : WIDTH // 2])
    assert np.array_equal(drawn.pixels[:, WIDTH // 2 :], expected[:, WIDTH // 2 :])


def test_a_job_is_cancelled_within_a_step_and_the_next_one_runs(model: Model) -> None:
    steps: list[int] = []

    def stop(step: Step) -> None:
        steps.append(step.step)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(model.engine, NOTHING, RecordingWatch(stop), **FIELDS, num_inference_steps=5)

    assert steps == [1]
    assert draw(model.engine, **FIELDS, num_inference_steps=1).pixels.shape == (HEIGHT, WIDTH, 3)


def test_every_step_has_a_preview_in_the_shape_of_the_image(model: Model) -> None:
    shown: list[Pixels] = []

    draw(model.engine, NOTHING, RecordingWatch(lambda step: shown.append(preview_of(step))), **FIELDS)

    rows, columns, _ = shown[-1].shape
    assert len(shown) == STEPS
    assert rows / columns == HEIGHT / WIDTH


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"_class_name": "WanModularPipeline", "_blocks_class_name": None},
            "is a WanModularPipeline, which makes no images.",
        ),
        ({"_class_name": "FutureModularPipeline"}, "is a FutureModularPipeline, which the installed diffusers does"),
        ({"_class_name": "ZImagePipeline"}, "names a ZImagePipeline, which belongs to another format."),
        ({"_class_name": "ModularPipeline"}, "names a ModularPipeline, which belongs to another format."),
        ({"_blocks_class_name": "OwnBlocks"}, "needs its own code, which this service never runs."),
        ({"transformer": ["its.code", "Network", {}]}, "needs its own code, which this service never runs."),
        ({"unet": ["diffusers", "UNet2DConditionModel", {}]}, "Its part unet is missing."),
    ],
)
def test_one_that_cannot_run_is_listed_with_the_reason(
    changes: dict[str, Any], reason: str, z_image: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(z_image, tmp_path / "model")
    index = folder / "modular_model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | changes))

    (entry,) = entries(tmp_path).values()

    assert entry.state is ModelState.BROKEN
    assert entry.reason is not None
    assert reason in entry.reason


def test_code_beside_the_index_is_never_run(z_image: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(z_image, tmp_path / "model")
    (folder / "modular_config.json").write_text(json.dumps({"auto_map": {"ModularPipelineBlocks": "block.Own"}}))
    (folder / "block.py").write_text("raise SystemExit")

    with pytest.raises(ConfigurationError, match="needs its own code"):
        loaded(folder)
    (entry,) = entries(tmp_path).values()
    assert entry.state is ModelState.BROKEN


def test_weights_in_a_pickle_are_never_loaded(z_image: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(z_image, tmp_path / "model")
    (weights,) = (folder / "transformer").glob("*.safetensors")
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()

    with pytest.raises(ConfigurationError, match="no file named"):
        loaded(folder)


def test_parts_are_never_downloaded(z_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sources in the index are names of the hub, or folders of another machine."""
    folder = shutil.copytree(z_image, tmp_path / "model")
    index = folder / "modular_model_index.json"
    content = json.loads(index.read_text())
    for part in content.values():
        if isinstance(part, list):
            part[2]["pretrained_model_name_or_path"] = "owner/elsewhere"
    index.write_text(json.dumps(content))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("connects"))

    assert draw(loaded(folder), **FIELDS).pixels.shape == (HEIGHT, WIDTH, 3)


@pytest.fixture(scope="module")
def z_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("ZImageModularPipeline", tmp_path_factory.mktemp("z-image") / "model")
