"""FLUX.2 Klein on diffusers: images from prompts, and from prompts with up to four input images."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PillowImage

from shared.errors import ConfigurationError, InvalidImage
from shared.jobs.requests import GenerationRequest
from shared.models.capabilities import Capabilities
from shared.workers.devices import DeviceMemory
from worker.engines.base import JobWatch
from worker.engines.diffusers.devices import choose_device, choose_dtype, device_memory, dtype_name
from worker.engines.diffusers.out_of_memory import (
    Fallback,
    MemoryBudget,
    OutOfMemoryFallbacks,
    keep_freed_memory,
    tiling_fallback,
)
from worker.engines.diffusers.pipeline_loading import load_pipeline
from worker.engines.diffusers.placement import Placement, offloading_fallbacks, place_where_it_fits
from worker.engines.diffusers.prompt_embeddings import PromptEmbedding, PromptEmbeddingCache
from worker.engines.diffusers.safety_checker import CHECKED, OFF, SafetyChecker, flag_images
from worker.engines.diffusers.sampling import (
    Attempt,
    Image,
    false_colour_preview,
    first_sound_image,
    in_float32,
    quieten_libraries,
    seeded_generator,
    step_callback,
    steps_of_run,
    to_image,
)
from worker.images.values import Inputs, Pixels, RenderedImage
from worker.models.fingerprint import fingerprint
from worker.models.local_model import LocalModel

PIPELINE = "Flux2KleinPipeline"
PARTS = ("text_encoder", "transformer", "vae")
#: What an image of a megapixel and its edits need in addition to the weights. Measured by others for FLUX.2 Klein 4B at
#: 1024x1024 on CUDA: 17.3 GiB in all, of which 14.9 GiB are weights.
WORKING_BYTES = 3 << 30
#: Never float16: FLUX overflows in it, and the images are black.
HALF = {"cuda": torch.bfloat16, "mps": torch.bfloat16}
#: For distilled models (BFL's model card); diffusers' own defaults are those of the base models.
DISTILLED_STEPS, DISTILLED_GUIDANCE = 4, 1.0
#: Limits of the pipeline for input images.
MIN_INPUT_SIDE, MAX_INPUT_RATIO, MAX_INPUTS = 64, 8, 4
#: FLUX.2 was made for at most four megapixels.
MAX_SIDE, MAX_PIXELS = 2048, 4_194_304


@dataclass(frozen=True)
class FluxOptions:
    """The operator's choices besides the model."""

    device: str = "auto"
    dtype: str = "auto"
    safety_checker: Callable[[], Path] | None = None
    """Returns the folder of the checker; None switches checking off."""
    suggest_cloud: bool = False
    """Whether errors about memory name flux-api as an alternative."""


class FluxLocal:
    """Not thread-safe: one job at a time."""

    def __init__(
        self, pipe: Any, model: LocalModel, device: torch.device, checker: SafetyChecker | None, suggest_cloud: bool
    ) -> None:
        placement = place_where_it_fits(pipe, device, model.name, dict.fromkeys(PARTS, WORKING_BYTES))
        self.capabilities = _capabilities(pipe, model.name, checker)
        self.device = str(device)
        self.dtype = dtype_name(pipe.transformer.dtype)
        self.fingerprint = fingerprint([model.folder], self.dtype, device, bool(checker))
        self.placement = str(placement)
        self._pipe = pipe
        self._device = device
        self._checker = checker
        self._embeddings = PromptEmbeddingCache()
        self._memory_budget = MemoryBudget(self.capabilities, suggest_cloud=suggest_cloud)

    @classmethod
    def load(cls, model: LocalModel, options: FluxOptions) -> "FluxLocal":
        """Raises ConfigurationError if the model or the safety checker cannot be loaded."""
        quieten_libraries()
        keep_freed_memory()
        device = choose_device(options.device)
        if options.dtype == "float16":
            raise ConfigurationError(
                "SD_DTYPE is float16, in which FLUX gives black images; SD_DTYPE=auto takes bfloat16 on GPUs and "
                "float32 on CPUs."
            )
        name = model.index.get("_class_name")
        if name != PIPELINE:
            raise ConfigurationError(f"The model {model.name} is a {name}; the flux-local backend runs {PIPELINE}.")
        checker = SafetyChecker.load(options.safety_checker(), device) if options.safety_checker else None
        pipe = load_pipeline(model, PIPELINE, choose_dtype(options.dtype, device, HALF))
        return cls(pipe, model, device, checker, options.suggest_cloud)

    def memory(self) -> DeviceMemory | None:
        return device_memory(self._device)

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
        if request.seed is None:
            raise ValueError("the request is not resolved")
        references = _references(inputs)
        if ignored := _ignored_tokens(self._pipe, request.prompt):
            watch.add_warning(f"prompt is too long: the model ignores its last {ignored} tokens")
        offloading = offloading_fallbacks(self._pipe, Placement(self.placement), self._device)
        fallbacks = [tiling_fallback(self._pipe.vae), *offloading]
        with OutOfMemoryFallbacks(request, self._memory_budget, watch) as memory:
            rendering = _Rendering(self._pipe, self._embeddings, request, references, watch, memory, fallbacks)
            images = [rendering.image(index) for index in range(request.num_images)]
        return [
            RenderedImage(pixels, request.seed + index, flagged)
            for index, (pixels, flagged) in enumerate(zip(images, flag_images(self._checker, images), strict=True))
        ]


