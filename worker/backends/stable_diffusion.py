"""Stable Diffusion on diffusers: the bundled starter model, a local folder, or a model from Hugging Face."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch

from shared.capabilities import Capabilities
from shared.errors import ConfigurationError
from shared.schemas import GenerationRequest
from worker.backends.base import Inputs, Picture, Pixels, Watch
from worker.backends.memory import Ladder, Room
from worker.backends.pipeline import (
    choose_device,
    choose_dtype,
    generators,
    name_of,
    quieten_libraries,
    step_callback,
    to_pixels,
    to_preview,
)
from worker.backends.schedulers import SCHEDULERS, usable_schedulers
from worker.models.sources import Model

#: Named instead of found by AutoPipelineForText2Image, which imports every pipeline of diffusers: half a second.
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "LatentConsistencyModelPipeline")
#: A model folder may say how it likes to be used.
DEFAULTS_FILE = "imagegen.json"
#: Safe on CUDA only: on Apple's GPU and on CPUs half precision gives black pictures (diffusers#6136).
HALF = {"cuda": torch.float16}
#: For models that do not say: 25 steps is where common schedulers have converged, 7.5 is diffusers' own default.
DEFAULT_STEPS, DEFAULT_GUIDANCE = 25, 7.5


class StableDiffusion:
    """Not thread-safe: one job at a time, as the worker has it."""

    def __init__(self, pipe: Any, capabilities: Capabilities) -> None:
        self._pipe = pipe
        self._own_scheduler = pipe.scheduler
        self.capabilities = capabilities
        self._room = Room(capabilities, cloud=False)
        self.device = str(pipe.device)
        self.dtype = name_of(pipe.unet.dtype)

    @classmethod
    def load(cls, model: Model, device: str, dtype: str) -> "StableDiffusion":
        """Raises ConfigurationError with one sentence when the model cannot be had."""
        quieten_libraries()
        place = choose_device(device)
        pipeline = _pipeline_class(model)
        try:
            pipe = pipeline.from_pretrained(
                model.location, dtype=choose_dtype(dtype, place, HALF), use_safetensors=True, **model.access
            )
            pipe.to(place)
        except (OSError, ValueError, torch.OutOfMemoryError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ConfigurationError(f"The model {model.name} could not be loaded: {reason}") from error
        pipe.set_progress_bar_config(disable=True)
        return cls(pipe, _capabilities(pipe, model))

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: Watch) -> Sequence[Picture]:  # noqa: ARG002
        steps, seed = request.num_inference_steps, request.seed
        if steps is None or seed is None:
            raise ValueError("the request is not resolved")
        self._pipe.scheduler = self._scheduler(request.scheduler)

        def make() -> Any:
            return self._pipe(
                prompt=request.prompt,
                negative_prompt=request.negative_prompt,
                width=request.width,
                height=request.height,
                num_inference_steps=steps,
                guidance_scale=request.guidance_scale,
                num_images_per_prompt=request.num_images,
                generator=generators(seed, request.num_images),
                output_type="np",
                callback_on_step_end=step_callback(watch.on_step, steps, self._preview),
            ).images

        with Ladder(request, self._room, watch) as ladder:
            images = ladder.run(make)
        return [Picture(to_pixels(image), seed + index) for index, image in enumerate(images)]

    def _scheduler(self, name: str | None) -> Any:
        """A new one for each job: schedulers keep state between steps."""
        config = self._own_scheduler.config
        return SCHEDULERS[name](config) if name else type(self._own_scheduler).from_config(config)

    def _preview(self, latents: torch.Tensor) -> Pixels:
        """What the latents of one picture look like now; a full decoder would cost as much as several steps."""
        vae = self._pipe.vae
        if isinstance(vae, diffusers.AutoencoderTiny):
            return to_preview(vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5)
        # The first three channels of the usual 4-channel latents, spread to the visible range: shapes, false colours.
        channels = latents[:, :3].float()
        low, high = channels.amin((2, 3), keepdim=True), channels.amax((2, 3), keepdim=True)
        return to_preview((channels - low) / (high - low).clamp(min=1e-6))


def _pipeline_class(model: Model) -> Any:
    name = model.index.get("_class_name")
    if name not in PIPELINES:
        raise ConfigurationError(f"The model {model.name} is a {name}; the sd backend runs {', '.join(PIPELINES)}.")
    return getattr(diffusers, name)


def _capabilities(pipe: Any, model: Model) -> Capabilities:
    native = pipe.unet.config.sample_size * pipe.vae_scale_factor
    told_in = Path(model.location) / DEFAULTS_FILE
    told = json.loads(told_in.read_text()) if told_in.is_file() else {}
    return Capabilities(
        model=model.name,
        width=native,
        height=native,
        # What diffusers' Stable Diffusion pipelines accept, and never less than one latent pixel.
        multiple_of=max(8, pipe.vae_scale_factor),
        min_side=64,
        max_side=native * 4,
        num_inference_steps=told.get("num_inference_steps", DEFAULT_STEPS),
        guidance_scale=told.get("guidance_scale", DEFAULT_GUIDANCE),
        schedulers=usable_schedulers(pipe.scheduler.config),
        ignored=("bfl_model",),
    )
