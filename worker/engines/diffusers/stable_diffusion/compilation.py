"""The model's repeated blocks as compiled code, for sizes that are known beforehand."""

import logging
import time
from collections.abc import Sequence

import torch

from shared.errors import ConfigurationError, InvalidRequest
from shared.jobs.requests import GenerationRequest
from shared.models.capabilities import Capabilities
from worker.engines.diffusers.placement import Placement
from worker.engines.diffusers.stable_diffusion.loading import Pipelines

logger = logging.getLogger(__name__)


def compile_for(engine: Pipelines, capabilities: Capabilities, sizes: Sequence[str], most_images: int) -> None:
    """Compile now, so that no request has to wait for it: whatever does not go with what was compiled runs as usual.

    So does everything where it cannot be compiled, such as without a C++ compiler. Raises ConfigurationError for a size
    that the model does not make.
    """
    begin = time.monotonic()
    requests = [_request(capabilities, size) for size in sizes]
    if engine.inpaint is not None:
        logger.warning("SD_COMPILE_SIZES has no effect: models for inpainting are not compiled")
        return
    if engine.placement is not Placement.RESIDENT:
        logger.warning("SD_COMPILE_SIZES has no effect: parts of the model wait in main memory")
        return
    engine.text.unet.compile_repeated_blocks(fullgraph=True)
    try:
        for request in requests:
            for images in sorted({1, most_images}):
                _draw(engine, request, images)
    # Whatever torch, Triton or a compiler stumble over.
    except Exception as error:
        torch.compiler.set_stance("force_eager")
        reason = str(error).strip().partition("\n")[0]
        logger.warning("SD_COMPILE_SIZES has no effect, the model runs as it is; is there a C++ compiler? %s", reason)
    else:
        torch.compiler.set_stance("eager_on_recompile")
        logger.info("compiled for %s in %.0f s", ", ".join(sizes), time.monotonic() - begin)


def _request(capabilities: Capabilities, size: str) -> GenerationRequest:
    width, _, height = size.partition("x")
    try:
        request = GenerationRequest(prompt="x", width=int(width), height=int(height))
        capabilities.check(request)
    except (ValueError, InvalidRequest):
        raise ConfigurationError(f"SD_COMPILE_SIZES has {size}, which the model does not make.") from None
    return capabilities.resolve(request)[0]


def _draw(engine: Pipelines, request: GenerationRequest, images: int) -> None:
    engine.text(
        prompt=[request.prompt] * images,
        width=request.width,
        height=request.height,
        num_inference_steps=1,
        guidance_scale=request.guidance_scale,
        output_type="latent",
    )
