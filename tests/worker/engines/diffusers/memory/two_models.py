"""Two models with the same parts but for their transformers, and what they draw."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from shared.jobs.types import Backend
from tests.worker.engines.drawing import draw
from tests.worker.engines.test_loaded_models import Reports
from tests.worker.images.image_checks import Pixels
from worker.engines.base import Engine
from worker.engines.diffusers.engine import DiffusersEngine
from worker.engines.diffusers.loading.local_models import LocalModels
from worker.engines.diffusers.options import DiffusersOptions
from worker.engines.loaded_models import LoadedModels
from worker.engines.model_memory import MemoryBudget
from worker.models.catalogue import Catalogue
from worker.models.sources import STARTER, folder_model

SIZE = {"width": 64, "height": 64, "num_inference_steps": 2}
ONE, OTHER = "one", "other"


def models_in(folder: Path, **options: Any) -> LocalModels:
    default = folder_model("starter", STARTER)
    options = {"device": "cpu", "data_dir": folder / "data", **options}
    models = LocalModels(Catalogue(folder, settling_seconds=0), default, DiffusersOptions(**options), Backend.SD)
    models.scan()
    return models


def load(models: LocalModels, name: str) -> DiffusersEngine:
    return models.load(name, lambda *_: None)


def pool_of(models: LocalModels, limit: int = 1 << 40, **budget: Any) -> LoadedModels:
    return LoadedModels(models, MemoryBudget(limit_bytes=limit, **budget), Reports())


def part_of(engine: DiffusersEngine, name: str) -> Any:
    return getattr(engine._pipelines.text, name)


def shared_names(one: DiffusersEngine, other: DiffusersEngine) -> set[str]:
    names = one._pipelines.text.components
    return {name for name in names if getattr(part_of(one, name), "parameters", None) and _is_same(one, other, name)}


def _is_same(one: DiffusersEngine, other: DiffusersEngine, name: str) -> bool:
    return part_of(one, name) is part_of(other, name)


def bare_pixels(folder: Path) -> Pixels:
    pipe = diffusers.ZImagePipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    fields = {"prompt": "a cat", "negative_prompt": "a dog", "guidance_scale": 3.0, **SIZE}
    image = pipe(**fields, generator=torch.Generator().manual_seed(1), output_type="np").images[0]
    pixels: Pixels = (image * 255).round().astype(np.uint8)
    return pixels


def pixels_of(engine: Engine) -> Pixels:
    return draw(engine, **SIZE, guidance_scale=3.0, negative_prompt="a dog").pixels


def change(part: Path) -> None:
    """One number of its weights; the file keeps its size."""
    (file,) = part.glob("*.safetensors")
    weights = load_file(file)
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, file, metadata={"format": "pt"})
