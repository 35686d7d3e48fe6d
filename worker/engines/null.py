"""A backend without a model: deterministic patterns, for tests, benchmarks and users' CI.

Images that come with a request are mixed with the pattern, by `strength` and within the mask.

A request steers it through `metadata.simulate`: `{"seconds": 1.5}` takes that long over its steps, `{"fail":
"out-of-memory"}` fails, `{"hang": true}` never comes back, `{"die": true}` ends the process as a crash would,
`{"retire": true}` has it replaced after the job, `{"flag": 1}` has the first image withheld. Jobs that simulate
something are made alone, unless `{"together": true}` allows otherwise.
"""

import itertools
import os
import signal
import threading
import time
from collections.abc import Sequence

import numpy as np
from pydantic import ValidationError

from shared import errors
from shared.errors import InternalError, JobFailure
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import FrozenModel
from shared.models.capabilities import Capabilities
from worker.engines.base import JobWatch, MultiJobWatch, Step
from worker.images.values import Inputs, Pixels, RenderedImage

FAILURES: dict[str, type[JobFailure]] = {
    failure.code: failure
    for failure in (errors.OutOfMemory, errors.InvalidOutput, errors.StorageFull, errors.InternalError)
}


class Simulation(FrozenModel):
    seconds: float = 0.0
    """How long the job takes, over all its steps."""
    fail: str | None = None
    """Code of the failure it ends in."""
    hang: bool = False
    die: bool = False
    retire: bool = False
    """Whether another process has to do the jobs after it."""
    together: bool = False
    """Whether it may be rendered in one go with others, although it simulates something."""
    flag: int = 0
    """How many images, from the first on, a safety checker would withhold."""


class NullEngine:
    device = "none"
    dtype = "uint8"
    fingerprint = "stripes"
    capabilities = Capabilities(
        model="null",
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
        ignored=("bfl_model", "loras", "negative_prompt", "scheduler"),
    )

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
        simulation, begin = _simulation(request), time.monotonic()
        images = _images(request, inputs, simulation)
        _take_until(begin + simulation.seconds, request, images, watch)
        if simulation.retire:
            watch.request_restart("metadata.simulate says so")
        _misbehave(simulation)
        return images

    def batch_capacity(self, request: GenerationRequest) -> int:
        """Any number, but jobs that are to take a while are to take it one after the other, unless they say so."""
        try:
            simulation = _simulation(request)
        except InternalError:
            # Told when the job is made.
            return 1
        return 64 if simulation.together or simulation == Simulation() else 1

    def generate_batch(
        self, requests: Sequence[GenerationRequest], inputs: Sequence[Inputs], watch: MultiJobWatch
    ) -> Sequence[Sequence[RenderedImage]]:
        """In the time that the slowest takes: what a device with room to spare would do."""
        simulations, begin = [_simulation(request) for request in requests], time.monotonic()
        if not all(simulation.together or simulation == Simulation() for simulation in simulations):
            raise InternalError("Jobs that simulate something are made alone.")
        each = [_images(*of_one) for of_one in zip(requests, inputs, simulations, strict=True)]
        seconds = max(simulation.seconds for simulation in simulations)
        _take_until(begin + seconds, requests[0], list(itertools.chain(*each)), watch)
        return each


def _images(request: GenerationRequest, inputs: Inputs, simulation: Simulation) -> Sequence[RenderedImage]:
    if request.seed is None or request.width is None or request.height is None:
        raise ValueError("the request is not resolved")
    seeds = range(request.seed, request.seed + request.num_images)
    size, strength = (request.width, request.height), request.strength or 1.0
    return [
        RenderedImage(_changed(_pattern(*size, seed), inputs, strength), seed, flagged=index < simulation.flag)
        for index, seed in enumerate(seeds)
    ]


def _take_until(end: float, request: GenerationRequest, images: Sequence[RenderedImage], watch: JobWatch) -> None:
    begin, steps = time.monotonic(), request.num_inference_steps or 1
    for step in range(1, steps + 1):
        _sleep_until(begin + (end - begin) * step / steps)
        watch.on_step(Step(step, steps, lambda index: images[index].pixels))


def _simulation(request: GenerationRequest) -> Simulation:
    try:
        return Simulation.model_validate((request.metadata or {}).get("simulate", {}))
    except ValidationError:
        raise InternalError("metadata.simulate is not a simulation.") from None


def _misbehave(simulation: Simulation) -> None:
    if simulation.die:
        os.kill(os.getpid(), signal.SIGKILL)
    if simulation.hang:
        threading.Event().wait()
    if simulation.fail is not None:
        raise FAILURES.get(simulation.fail, InternalError)


def _sleep_until(moment: float) -> None:
    if (left := moment - time.monotonic()) > 0:
        time.sleep(left)


def _pattern(width: int, height: int, seed: int) -> Pixels:
    """Stripes whose colour and slant come from the seed: cheap, never of one colour, another for each seed."""
    red, green, blue, slant = np.random.default_rng(seed).integers(1, 256, 4)
    x, y = np.arange(width, dtype=np.uint32)[None, :], np.arange(height, dtype=np.uint32)[:, None]
    wave = ((x * (1 + slant % 7) + y * (1 + slant % 5)) % 256).astype(np.uint8)
    return np.stack([wave ^ np.uint8(red), wave ^ np.uint8(green), wave ^ np.uint8(blue)], axis=-1)


def _changed(pattern: Pixels, inputs: Inputs, strength: float) -> Pixels:
    """The mean of the inputs in the pattern's size, moved that much towards the pattern, and only where the mask is."""
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
    """Nearest neighbours."""
    rows, columns = (
        np.arange(wanted) * given // wanted for wanted, given in zip(like.shape[:2], array.shape, strict=False)
    )
    scaled: Pixels = array[rows][:, columns]
    return scaled
