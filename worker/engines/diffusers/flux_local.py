"""FLUX.2 Klein on diffusers: images from prompts, and from prompts and up to four images."""

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
from worker.engines.base import JobWatch, Step
from worker.engines.diffusers.devices import choose_device, choose_dtype, memory_of, name_of
from worker.engines.diffusers.out_of_memory import (
    Fallback,
    MemoryBudget,
    OutOfMemoryFallbacks,
    keep_freed_memory,
    tiled,
)
from worker.engines.diffusers.pipeline_loading import load_pipeline
from worker.engines.diffusers.placement import Placement, can_be_offloaded, offloaded, settle
from worker.engines.diffusers.prompt_embeddings import PromptEmbedding, PromptEmbeddingCache
from worker.engines.diffusers.safety_checker import CHECKED, OFF, SafetyChecker
from worker.engines.diffusers.sampling import (
    Attempt,
    Image,
    generator,
    in_float32,
    quieten_libraries,
    soundest,
    step_callback,
    to_preview,
)
from worker.images.values import Inputs, Pixels, RenderedImage
from worker.models.fingerprint import fingerprint
from worker.models.sources import LocalModel

PIPELINE = "Flux2KleinPipeline"
PARTS = ("text_encoder", "transformer", "vae")
#: What an image of a megapixel and its edits need beside the weights. Measured by others for FLUX.2 Klein 4B at
#: 1024x1024 on CUDA: 17.3 GiB in all, of which 14.9 GiB are weights.
WORKING_BYTES = 3 << 30
#: Never float16: FLUX overflows in it, and the images are black.
HALF = {"cuda": torch.bfloat16, "mps": torch.bfloat16}
#: What distilled models were made for (BFL's model card); diffusers' own defaults are those of the base models.
DISTILLED_STEPS, DISTILLED_GUIDANCE = 4, 1.0
#: What the pipeline accepts of images to begin with.
MIN_INPUT_SIDE, MAX_INPUT_RATIO, MAX_INPUTS = 64, 8, 4
#: Four megapixels are what FLUX.2 was made for at most.
MAX_SIDE, MAX_PIXELS = 2048, 4_194_304


@dataclass(frozen=True)
class FluxOptions:
    """What the operator chooses beside the model."""

    device: str = "auto"
    dtype: str = "auto"
    safety_checker: Callable[[], Path] | None = None
    """Finds the checker; None checks nothing."""
    cloud: bool = False
    """Whether callers whose images do not fit can be sent to flux-api."""


class FluxLocal:
    """Not thread-safe: one job at a time, as the worker has it."""

    def __init__(
        self, pipe: Any, model: LocalModel, device: torch.device, checker: SafetyChecker | None, cloud: bool
    ) -> None:
        placement = settle(pipe, device, model.name, dict.fromkeys(PARTS, WORKING_BYTES))
        self.capabilities = _capabilities(pipe, model.name, checker)
        self.device = str(device)
        self.dtype = name_of(pipe.transformer.dtype)
        self.fingerprint = fingerprint([model.folder], self.dtype, device, bool(checker))
        self.placement = str(placement)
        self._pipe = pipe
        self._device = device
        self._checker = checker
        self._meanings = PromptEmbeddingCache()
        self._room = MemoryBudget(self.capabilities, cloud=cloud)
        self._retries = pipe.vae.dtype is not torch.float32

    @classmethod
    def load(cls, model: LocalModel, options: FluxOptions) -> "FluxLocal":
        """Raises ConfigurationError with one sentence when the model, or what checks it, cannot be had."""
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
        return cls(pipe, model, device, checker, options.cloud)

    def memory(self) -> DeviceMemory | None:
        return memory_of(self._device)

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
        if request.seed is None:
            raise ValueError("the request is not resolved")
        references = _references(inputs)
        if cut := _cut(self._pipe, request.prompt):
            watch.add_warning(f"prompt is too long for the model, which does not read its last {cut} tokens")
        with OutOfMemoryFallbacks(request, self._room, watch) as ladder:
            rendering = _Rendering(
                self._pipe, self._meanings, request, references, watch, ladder, self._reliefs(), self._retries
            )
            made = [rendering.image(index) for index in range(request.num_images)]
        flags = self._checker.flags(made) if self._checker else [False] * len(made)
        return [
            RenderedImage(pixels, request.seed + index, flagged)
            for index, (pixels, flagged) in enumerate(zip(made, flags, strict=True))
        ]

    def _reliefs(self) -> list[Fallback]:
        reliefs = [Fallback("images were encoded and decoded in tiles", lambda: tiled(self._pipe.vae))]
        if can_be_offloaded(Placement(self.placement), self._device):
            idle = partial(offloaded, self._pipe, self._device)
            reliefs.append(Fallback("idle parts of the model waited in main memory", idle))
        return reliefs


