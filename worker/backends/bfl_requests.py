"""Resolved requests in the words of Black Forest Labs."""

import base64
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from shared.bfl import picture_fields
from shared.capabilities import Capabilities, Size
from shared.schemas import GenerationRequest
from worker import png
from worker.backends.base import Inputs, Pixels

#: Aspect ratios are told in small numbers, up to 21:9.
MOST_IN_RATIO = 21
#: Larger pictures are scaled down before they are sent: no model makes more, and each megapixel is charged for.
MAX_INPUT_PIXELS = 4_000_000
#: Ratios this near to each other are the same one, told in whole pixels.
_SAME_RATIO = 0.01


def request_body(request: GenerationRequest, model: Capabilities, inputs: Inputs) -> dict[str, Any]:
    """All but the seed, which is another for each picture."""
    body: dict[str, Any] = {"prompt": request.prompt, "output_format": request.output_format.value}
    body |= _size(model, (request.width or model.width, request.height or model.height), inputs)
    if model.num_inference_steps is not None:
        body["steps"] = request.num_inference_steps
    if model.guidance_scale is not None:
        body["guidance"] = request.guidance_scale
    return body | _pictures(request, model, inputs)


def aspect_ratio(width: int, height: int) -> str:
    """The nearest one of small numbers."""
    ratio = Fraction(max(width, height), min(width, height)).limit_denominator(MOST_IN_RATIO // 2)
    longer, shorter = ratio.numerator, ratio.denominator
    return f"{longer}:{shorter}" if width >= height else f"{shorter}:{longer}"


def _size(model: Capabilities, size: Size, inputs: Inputs) -> dict[str, Any]:
    width, height = size
    if model.max_added is not None:
        return _added(size, inputs.images[0])
    if "width" in model.ignored:
        return {}
    if not model.only_ratio:
        return {"width": width, "height": height}
    if inputs.images and abs(_ratio(inputs.images[0]) / (width / height) - 1) < _SAME_RATIO:
        # They take the ratio of the picture, which is never quite one of small numbers.
        return {}
    return {"aspect_ratio": aspect_ratio(width, height)}


def _ratio(pixels: Pixels) -> float:
    return float(pixels.shape[1] / pixels.shape[0])


def _added(size: Size, pixels: Pixels) -> dict[str, int]:
    """What has to be added at each side for a picture of that size with this one in its middle."""
    across, down = size[0] - pixels.shape[1], size[1] - pixels.shape[0]
    return {"left": across // 2, "right": across - across // 2, "top": down // 2, "bottom": down - down // 2}


def _pictures(request: GenerationRequest, model: Capabilities, inputs: Inputs) -> dict[str, str]:
    fields = picture_fields(model.model, len(inputs.images))
    if inputs.mask is not None and request.width and request.height:
        size = (request.width, request.height)
        grey = np.repeat(inputs.mask[..., None], 3, axis=2)
        mask = _sent(grey, size, Image.Resampling.NEAREST)
        return {fields[0]: _sent(inputs.images[0], size, Image.Resampling.LANCZOS), "mask": mask}
    sent = (_sent(pixels, _most(pixels), Image.Resampling.LANCZOS) for pixels in inputs.images)
    return dict(zip(fields, sent, strict=True))


def _most(pixels: Pixels) -> Size:
    """The size to send a picture in."""
    height, width = pixels.shape[:2]
    scale = min(1.0, (MAX_INPUT_PIXELS / (width * height)) ** 0.5)
    return max(1, int(width * scale)), max(1, int(height * scale))


def _sent(pixels: Pixels, size: Size, resampling: Image.Resampling) -> str:
    """As base64 of a PNG: what a model sees of a picture is that and nothing that its file told."""
    if (pixels.shape[1], pixels.shape[0]) != size:
        pixels = np.asarray(Image.fromarray(pixels).resize(size, resampling), dtype=np.uint8)
    return base64.b64encode(png.encode(pixels, {})).decode()
