"""Renders the images of a request, or of a batch of compatible requests."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from shared.jobs.requests import GenerationRequest
from worker.engines.base import JobWatch, OnStep
from worker.engines.diffusers.batch_invariance import batch_invariant
from worker.engines.diffusers.out_of_memory import Fallback, MemoryBudget, OutOfMemoryFallbacks
from worker.engines.diffusers.placement import Placement, offloading_fallbacks
from worker.engines.diffusers.sampling import (
    Attempt,
    Image,
    first_sound_image,
    in_float32,
    seeded_generator,
    step_callback,
    steps_of_run,
)
from worker.engines.diffusers.stable_diffusion.autoencoder import Autoencoder
from worker.engines.diffusers.stable_diffusion.init_image import InitImage, MaskedLatentBlender
from worker.engines.diffusers.stable_diffusion.loading import Pipelines
from worker.engines.diffusers.stable_diffusion.modes import Mode, init_image_arguments
from worker.engines.diffusers.stable_diffusion.prompts import Prompts
from worker.images.values import Pixels


@dataclass(frozen=True)
class ImageSpec:
    """What differs between the images of a batch."""

    prompt: str
    negative_prompt: str | None
    seed: int
    init_image: InitImage | None
    add_warning: Callable[[str], None]
    """Adds a warning to the job of this image."""


@dataclass
class Rendering:
    pipelines: Pipelines
    autoencoder: Autoencoder
    prompts: Prompts
    request: GenerationRequest
    """Resolved; the fields that all images share."""
    specs: Sequence[ImageSpec]
    mode: Mode
    new_scheduler: Callable[[], Any]
    """Schedulers keep state between steps: each pipeline call needs a new one."""
    watch: JobWatch
    memory: OutOfMemoryFallbacks
    memory_budget: MemoryBudget
    batch_size: int
    batch_invariant: bool = True
    """Whether each image must have exactly the pixels that it would have alone."""

    def images(self) -> Iterator[Pixels]:
        """One image for each spec. Raises OutOfMemory, InvalidOutput, and what the watch raises."""
        left = self.specs
        while left:
            batch = self.memory.run(partial(self._next_batch, left), *self._fallbacks(len(left)))
            for spec, latents in zip(left, batch, strict=False):
                yield first_sound_image(self._attempts(latents[None], spec), spec.add_warning)
            left = left[len(batch) :]

    def _next_batch(self, left: Sequence[ImageSpec]) -> torch.Tensor:
        batches = math.ceil(len(self.specs) / self.batch_size)
        first = len(self.specs) - len(left)
        on_step = steps_of_run(self.watch.on_step, first // self.batch_size, batches, first_image=first)
        return self._denoise(left[: self.batch_size], on_step)

    def _denoise(self, specs: Sequence[ImageSpec], on_step: OnStep) -> torch.Tensor:
        """Latents of shape (images, channels, height, width)."""
        mode = self.mode
        self.pipelines.activate_offloading(mode.pipe)
        scheduler = mode.pipe.scheduler = self.new_scheduler()
        init_images = [spec.init_image for spec in specs]
        blender = self._blender(scheduler, init_images)
        report_step = step_callback(on_step, mode.executed_steps, self.autoencoder.preview)

        def after_step(pipe: Any, index: int, timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
            report_step(pipe, index, timestep, tensors)
            return {"latents": blender.after_step(pipe, index, tensors["latents"])} if blender else {}

        with batch_invariant(mode.pipe.unet, len(specs) if self.batch_invariant else 1):
            latents: torch.Tensor = mode.pipe(
                **self._prompt_embeddings(specs),
                num_inference_steps=mode.scheduled_steps,
                guidance_scale=self.request.guidance_scale,
                generator=[seeded_generator(spec.seed) for spec in specs],
                output_type="latent",
                callback_on_step_end=after_step,
                **mode.arguments,
                **init_image_arguments(self.pipelines, self.request, init_images),
            ).images
        return latents

    def _blender(self, scheduler: Any, init_images: Sequence[InitImage | None]) -> MaskedLatentBlender | None:
        # Inpainting models handle masks themselves.
        if self.pipelines.inpaint:
            return None
        masks = [init.mask for init in init_images if init and init.mask is not None]
        return MaskedLatentBlender(scheduler, masks, self.mode.strength) if masks else None

    def _prompt_embeddings(self, specs: Sequence[ImageSpec]) -> dict[str, torch.Tensor]:
        # The pipelines' own condition for a second prediction, without the prompt.
        guided = (self.request.guidance_scale or 0) > 1 and self.mode.pipe.unet.config.time_cond_proj_dim is None
        texts = [(spec.prompt, spec.negative_prompt) for spec in specs]
        return self.prompts.arguments(self.mode.pipe, texts, self.request, self.pipelines.device, guided=guided)

    def _attempts(self, latents: torch.Tensor, spec: ImageSpec) -> Iterator[Attempt]:
        """Cheapest first: if the latents are finite, only the decoder has overflowed."""
        yield Attempt("", lambda: self._decode(latents))
        if latents.isfinite().all():
            # From now on: what has overflowed once will again.
            self.autoencoder.in_float32 = True
            yield Attempt("it was decoded again in float32", lambda: self._decode(latents))
        # The precision of layers that are offloaded one by one cannot be changed.
        if self.pipelines.placement is not Placement.GROUP_OFFLOAD:
            yield Attempt("it was made again in float32", lambda: self._render_in_float32(spec))

    def _decode(self, latents: torch.Tensor) -> Image:
        image = self.memory.run(lambda: self.autoencoder.decode(latents), *self._fallbacks(1, decodes=True))
        # With offloading, nothing else moves the decoder off the device.
        self.mode.pipe.maybe_free_model_hooks()
        return image

    def _render_in_float32(self, spec: ImageSpec) -> Image:
        with in_float32(*self.pipelines.parts):
            # The first attempt has reported its progress already.
            latents = self.memory.run(lambda: self._denoise([spec], lambda _: self.watch.check()), *self._fallbacks(1))
            return self._decode(latents)

    def _fallbacks(self, images: int, *, decodes: bool = False) -> Iterator[Fallback]:
        """Cheapest first."""
        if decodes or self.mode.pipe is not self.pipelines.text:
            yield self.autoencoder.tiling_fallback()
        if min(images, self.batch_size) > 1:
            yield Fallback("images were made one by one", self._one_by_one)
        yield from offloading_fallbacks(self.mode.pipe, self.pipelines.placement, self.pipelines.device)

    def _one_by_one(self) -> nullcontext[None]:
        self.memory_budget.record_batch_failure(self.request, min(self.batch_size, len(self.specs)))
        self.batch_size = 1
        return nullcontext()