@dataclass(frozen=True)
class _Rendering:
    """Of a resolved request; one image after the other, so that several need no more memory than one."""

    pipe: Any
    meanings: PromptEmbeddingCache
    request: GenerationRequest
    references: list[Any] | None
    watch: JobWatch
    ladder: OutOfMemoryFallbacks
    reliefs: Sequence[Fallback]
    retries: bool
    """Whether a decoder that overflows can do better in float32."""

    def image(self, index: int) -> Pixels:
        """Image i from seed + i. Raises OutOfMemory, InvalidOutput, and what the watch raises."""
        latents = self.ladder.run(lambda: self._denoised(index), *self.reliefs)
        return soundest(self._attempts(latents), self.watch.add_warning)

    def _denoised(self, index: int) -> torch.Tensor:
        """Latents of one image, as the decoder takes them."""
        request, steps = self.request, self.request.num_inference_steps or 1

        def on_step(step: Step) -> None:
            done, total = index * step.steps + step.step, request.num_images * step.steps
            self.watch.on_step(
                Step(done, total, lambda wanted: step.render_preview(wanted - index) if step.render_preview else None)
            )

        latents: torch.Tensor = self.pipe(
            **self._read(),
            image=self.references,
            width=request.width,
            height=request.height,
            num_inference_steps=steps,
            guidance_scale=request.guidance_scale,
            generator=generator((request.seed or 0) + index),
            output_type="latent",
            callback_on_step_end=step_callback(on_step, steps, self._preview),
        ).images
        return latents

    def _read(self) -> dict[str, torch.Tensor]:
        """The prompt as the model takes it; while it is known, the text encoder stays where it is."""
        texts = {"prompt_embeds": self.request.prompt}
        # As the pipeline decides whether there is a second prediction, which it makes without a prompt.
        if not self.pipe.config.is_distilled and (self.request.guidance_scale or 0) > 1:
            texts["negative_prompt_embeds"] = ""
        read = {name: self.meanings.of(text, partial(_encoded, self.pipe, text)) for name, text in texts.items()}
        return {name: meaning.to(self.pipe._execution_device) for name, (meaning,) in read.items()}

    def _attempts(self, latents: torch.Tensor) -> Iterator[Attempt]:
        yield Attempt("", lambda: self._decoded(latents))
        if self.retries and latents.isfinite().all():
            yield Attempt("it was decoded again in float32", lambda: self._decoded_in_float32(latents))

    def _decoded_in_float32(self, latents: torch.Tensor) -> Image:
        with in_float32(self.pipe.vae):
            return self._decoded(latents.float())

    def _decoded(self, latents: torch.Tensor) -> Image:
        image = self.ladder.run(lambda: self._decode(latents), *self.reliefs)
        # Where only the part that is at work is on the device, nobody else would send the decoder away.
        self.pipe.maybe_free_model_hooks()
        return image

    @torch.no_grad()
    def _decode(self, latents: torch.Tensor) -> Image:
        image = self.pipe.vae.decode(latents, return_dict=False)[0]
        array: Image = (image / 2 + 0.5)[0].permute(1, 2, 0).float().cpu().numpy()
        return array

    def _preview(self, latents: torch.Tensor) -> Pixels:
        """Shapes in false colours: the first channels of the latents, spread to the visible range."""
        patch = self.pipe.vae_scale_factor * 2
        height, width = (self.request.height or 0) // patch, (self.request.width or 0) // patch
        # A token is a patch of 2x2 latents: four values of the first channel, then four of the next.
        channels = latents[0].float().T.reshape(-1, 4, height, width).mean(1)
        colours = channels[[0, 1 % len(channels), 2 % len(channels)]]
        low, high = colours.amin((1, 2), keepdim=True), colours.amax((1, 2), keepdim=True)
        return to_preview(((colours - low) / (high - low).clamp(min=1e-6))[None])


@torch.no_grad()
def _encoded(pipe: Any, text: str) -> PromptEmbedding:
    meaning, _ = pipe.encode_prompt(text, device=pipe._execution_device)
    return (meaning,)


def _cut(pipe: Any, prompt: str) -> int:
    """How many tokens at the prompt's end the model does not read."""
    message = [{"role": "user", "content": prompt}]
    text = pipe.tokenizer.apply_chat_template(
        message, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    tokens: list[int] = pipe.tokenizer(text).input_ids
    return max(0, len(tokens) - int(pipe.tokenizer_max_length))


def _references(inputs: Inputs) -> list[Any] | None:
    """Raises InvalidImage for what the pipeline would refuse."""
    for pixels in inputs.images:
        height, width, _ = pixels.shape
        if min(width, height) < MIN_INPUT_SIDE or max(width, height) > MAX_INPUT_RATIO * min(width, height):
            raise InvalidImage(
                f"An image of {width}x{height} pixels cannot be used: each side must have at least {MIN_INPUT_SIDE}, "
                f"and one at most {MAX_INPUT_RATIO} times those of the other."
            )
    return [PillowImage.fromarray(pixels) for pixels in inputs.images] or None


def _capabilities(pipe: Any, model: str, checker: SafetyChecker | None) -> Capabilities:
    distilled = bool(pipe.config.is_distilled)
    own = inspect.signature(type(pipe).__call__).parameters
    native = pipe.default_sample_size * pipe.vae_scale_factor
    ignored = ("bfl_model", "loras", "negative_prompt", "scheduler", "strength")
    return Capabilities(
        model=model,
        width=native,
        height=native,
        multiple_of=pipe.vae_scale_factor * 2,
        min_side=64,
        max_side=MAX_SIDE,
        max_pixels=MAX_PIXELS,
        num_inference_steps=DISTILLED_STEPS if distilled else own["num_inference_steps"].default,
        guidance_scale=DISTILLED_GUIDANCE if distilled else own["guidance_scale"].default,
        max_input_images=MAX_INPUTS,
        safety=CHECKED if checker else OFF,
        # Of a distilled model, guidance is a part: another one changes nothing.
        ignored=("guidance_scale", *ignored) if distilled else ignored,
    )
