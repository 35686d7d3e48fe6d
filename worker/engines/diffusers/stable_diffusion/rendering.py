"""The images of a request, or of several that are alike."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from shared.jobs.requests import GenerationRequest
from worker.engines.base import JobWatch, OnStep, Step
from worker.engines.diffusers.batch_invariance import as_alone
from worker.engines.diffusers.out_of_memory import Fallback, MemoryBudget, OutOfMemoryFallbacks
from worker.engines.diffusers.placement import Placement, can_be_offloaded, offloaded
from worker.engines.diffusers.sampling import Attempt, Image, generator, in_float32, soundest, step_callback
from worker.engines.diffusers.stable_diffusion.autoencoder import Autoencoder
from worker.engines.diffusers.stable_diffusion.init_image import InitImage, MaskedLatentBlender
from worker.engines.diffusers.stable_diffusion.loading import Pipelines
from worker.engines.diffusers.stable_diffusion.modes import Mode, beginning
from worker.engines.diffusers.stable_diffusion.prompts import Prompts
from worker.images.values import Pixels


@dataclass(frozen=True)
class Subject:
    """What an image has of its own, among those that are made in one go."""

    prompt: str
    negative_prompt: str | None
    seed: int
    canvas: InitImage | None
    warn: Callable[[str], None]
    """Leaves a warning on the job that it belongs to."""


@dataclass
class Rendering:
    engine: Pipelines
    autoencoder: Autoencoder
    prompts: Prompts
    request: GenerationRequest
    """Resolved; what all subjects share."""
    subjects: Sequence[Subject]
    mode: Mode
    new_scheduler: Callable[[], Any]
    """Schedulers keep state between steps: each call of a pipeline has its own."""
    watch: JobWatch
    ladder: OutOfMemoryFallbacks
    room: MemoryBudget
    batch_size: int
    """How many images are made at once."""
    exact: bool = True
    """Whether each of them must have the very pixels that it would have alone."""

    def images(self) -> Iterator[Pixels]:
        """One of each subject. Raises OutOfMemory, InvalidOutput, and what the watch raises."""
        left = self.subjects
        while left:
            batch = self.ladder.run(partial(self._batch, left), *self._reliefs(len(left)))
            for subject, latents in zip(left, batch, strict=False):
                yield soundest(self._attempts(latents[None], subject), subject.warn)
            left = left[len(batch) :]

    def _batch(self, left: Sequence[Subject]) -> torch.Tensor:
        """The next of those left, as many as are made at once."""
        batches = math.ceil(len(self.subjects) / self.batch_size)
        first = len(self.subjects) - len(left)
        before, subjects = first // self.batch_size, left[: self.batch_size]

        def on_step(step: Step) -> None:
            done, total = before * step.steps + step.step, batches * step.steps
            self.watch.on_step(
                Step(done, total, lambda index: step.render_preview(index - first) if step.render_preview else None)
            )

        return self._denoised(subjects, on_step)

    def _denoised(self, subjects: Sequence[Subject], on_step: OnStep) -> torch.Tensor:
        """Latents of shape (images, channels, height, width)."""
        mode = self.mode
        self.engine.prepare(mode.pipe)
        scheduler = mode.pipe.scheduler = self.new_scheduler()
        canvases = [subject.canvas for subject in subjects]
        # Models for inpainting see to it themselves.
        masks = [] if self.engine.inpaint else [each.mask for each in canvases if each and each.mask is not None]
        keeper = MaskedLatentBlender(scheduler, masks, mode.strength) if masks else None
        tell = step_callback(on_step, mode.runs, self.autoencoder.preview)

        def after_step(pipe: Any, index: int, timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
            tell(pipe, index, timestep, tensors)
            return {"latents": keeper.after_step(pipe, index, tensors["latents"])} if keeper else {}

        with as_alone(mode.pipe.unet, len(subjects) if self.exact else 1):
            latents: torch.Tensor = mode.pipe(
                **self._read(subjects),
                num_inference_steps=mode.steps,
                guidance_scale=self.request.guidance_scale,
                generator=[generator(subject.seed) for subject in subjects],
                output_type="latent",
                callback_on_step_end=after_step,
                **mode.arguments,
                **beginning(self.engine, self.request, canvases),
            ).images
        return latents

    def _read(self, subjects: Sequence[Subject]) -> dict[str, torch.Tensor]:
        # As pipelines decide whether there is a second prediction, without the prompt.
        guided = (self.request.guidance_scale or 0) > 1 and self.mode.pipe.unet.config.time_cond_proj_dim is None
        texts = [(subject.prompt, subject.negative_prompt) for subject in subjects]
        return self.prompts.arguments(self.mode.pipe, texts, self.engine.device, guided=guided)

    def _attempts(self, latents: torch.Tensor, subject: Subject) -> Iterator[Attempt]:
        """Cheapest first: where the latents are sound, it was the decoder that overflowed."""
        yield Attempt("", lambda: self._decoded(latents))
        if latents.isfinite().all():
            # For good: what has overflowed once will again.
            self.autoencoder.in_float32 = True
            yield Attempt("it was decoded again in float32", lambda: self._decoded(latents))
        # Where single layers come and go, their precision cannot be changed.
        if self.engine.placement is not Placement.GROUP_OFFLOAD:
            yield Attempt("it was made again in float32", lambda: self._made_in_float32(subject))

    def _decoded(self, latents: torch.Tensor) -> Image:
        image = self.ladder.run(lambda: self.autoencoder.decode(latents), *self._reliefs(1, decodes=True))
        # Where only the part that is at work is on the device, nobody else would send the decoder away.
        self.mode.pipe.maybe_free_model_hooks()
        return image

    def _made_in_float32(self, subject: Subject) -> Image:
        with in_float32(*self.engine.parts):
            # Progress was told when it was made first.
            latents = self.ladder.run(
                lambda: self._denoised([subject], lambda _: self.watch.check()), *self._reliefs(1)
            )
            return self._decoded(latents)

    def _reliefs(self, images: int, *, decodes: bool = False) -> Iterator[Fallback]:
        """What may help to make so many images, cheapest first."""
        if decodes or self.mode.pipe is not self.engine.text:
            yield Fallback("images were encoded and decoded in tiles", self.autoencoder.tiled)
        if min(images, self.batch_size) > 1:
            yield Fallback("images were made one by one", self._one_by_one)
        if can_be_offloaded(self.engine.placement, self.engine.device):
            idle = partial(offloaded, self.mode.pipe, self.engine.device)
            yield Fallback("idle parts of the model waited in main memory", idle)

    def _one_by_one(self) -> nullcontext[None]:
        self.room.crowded(self.request, min(self.batch_size, len(self.subjects)))
        self.batch_size = 1
        return nullcontext()