@dataclass(frozen=True)
class _Rendering:
    """Of a resolved request. One image at a time, so that several need no more memory than one."""

    pipe: Any
    embeddings: PromptEmbeddingCache
    request: GenerationRequest
    references: list[Any] | None
    watch: JobWatch
    memory: OutOfMemoryFallbacks
    fallbacks: Sequence[Fallback]

    def image(self, index: int) -> Pixels:
        """Image i from seed + i. Raises OutOfMemory, InvalidOutput, and what the watch raises."""
        latents = self.memory.run(lambda: self._denoise(index), *self.fallbacks)
        return first_sound_image(self._attempts(latents), self.watch.add_warning)

    def _denoise(self, index: int) -> torch.Tensor:
        """Latents of one image, as the decoder takes them."""
        request, steps = self.request, self.request.num_inference_steps or 1
        on_step = steps_of_run(self.watch.on_step, index, request.num_images, first_image=index)
        latents: torch.Tensor = self.pipe(
            **self._prompt_embeddings(),
            image=self.references,
            width=request.width,
            height=request.height,
            num_inference_steps=steps,
            guidance_scale=request.guidance_scale,
            generator=seeded_generator((request.seed or 0) + index),
            output_type="latent",
            callback_on_step_end=step_callback(on_step, steps, self._preview),
        ).images
        return latents

    def _prompt_embeddings(self) -> dict[str, torch.Tensor]:
        """Arguments of the pipeline. For cached prompts the text encoder stays where it is."""
        texts = {"prompt_embeds": self.request.prompt}
        # The pipeline's own condition for a second prediction, without the prompt.
        if not self.pipe.config.is_distilled and (self.request.guidance_scale or 0) > 1:
            texts["negative_prompt_embeds"] = ""
        device = self.pipe._execution_device
        return {
            name: self.embeddings.get(text, partial(_encode, self.pipe, text))[0].to(device)
            for name, text in texts.items()
        }

    def _attempts(self, latents: torch.Tensor) -> Iterator[Attempt]:
        yield Attempt("", lambda: self._decoded(latents))
        if self.pipe.vae.dtype is not torch.float32 and latents.isfinite().all():
            yield Attempt("it was decoded again in float32", lambda: self._decoded_in_float32(latents))

    def _decoded_in_float32(self, latents: torch.Tensor) -> Image:
        with in_float32(self.pipe.vae):
            return self._decoded(latents.float())

    def _decoded(self, latents: torch.Tensor) -> Image:
        image = self.memory.run(lambda: self._decode(latents), *self.fallbacks)
        # With offloading, nothing else moves the decoder off the device.
        self.pipe.maybe_free_model_hooks()
        return image

    @torch.no_grad()
    def _decode(self, latents: torch.Tensor) -> Image:
        return to_image(self.pipe.vae.decode(latents, return_dict=False)[0])

    def _preview(self, latents: torch.Tensor) -> Pixels:
        patch = self.pipe.vae_scale_factor * 2
        height, width = (self.request.height or 0) // patch, (self.request.width or 0) // patch
        # A token is a patch of 2x2 latents: four values of the first channel, then four of the next.
        channels = latents[0].float().T.reshape(-1, 4, height, width).mean(1)
        return false_colour_preview(channels[[0, 1 % len(channels), 2 % len(channels)]][None])


@torch.no_grad()
def _encode(pipe: Any, text: str) -> PromptEmbedding:
    embedding, _ = pipe.encode_prompt(text, device=pipe._execution_device)
    return (embedding,)


def _ignored_tokens(pipe: Any, prompt: str) -> int:
    """How many tokens at the end of the prompt the model ignores."""
    message = [{"role": "user", "content": prompt}]
    text = pipe.tokenizer.apply_chat_template(
        message, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    tokens: list[int] = pipe.tokenizer(text).input_ids
    return max(0, len(tokens) - int(pipe.tokenizer_max_length))


def _references(inputs: Inputs) -> list[Any] | None:
    """Raises InvalidImage for images that the pipeline would refuse."""
    for pixels in inputs.images:
        height, width, _ = pixels.shape
        if min(width, height) < MIN_INPUT_SIDE or max(width, height) > MAX_INPUT_RATIO * min(width, height):
            raise InvalidImage(
                f"An input image has {width}x{height} pixels. Each side must have at least {MIN_INPUT_SIDE} pixels, "
                f"and one side at most {MAX_INPUT_RATIO} times those of the other."
            )
    return [PillowImage.fromarray(pixels) for pixels in inputs.images] or None


def _capabilities(pipe: Any, model: str, checker: SafetyChecker | None) -> Capabilities:
    distilled = bool(pipe.config.is_distilled)
    parameters = inspect.signature(type(pipe).__call__).parameters
    native = pipe.default_sample_size * pipe.vae_scale_factor
    ignored = ("bfl_model", "clip_skip", "loras", "negative_prompt", "prompt_syntax", "scheduler", "strength")
    return Capabilities(
        model=model,
        width=native,
        height=native,
        multiple_of=pipe.vae_scale_factor * 2,
        min_side=64,
        max_side=MAX_SIDE,
        max_pixels=MAX_PIXELS,
        num_inference_steps=DISTILLED_STEPS if distilled else parameters["num_inference_steps"].default,
        guidance_scale=DISTILLED_GUIDANCE if distilled else parameters["guidance_scale"].default,
        max_input_images=MAX_INPUTS,
        safety=CHECKED if checker else OFF,
        # Distilled models have guidance built in: the scale changes nothing.
        ignored=("guidance_scale", *ignored) if distilled else ignored,
    )
