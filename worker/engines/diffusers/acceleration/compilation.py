"""Compiles the model's repeated blocks for image sizes that are known in advance."""

import logging
import time
from collections.abc import Sequence

import torch

from shared.errors import ConfigurationError, InvalidRequest
from shared.jobs.requests import GenerationRequest
from shared.models.capabilities import Capabilities
from worker.engines.diffusers.denoising.guidance import guidance_arguments
from worker.engines.diffusers.loading.pipeline_classes import parameters_of
from worker.engines.diffusers.loading.pipelines import Pipelines
from worker.models.placements import Placement

logger = logging.getLogger(__name__)


def compile_for(pipelines: Pipelines, capabilities: Capabilities, sizes: Sequence[str], max_images: int) -> None:
    """Compile now, so that no request waits for it. Requests of other sizes run uncompiled.

    Everything runs uncompiled if compilation fails, for example without a C++ compiler. Raises ConfigurationError for a
    size that the model does not support.
    """
    start = time.monotonic()
    requests = [_request(capabilities, size) for size in sizes]
    if pipelines.is_inpainting_model:
        logger.warning("SD_COMPILE_SIZES has no effect: inpainting models are not compiled")
        return
    if pipelines.placement is not Placement.RESIDENT:
        logger.warning("SD_COMPILE_SIZES has no effect: parts of the model wait in main memory")
        return
    try:
        pipelines.denoiser.compile_repeated_blocks(fullgraph=True)
        for request in requests:
            for images in sorted({1, max_images}):
                _run_one_step(pipelines, request, images)
    # Errors of torch, Triton and the compiler.
    except Exception as error:
        torch.compiler.set_stance("force_eager")
        reason = str(error).strip().partition("\n")[0]
        logger.warning("SD_COMPILE_SIZES has no effect, the model runs uncompiled; is there a C++ compiler? %s", reason)
    else:
        torch.compiler.set_stance("eager_on_recompile")
        logger.info("compiled for %s in %.0f s", ", ".join(sizes), time.monotonic() - start)


def _request(capabilities: Capabilities, size: str) -> GenerationRequest:
    width, _, height = size.partition("x")
    try:
        request = GenerationRequest(prompt="x", width=int(width), height=int(height))
        capabilities.check(request)
    except (ValueError, InvalidRequest):
        raise ConfigurationError(f"SD_COMPILE_SIZES has {size}, a size that the model does not support.") from None
    return capabilities.resolve(request)[0]


def _run_one_step(pipelines: Pipelines, request: GenerationRequest, images: int) -> None:
    parameters = parameters_of(pipelines.text)
    guidance = guidance_arguments(
        pipelines.family, pipelines.form, parameters, request.guidance_scale, [request.negative_prompt] * images
    )
    arguments = {
        "prompt": [request.prompt] * images,
        "width": request.width,
        "height": request.height,
        "num_inference_steps": 1,
        "output_type": "latent",
        **guidance,
        **pipelines.family.arguments,
    }
    pipelines.text(**{name: value for name, value in arguments.items() if name in parameters})
