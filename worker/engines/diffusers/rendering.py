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
from worker.engines.diffusers.acceleration.accelerator import Accelerator
from worker.engines.diffusers.decoding.autoencoder import Autoencoder
from worker.engines.diffusers.decoding.pixels import DecodedPixels
from worker.engines.diffusers.decoding.soundness import Attempt, first_sound_image, in_float32
from worker.engines.diffusers.denoising.batch_invariance import batch_invariant
from worker.engines.diffusers.denoising.call_arguments import call_arguments, one_or_all
from worker.engines.diffusers.denoising.init_image import MaskedLatentBlender
from worker.engines.diffusers.denoising.modes import ImageSpec, Mode, choose_pipe, mode_for
from worker.engines.diffusers.denoising.steps import seeded_generator, steps_of_run, watch_steps
from worker.engines.diffusers.loading.pipelines import Pipelines
from worker.engines.diffusers.memory.out_of_memory import Fallback, OutOfMemoryFallbacks
from worker.engines.diffusers.memory.placement import offloading_fallbacks
from worker.engines.diffusers.prompts.encoding import Prompts
from worker.images.values import Pixels
from worker.models.placements import Placement


@dataclass
class Rendering:
    pipelines: Pipelines
    autoencoder: Autoencoder
    prompts: Prompts
    request: GenerationRequest
    """Resolved; the fields that all images share."""
    specs: Sequence[ImageSpec]
    new_scheduler: Callable[[], Any]
    """Schedulers keep state between steps: each pipeline call needs a new one."""
    watch: JobWatch
    memory: OutOfMemoryFallbacks
    accelerator: Accelerator
    batch_size: int
    batch_invariant: bool = True
    """Whether each image must have exactly the pixels that it would have alone."""

    @property
    def _pipe(self) -> Any:
        return choose_pipe(self.pipelines, self.specs[0].init_image)

    def images(self) -> Iterator[Pixels]:
        """One image for each spec. Raises OutOfMemory, InvalidOutput, and what the watch raises."""
        left = self.specs
        while left:
            batch = self.memory.run(partial(self._next_batch, left), *self._fallbacks(len(left)))
            for index, spec in enumerate(left[: len(batch)]):
                pixels = first_sound_image(self._attempts(batch[index : index + 1], spec), spec.add_warning)
                yield spec.init_image.composite(pixels) if spec.init_image else pixels
            left = left[len(batch) :]

    def _next_batch(self, left: Sequence[ImageSpec]) -> torch.Tensor:
        batches = math.ceil(len(self.specs) / self.batch_size)
        first = len(self.specs) - len(left)
        on_step = steps_of_run(self.watch.on_step, first // self.batch_size, batches, first_image=first)
        return self._denoise(left[: self.batch_size], on_step)

    def _denoise(self, specs: Sequence[ImageSpec], on_step: OnStep) -> torch.Tensor:
        """Latents as the decoder takes them, with the images in the first dimension."""
        mode = mode_for(self.pipelines, self.request, specs)
        pipe = mode.pipe
        self.pipelines.activate_offloading(pipe)
        pipe.scheduler = self.new_scheduler()
        blend = self._blending(mode, pipe.scheduler, specs)
        watch_steps(pipe, mode.executed_steps, on_step, partial(self.autoencoder.preview, self.request.size), blend)
        denoiser, arguments = self.pipelines.denoiser, self._arguments(mode, specs)
        # On GPUs, libraries choose by size how to compute every layer.
        is_invariant = self.batch_invariant and self.pipelines.device.type == "cpu"
        with (
            batch_invariant(denoiser, len(specs) if is_invariant else 1),
            # Its property looks through all layers.
            self.prompts.cached(pipe, next(denoiser.parameters()).dtype, self.request),
            self.accelerator.active(self.request.loras or (), mode.executed_steps),
        ):
            return self.autoencoder.latents_of(lambda: pipe(**arguments))

    def _arguments(self, mode: Mode, specs: Sequence[ImageSpec]) -> dict[str, Any]:
        """Those of the pipeline's call; what it does not take has been warned of."""
        prompts = [(spec.prompt, spec.negative_prompt) for spec in specs]
        generators = [seeded_generator(spec.seed) for spec in specs]
        return call_arguments(
            mode.pipe,
            self.pipelines.family,
            self.request,
            prompts,
            mode.scheduled_steps,
            generator=one_or_all(generators),
            **mode.arguments,
        )

    def _blending(
        self, mode: Mode, scheduler: Any, specs: Sequence[ImageSpec]
    ) -> Callable[[int, torch.Tensor], torch.Tensor] | None:
        if not mode.blends_masks:
            return None
        masks = [spec.init_image.mask for spec in specs if spec.init_image and spec.init_image.mask is not None]
        return MaskedLatentBlender(scheduler, masks, mode.strength).after_step

    def _attempts(self, latents: torch.Tensor, spec: ImageSpec) -> Iterator[Attempt]:
        """Cheapest first: if the latents are finite, only the decoder has overflowed."""
        yield Attempt("", lambda: self._decode(latents))
        if latents.isfinite().all():
            # From now on: what has overflowed once will again.
            self.autoencoder.in_float32 = True
            yield Attempt("it was decoded again in float32", lambda: self._decode(latents))
        # The precision of layers that are offloaded one by one cannot be changed; and models for bfloat16, which does
        # not overflow, are too large for twice their size.
        is_small = self.pipelines.family.is_safe_in_float16
        if is_small and self.pipelines.placement is not Placement.GROUP_OFFLOAD:
            yield Attempt("it was made again in float32", lambda: self._render_in_float32(spec))

    def _decode(self, latents: torch.Tensor) -> DecodedPixels:
        image = self.memory.run(lambda: self.autoencoder.decode(latents), *self._fallbacks(1, decodes=True))
        # With offloading, nothing else moves the decoder off the device.
        self._pipe.maybe_free_model_hooks()
        return image

    def _render_in_float32(self, spec: ImageSpec) -> DecodedPixels:
        with in_float32(*self.pipelines.parts):
            # The first attempt has reported its progress already.
            latents = self.memory.run(lambda: self._denoise([spec], lambda _: self.watch.check()), *self._fallbacks(1))
            return self._decode(latents)

    def _fallbacks(self, images: int, *, decodes: bool = False) -> Iterator[Fallback]:
        """Cheapest first."""
        has_images = bool(self.specs[0].init_image or self.specs[0].references)
        if decodes or has_images or self.pipelines.is_inpainting_model:
            yield from self.autoencoder.tiling_fallback()
        if min(images, self.batch_size) > 1:
            yield Fallback("images were made one by one", self._one_by_one)
        yield from offloading_fallbacks(self._pipe, self.pipelines.placement, self.pipelines.device)

    def _one_by_one(self) -> nullcontext[None]:
        self.memory.fitting_sizes.record_batch_failure(self.request, min(self.batch_size, len(self.specs)))
        self.batch_size = 1
        return nullcontext()
