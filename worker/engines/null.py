"""An engine without a model: renders deterministic patterns, for tests, benchmarks and users' CI.

Input images are blended with the pattern, by `strength` and within the mask.

Requests control it through `metadata.simulate`: `{"seconds": 1.5}` takes that long over its steps, `{"fail":
"out-of-memory"}` fails, `{"hang": true}` never returns, `{"die": true}` crashes the process, `{"retire": true}`
replaces the process after the job, `{"flag": 1}` withholds the first image. Jobs that simulate something run alone,
unless `{"together": true}` allows a batch.

Beside `null` there are models to try many models on one worker with: `null/red`, `null/green` and `null/blue` draw
other patterns, `null/slow` takes two seconds to load, and `null/broken` cannot be loaded. Each says that it takes 1 GB,
and SD_MODEL_MEMORY_BYTES limits how many are held.
"""

import itertools
import os
import signal
import threading
import time
import zlib
from collections.abc import Hashable, Mapping, Sequence, Set

import numpy as np
from pydantic import ValidationError

from shared import errors
from shared.errors import InternalError, JobFailure, ModelNotFound, ModelUnavailable
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import Backend, FrozenModel
from shared.models.capabilities import Capabilities
from shared.models.catalogue import ModelEntry
from worker.engines.base import JobWatch, MultiJobWatch, OnLoad, Sizes, Step
from worker.images.values import Inputs, Pixels, RenderedImage

DEFAULT_MODEL = "null"
PATTERN = "flat stripes"
SLOW, BROKEN = "null/slow", "null/broken"
MODELS = (DEFAULT_MODEL, "null/red", "null/green", "null/blue", SLOW, BROKEN)
#: What each claims to take.
MODEL_BYTES = 1_000_000_000
#: Between two looks at whether the job goes on.
CHECK_SECONDS = 0.1
SLOW_SECONDS = 2.0

FAILURES: dict[str, type[JobFailure]] = {
    failure.code: failure
    for failure in (errors.OutOfMemory, errors.InvalidOutput, errors.StorageFull, errors.InternalError)
}


class Simulation(FrozenModel):
    seconds: float = 0.0
    """Duration of all steps together."""
    fail: str | None = None
    """The error code that the job fails with."""
    hang: bool = False
    die: bool = False
    retire: bool = False
    """Whether to replace the process after the job."""
    together: bool = False
    """Whether the job may run in a batch although it simulates something."""
    flag: int = 0
    """How many of the first images to withhold, as a safety checker would."""


class NullEngine:
    """One of several models, as large as it says."""

    _variant = 0
    """Changes the pattern."""
    device = "none"
    dtype = "uint8"
    capabilities = Capabilities(
        model=DEFAULT_MODEL,
        width=64,
        height=64,
        multiple_of=1,
        min_side=16,
        max_side=4096,
        num_inference_steps=4,
        guidance_scale=0.0,
        max_input_images=4,
        inpainting=True,
        strength=0.5,
        ignored=("bfl_model", "clip_skip", "loras", "negative_prompt", "prompt_syntax", "scheduler"),
    )

    def __init__(self, name: str = DEFAULT_MODEL) -> None:
        self.sizes: Sizes = {name: MODEL_BYTES}
        if name != DEFAULT_MODEL:
            self._variant = zlib.crc32(name.encode())
            self.capabilities = NullEngine.capabilities.model_copy(update={"model": name})

    def fingerprint(self) -> str:
        return f"{PATTERN} {self._variant}"

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
        simulation, start = _simulation(request), time.monotonic()
        images = _images(request, inputs, simulation, self._variant)
        _run_steps(start + simulation.seconds, request, images, watch)
        if simulation.retire:
            watch.request_restart("requested by metadata.simulate")
        _misbehave(simulation)
        return images

    def batch_capacity(self, request: GenerationRequest) -> int:
        """One for jobs that simulate something, so that their durations add up; otherwise plenty."""
        try:
            simulation = _simulation(request)
        except InternalError:
            # `generate` reports it.
            return 1
        return 64 if simulation.together or simulation == Simulation() else 1

    def generate_batch(
        self, requests: Sequence[GenerationRequest], inputs: Sequence[Inputs], watch: MultiJobWatch
    ) -> Sequence[Sequence[RenderedImage]]:
        """As fast as the slowest job, like a device with spare capacity."""
        simulations, start = [_simulation(request) for request in requests], time.monotonic()
        if not all(simulation.together or simulation == Simulation() for simulation in simulations):
            raise InternalError("Jobs that simulate something cannot run in a batch.")
        jobs = [_images(*job, self._variant) for job in zip(requests, inputs, simulations, strict=True)]
        seconds = max(simulation.seconds for simulation in simulations)
        _run_steps(start + seconds, requests[0], list(itertools.chain(*jobs)), watch)
        return jobs

    def move_to_main_memory(self, staying: Set[Hashable] = frozenset()) -> None:
        pass

    def move_to_device(self) -> None:
        pass

    def close(self, inherited: Set[Hashable] = frozenset()) -> None:
        pass


