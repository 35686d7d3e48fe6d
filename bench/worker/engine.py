"""What the engine adds to a bare pipeline of diffusers, in one process: the same prompt, seed and steps for both."""

import gc
import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from bench.figures import Figure, Goal, Scale, compare
from shared.jobs.requests import GenerationRequest
from tests.worker.engines import tiny
from tests.worker.engines.diffusers.families.models import save_model
from tests.worker.recording_watch import RecordingWatch
from worker.engines.diffusers.engine import DiffusersEngine
from worker.engines.diffusers.options import DiffusersOptions
from worker.images.values import Inputs
from worker.models.sources import STARTER, ModelSource

#: One image each: they alternate so quickly that changes of the machine's speed affect both.
ROUNDS_OF_IMAGES = 3


@dataclass(frozen=True)
class Model:
    name: str
    save: Callable[[Path], Path]
    side: int
    guidance: float
    steps: int = 8


MODELS = (
    Model("starter model", lambda _: STARTER, side=128, guidance=3.0),
    Model("tiny SDXL", lambda folder: tiny.save_sdxl(folder / "sdxl"), side=64, guidance=5.0),
    Model("tiny FLUX.2 Klein", lambda folder: save_model("flux2-klein", folder), side=128, guidance=1.0, steps=4),
    Model("tiny Z-Image", lambda folder: save_model("z-image", folder), side=128, guidance=4.0),
)


def measure(scale: Scale) -> Iterator[Figure]:
    warnings.simplefilter("ignore")
    # As in workers, where the collector does not look through what was imported.
    gc.freeze()
    threads = torch.get_num_threads()
    # With several, CPU time includes that of threads that wait for each other.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="imagegen-bench-") as folder:
        for model in MODELS:
            yield _overhead(model, model.save(Path(folder)), scale)
    torch.set_num_threads(threads)


def _overhead(model: Model, folder: Path, scale: Scale) -> Figure:
    # Each image has a prompt of its own: the engine would not encode the same one again.
    prompts, bare_prompts = ((f"a red heart {number}" for number in itertools.count()) for _ in range(2))
    engine = _engine(model, folder, prompts)
    bare = _bare(model, folder, bare_prompts)
    if not np.array_equal(engine(), bare()):
        raise AssertionError(f"the engine draws another image of the {model.name} than diffusers")
    result = compare(
        lambda: _cpu_seconds_of(engine),
        lambda: _cpu_seconds_of(bare),
        scale,
        f"engine beside a bare pipeline: {model.name}",
        times=ROUNDS_OF_IMAGES,
    )
    detail = f"{result.our_median * 1000:.0f} ms of CPU, bare {result.their_median * 1000:.0f} ms"
    return result.figure(f"engine / bare pipeline, {model.name}", Goal(1.05), detail)


def _cpu_seconds_of(draw: Callable[[], object]) -> float:
    """Neither waits for anything, so that other processes need not disturb the comparison."""
    started_at = time.process_time()
    draw()
    return time.process_time() - started_at


def _engine(model: Model, folder: Path, prompts: Iterator[str]) -> Callable[[], Any]:
    source = ModelSource("", "starter" if folder == STARTER else str(folder), folder)
    engine = DiffusersEngine.load(source.ensure_downloaded(), DiffusersOptions(device="cpu"))

    def draw() -> Any:
        original = GenerationRequest(
            prompt=next(prompts),
            seed=1,
            width=model.side,
            height=model.side,
            num_inference_steps=model.steps,
            guidance_scale=model.guidance,
        )
        request, _ = engine.capabilities.resolve(original)
        (image,) = engine.generate(request, Inputs(), RecordingWatch())
        return image.pixels

    return draw


def _bare(model: Model, folder: Path, prompts: Iterator[str]) -> Callable[[], Any]:
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)

    def draw() -> Any:
        images = pipe(
            prompt=next(prompts),
            width=model.side,
            height=model.side,
            num_inference_steps=model.steps,
            guidance_scale=model.guidance,
            generator=torch.Generator().manual_seed(1),
        ).images
        return np.asarray(images[0])

    return draw
