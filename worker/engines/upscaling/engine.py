"""The upscaling engine: enlarges the input image of a request to the requested size."""

from collections.abc import Hashable, Sequence, Set
from pathlib import Path
from typing import Self

import torch

from shared.jobs.requests import GenerationRequest
from shared.models.capabilities import Capabilities
from worker.engines.base import JobWatch, Sizes, Step
from worker.engines.diffusers.memory.devices import choose_device, choose_dtype, dtype_name
from worker.engines.diffusers.memory.errors import reported_out_of_memory
from worker.engines.upscaling.upscaler import Upscaler
from worker.images.scaling import scaled
from worker.images.values import Inputs, RenderedImage
from worker.models.contents.fingerprint import fingerprint

#: The compact network is sound in half precision, and so are those of ESRGAN on CUDA (as their authors run them).
HALF = {"cuda": "float16"}


class UpscalingEngine:
    """Not thread-safe: one job at a time."""

    def __init__(self, upscaler: Upscaler, name: str, path: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.capabilities = upscaler_capabilities(name, upscaler.scale)
        self.device = str(device)
        self.dtype = dtype_name(dtype)
        self._fingerprint = fingerprint([path], self.dtype, device)
        self._upscaler = upscaler
        self._device = device

    @classmethod
    def load(cls, name: str, path: Path, device: str = "auto", dtype: str = "auto") -> Self:
        """Raises ConfigurationError if the file is no upscaler, and OutOfMemory."""
        chosen = choose_device(device)
        precision = choose_dtype(dtype, chosen, HALF)
        with reported_out_of_memory():
            return cls(Upscaler.load(path, chosen, precision), name, path, chosen, precision)

    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def sizes(self) -> Sizes:
        return {id(self._upscaler): self._upscaler.size_bytes}

    def move_to_main_memory(self, staying: Set[Hashable] = frozenset()) -> None:  # noqa: ARG002 - it shares no parts
        self._upscaler.to(torch.device("cpu"))

    def move_to_device(self) -> None:
        with reported_out_of_memory():
            self._upscaler.to(self._device)

    def close(self, inherited: Set[Hashable] = frozenset()) -> None:
        """Its memory is freed with the last reference to it."""

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
        (image, opacity), size = inputs.sources[0].transparent_pixels(), request.size
        if size[0] > image.shape[1] or size[1] > image.shape[0]:
            with reported_out_of_memory():
                image = self._upscaler.enlarge(image, lambda tile, tiles: watch.on_step(Step(tile, tiles)))
        if opacity is not None:
            opacity = scaled(opacity, size)
        return [RenderedImage(scaled(image, size), request.seeds[0], opacity=opacity)]


def upscaler_capabilities(name: str, scale: int) -> Capabilities:
    return Capabilities(
        model=name,
        width=1024,
        height=1024,
        multiple_of=1,
        min_side=16,
        max_side=8192,
        num_inference_steps=None,
        guidance_scale=None,
        max_input_images=1,
        scale=scale,
        requires=("image",),
        ignored=(
            *("clip_skip", "guidance_scale", "loras", "negative_prompt", "num_inference_steps"),
            *("prompt_syntax", "scheduler", "strength"),
        ),
    )
