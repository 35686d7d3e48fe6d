"""Small models of every family, each loaded once by the engine and once by diffusers alone."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import pytest
import transformers
from diffusers.pipelines.flux import pipeline_flux_kontext, pipeline_flux_kontext_inpaint
from diffusers.pipelines.qwenimage import (
    pipeline_qwenimage_edit,
    pipeline_qwenimage_edit_inpaint,
    pipeline_qwenimage_edit_plus,
)

from tests.worker.conftest import loaded
from tests.worker.engines.diffusers.families.models import MODELS, SAVED, save_model
from tests.worker.engines.diffusers.families.pixel_processor import PixelProcessor
from worker.engines.diffusers.engine import DiffusersEngine
from worker.engines.diffusers.loading import pipeline_loading
from worker.models.local_model import MODULAR_INDEX

#: Of small images; Sana needs multiples of 32.
WIDTH, HEIGHT = 96, 64


@dataclass
class Model:
    name: str
    """Of its family, or of its modular pipeline."""
    folder: Path

    @cached_property
    def engine(self) -> DiffusersEngine:
        return loaded(self.folder)

    @cached_property
    def bare(self) -> Any:
        """The pipeline of diffusers alone."""
        if (self.folder / MODULAR_INDEX).is_file():
            pipe = diffusers.ModularPipeline.from_pretrained(str(self.folder))
            pipe.load_components()
            return pipe
        pipe = diffusers.DiffusionPipeline.from_pretrained(self.folder)
        pipe.set_progress_bar_config(disable=True)
        return pipe


@pytest.fixture(scope="session")
def stand_ins() -> Iterator[None]:
    """For what needs torchvision, and for sizes that pipelines choose themselves, which are all large."""
    patch = pytest.MonkeyPatch()
    patch.setattr(transformers, "Qwen2VLProcessor", PixelProcessor)
    patch.setattr(pipeline_loading, "is_torchvision_available", lambda: True)
    sizes = property(lambda _: [(WIDTH, HEIGHT), (HEIGHT, HEIGHT)], lambda *_: None)
    patch.setattr(diffusers.Kandinsky5T2IPipeline, "resolutions", sizes, raising=False)
    for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus, pipeline_qwenimage_edit_inpaint):
        patch.setattr(module, "calculate_dimensions", _small_dimensions(module.calculate_dimensions))
    for module in (pipeline_flux_kontext, pipeline_flux_kontext_inpaint):
        patch.setattr(module, "PREFERRED_KONTEXT_RESOLUTIONS", [(WIDTH, HEIGHT)])
    yield
    patch.undo()


def _small_dimensions(calculate: Any) -> Any:
    """Input images would be scaled to a megapixel."""
    return lambda area, ratio: calculate(area // 256, ratio)


@pytest.fixture(scope="module", params=[*SAVED, *MODELS])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, stand_ins: None) -> Iterator[Model]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Model(request.param, save_model(request.param, tmp_path_factory.mktemp("model")))
