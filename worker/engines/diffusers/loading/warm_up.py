"""Runs a model once for each size that it is compiled for, before its worker is ready."""

from collections.abc import Iterator

from shared.errors import ConfigurationError, InvalidRequest
from shared.jobs.requests import GenerationRequest
from shared.models.capabilities import Capabilities
from worker.engines.diffusers.acceleration.accelerator import Accelerator
from worker.engines.diffusers.denoising.call_arguments import call_arguments
from worker.engines.diffusers.loading.pipelines import Pipelines
from worker.engines.diffusers.options import DiffusersOptions, Level


def prepare(
    accelerator: Accelerator,
    pipelines: Pipelines,
    capabilities: Capabilities,
    options: DiffusersOptions,
    max_images: int,
) -> None:
    """Raises ConfigurationError for a size that the model does not support. Models that need images run uncompiled."""
    if options.level < Level.FAST or pipelines.is_inpainting_model or pipelines.family.needs:
        return
    requests = {size: _request(capabilities, size) for size in _sizes(pipelines, capabilities, options)}
    images = sorted({1, max_images})
    accelerator.prepare(list(requests), images, lambda size, count: _run_one_step(pipelines, requests[size], count))


def _sizes(pipelines: Pipelines, capabilities: Capabilities, options: DiffusersOptions) -> Iterator[str]:
    """On a GPU also the model's own: that is what most requests want."""
    if pipelines.device.type == "cuda":
        yield f"{capabilities.width}x{capabilities.height}"
    yield from options.compile_sizes


def _request(capabilities: Capabilities, size: str) -> GenerationRequest:
    width, _, height = size.partition("x")
    try:
        request = GenerationRequest(prompt="x", width=int(width), height=int(height))
        capabilities.check(request)
    except (ValueError, InvalidRequest):
        raise ConfigurationError(f"SD_COMPILE_SIZES has {size}, a size that the model does not support.") from None
    return capabilities.resolve(request)[0]


def _run_one_step(pipelines: Pipelines, request: GenerationRequest, images: int) -> None:
    prompts = [(request.prompt, request.negative_prompt)] * images
    pipe = pipelines.text
    pipe(**call_arguments(pipe, pipelines.family, request, prompts, 1, output_type="latent"))