class NullModels:
    """Loads the models by name."""

    default_model = DEFAULT_MODEL

    def capabilities(self, model: str) -> Capabilities:
        return NullEngine(self._known(model)).capabilities

    def revision(self, model: str) -> str | None:
        return f"{PATTERN} {self._known(model)}"

    def expected_sizes(self, model: str) -> Sizes:
        return {model: MODEL_BYTES}

    def load(self, model: str, on_load: OnLoad) -> NullEngine:
        if model == BROKEN:
            raise ModelUnavailable(f"The model {BROKEN} cannot be loaded: it is broken on purpose.")
        seconds = SLOW_SECONDS if model == SLOW else 0.0
        for tenth in range(10 if seconds else 0):
            on_load(MODEL_BYTES * tenth // 10, MODEL_BYTES)
            time.sleep(seconds / 10)
        return NullEngine(self._known(model))

    def scan(self) -> Mapping[str, ModelEntry]:
        return {
            name: ModelEntry(name=name, backend=Backend.NULL, capabilities=self.capabilities(name), commercial_use=True)
            for name in MODELS
        }

    def _known(self, model: str) -> str:
        if model not in MODELS:
            raise ModelNotFound
        return model


def _images(
    request: GenerationRequest, inputs: Inputs, simulation: Simulation, variant: int
) -> Sequence[RenderedImage]:
    size, strength = request.size, request.strength or 1.0
    return [
        RenderedImage(_blended(_pattern(*size, seed, variant), inputs, strength), seed, flagged=index < simulation.flag)
        for index, seed in enumerate(request.seeds)
    ]


def _run_steps(end: float, request: GenerationRequest, images: Sequence[RenderedImage], watch: JobWatch) -> None:
    start, steps = time.monotonic(), request.num_inference_steps or 1
    for step in range(1, steps + 1):
        _sleep_until(start + (end - start) * step / steps, watch)
        watch.on_step(Step(step, steps, lambda index: images[index].pixels))


def _simulation(request: GenerationRequest) -> Simulation:
    try:
        return Simulation.model_validate((request.metadata or {}).get("simulate", {}))
    except ValidationError:
        raise InternalError("metadata.simulate is invalid.") from None


def _misbehave(simulation: Simulation) -> None:
    if simulation.die:
        os.kill(os.getpid(), signal.SIGKILL)
    if simulation.hang:
        threading.Event().wait()
    if simulation.fail is not None:
        raise FAILURES.get(simulation.fail, InternalError)


def _sleep_until(moment: float, watch: JobWatch) -> None:
    """A step of a minute can be cancelled, as those of the other engines can."""
    while (seconds := moment - time.monotonic()) > 0:
        time.sleep(min(seconds, CHECK_SECONDS))
        watch.check()


def _pattern(width: int, height: int, seed: int, variant: int) -> Pixels:
    """Stripes whose colours and slant depend on the seed: cheap, never of a single colour, different for each seed.

    Each stripe has one colour, so that the file is small and quickly compressed.
    """
    red, green, blue, slant = np.random.default_rng([seed, variant] if variant else seed).integers(1, 256, 4)
    x, y = np.arange(width, dtype=np.uint32)[None, :], np.arange(height, dtype=np.uint32)[:, None]
    wave = ((x * (1 + slant % 7) + y * (1 + slant % 5)) & 0xE0).astype(np.uint8)
    return np.stack([wave ^ np.uint8(red), wave ^ np.uint8(green), wave ^ np.uint8(blue)], axis=-1)


def _blended(pattern: Pixels, inputs: Inputs, strength: float) -> Pixels:
    """The mean of the inputs, scaled to the pattern and blended with it by `strength`, within the mask."""
    if not inputs.images:
        return pattern
    scaled = [_scaled(image, pattern).astype(np.float32) for image in inputs.images]
    start = np.mean(scaled, axis=0)
    blended = start + strength * (pattern - start)
    if inputs.mask is not None:
        blended = np.where(_scaled(inputs.mask, pattern)[..., None] > 0, blended, start)
    pixels: Pixels = blended.round().astype(np.uint8)
    return pixels


def _scaled(array: Pixels, like: Pixels) -> Pixels:
    """By nearest neighbour."""
    rows, columns = (
        np.arange(wanted) * given // wanted for wanted, given in zip(like.shape[:2], array.shape, strict=False)
    )
    scaled: Pixels = array[rows][:, columns]
    return scaled
