"""The pictures of one job."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from shared.schemas import GenerationRequest
from worker.backends.base import OnStep, Pixels, Step, Watch
from worker.backends.memory import Ladder, Relief
from worker.backends.pipeline import Attempt, Image, generators, in_float32, soundest, step_callback
from worker.backends.stable_diffusion.autoencoder import Autoencoder
from worker.backends.stable_diffusion.canvas import Keeper
from worker.backends.stable_diffusion.loading import Engine
from worker.backends.stable_diffusion.modes import Mode


@dataclass
class Rendering:
    """Of a resolved request."""

    engine: Engine
    autoencoder: Autoencoder
    request: GenerationRequest
    mode: Mode
    new_scheduler: Callable[[], Any]
    """Schedulers keep state between steps: each call of a pipeline has its own."""
    watch: Watch
    ladder: Ladder
    batch_size: int
    """How many pictures are made at once."""

    def pictures(self) -> Iterator[Pixels]:
        """Picture i from seed + i. Raises OutOfMemory, InvalidOutput, and what the watch raises."""
        seeds = range(self.request.seed or 0, (self.request.seed or 0) + self.request.num_images)
        while seeds:
            batch = self.ladder.run(partial(self._batch, seeds), *self._reliefs(len(seeds)))
            for index, latents in enumerate(batch):
                yield soundest(self._attempts(latents[None], seeds[index]), self.watch.warn)
            seeds = seeds[len(batch) :]

    def _batch(self, left: range) -> torch.Tensor:
        """The next of those left, as many as are made at once."""
        batches = math.ceil(self.request.num_images / self.batch_size)
        before = (self.request.num_images - len(left)) // self.batch_size

        def on_step(step: Step) -> None:
            self.watch.on_step(Step(before * step.steps + step.step, batches * step.steps, step.preview))

        return self._denoised(left[: self.batch_size], on_step)

    def _denoised(self, seeds: range, on_step: OnStep) -> torch.Tensor:
        """Latents of shape (pictures, channels, height, width)."""
        request, mode = self.request, self.mode
        scheduler = mode.pipe.scheduler = self.new_scheduler()
        keeper = Keeper(scheduler, mode.mask, mode.strength) if mode.mask is not None else None
        tell = step_callback(on_step, mode.runs, self.autoencoder.preview)

        def after_step(pipe: Any, index: int, timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
            tell(pipe, index, timestep, tensors)
            return {"latents": keeper.after_step(pipe, index, tensors["latents"])} if keeper else {}

        latents: torch.Tensor = mode.pipe(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            num_inference_steps=mode.steps,
            guidance_scale=request.guidance_scale,
            num_images_per_prompt=len(seeds),
            generator=generators(seeds.start, len(seeds)),
            output_type="latent",
            callback_on_step_end=after_step,
            **mode.arguments,
        ).images
        return latents

    def _attempts(self, latents: torch.Tensor, seed: int) -> Iterator[Attempt]:
        """Cheapest first: where the latents are sound, it was the decoder that overflowed."""
        yield Attempt("", lambda: self._decoded(latents))
        if latents.isfinite().all():
            # For good: what has overflowed once will again.
            self.autoencoder.in_float32 = True
            yield Attempt("it was decoded again in float32", lambda: self._decoded(latents))
        yield Attempt("it was made again in float32", lambda: self._made_in_float32(seed))

    def _decoded(self, latents: torch.Tensor) -> Image:
        image = self.ladder.run(lambda: self.autoencoder.decode(latents), *self._reliefs(1, decodes=True))
        # Where only the part that is at work is on the device, nobody else would send the decoder away.
        self.mode.pipe.maybe_free_model_hooks()
        return image

    def _made_in_float32(self, seed: int) -> Image:
        seeds = range(seed, seed + 1)
        with in_float32(*self.engine.parts):
            # Progress was told when it was made first.
            latents = self.ladder.run(lambda: self._denoised(seeds, lambda _: self.watch.check()), *self._reliefs(1))
            return self._decoded(latents)

    def _reliefs(self, pictures: int, *, decodes: bool = False) -> Iterator[Relief]:
        """What may help to make so many pictures, cheapest first."""
        if decodes or "image" in self.mode.arguments:
            yield Relief("pictures were encoded and decoded in tiles", self.autoencoder.tiled)
        if min(pictures, self.batch_size) > 1:
            yield Relief("pictures were made one by one", self._one_by_one)
        if self.engine.device.type == "cuda":
            yield Relief("idle parts of the model waited in main memory", self._offloaded)

    def _one_by_one(self) -> nullcontext[None]:
        self.batch_size = 1
        return nullcontext()

    def _offloaded(self) -> Any:
        return self.engine.offloaded(self.mode.pipe)
