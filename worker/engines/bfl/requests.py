"""Resolved requests in the words of Black Forest Labs."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from shared.jobs.requests import GenerationRequest
from shared.models.bfl import image_field_names
from shared.models.capabilities import Capabilities, Size
from worker.images import png
from worker.images.values import ImageSource, Inputs, Pixels

#: Aspect ratios are told in small numbers, up to 21:9.
MOST_IN_RATIO = 21
#: Larger images are scaled down before they are sent: no model makes more, and each megapixel is charged for.
MAX_INPUT_PIXELS = 4_000_000
#: Ratios this near to each other are the same one, told in whole pixels.
_SAME_RATIO = 0.01

#: What it takes to encode an image and write it as base64, beside the image.
ENCODING_BYTES_PER_PIXEL = 8

#: Waits until so many bytes may be held.
Memory = Callable[[int], None]
#: A field, the bytes that it takes to make it, and what does.
_Sent = tuple[str, int, Callable[[], bytes]]


def request_body(
    request: GenerationRequest, model: Capabilities, inputs: Inputs, seed: int, memory: Memory
) -> io.BytesIO:
    """As JSON. Of its images, one at a time is decoded; `memory` is told what is held before it is."""
    fields: dict[str, Any] = {"prompt": request.prompt, "output_format": request.output_format.value, "seed": seed}
    fields |= _size(model, (request.width or model.width, request.height or model.height), inputs)
    if model.num_inference_steps is not None:
        fields["steps"] = request.num_inference_steps
    if model.guidance_scale is not None:
        fields["guidance"] = request.guidance_scale
    body = io.BytesIO()
    body.write(json.dumps(fields).encode())
    for name, needed, encode in _images(request, model, inputs):
        memory(body.tell() + needed)
        # In the place of the bracket at the end.
        body.seek(-1, io.SEEK_CUR)
        body.write(b', "%s": "' % name.encode())
        body.write(base64.b64encode(encode()))
        body.write(b'"}')
    memory(body.tell())
    return body


def aspect_ratio(width: int, height: int) -> str:
    """The nearest one of small numbers."""
    ratio = Fraction(max(width, height), min(width, height)).limit_denominator(MOST_IN_RATIO // 2)
    longer, shorter = ratio.numerator, ratio.denominator
    return f"{longer}:{shorter}" if width >= height else f"{shorter}:{longer}"


def _size(model: Capabilities, size: Size, inputs: Inputs) -> dict[str, Any]:
    width, height = size
    if model.max_added is not None:
        return _added(size, inputs.sources[0])
    if "width" in model.ignored:
        return {}
    if not model.only_ratio:
        return {"width": width, "height": height}
    if inputs.sources and abs(_ratio(inputs.sources[0]) / (width / height) - 1) < _SAME_RATIO:
        # They take the ratio of the image, which is never quite one of small numbers.
        return {}
    return {"aspect_ratio": aspect_ratio(width, height)}


def _ratio(source: ImageSource) -> float:
    width, height = source.size
    return width / height


def _added(size: Size, source: ImageSource) -> dict[str, int]:
    """What has to be added at each side for an image of that size with this one in its middle."""
    across, down = size[0] - source.size[0], size[1] - source.size[1]
    return {"left": across // 2, "right": across - across // 2, "top": down // 2, "bottom": down - down // 2}


def _images(request: GenerationRequest, model: Capabilities, inputs: Inputs) -> Iterator[_Sent]:
    fields = image_field_names(model.model, len(inputs.sources))
    masked = request.mask is not None and request.width is not None and request.height is not None
    for field, source in zip(fields, inputs.sources, strict=True):
        size = (request.width or 0, request.height or 0) if masked else _most(source.size)
        needed = source.decoding_bytes + ENCODING_BYTES_PER_PIXEL * size[0] * size[1]
        yield field, needed, partial(_encoded, source, size)
    if masked:
        # It has the size of the image, and mostly its kind.
        yield "mask", needed, partial(_encoded_mask, inputs, size)


def _most(size: Size) -> Size:
    """The size to send an image in."""
    width, height = size
    scale = min(1.0, (MAX_INPUT_PIXELS / (width * height)) ** 0.5)
    return max(1, int(width * scale)), max(1, int(height * scale))


def _encoded(source: ImageSource, size: Size) -> bytes:
    """As a PNG: what a model sees of an image is that and nothing that its file told."""
    return png.encode(_resized(source.pixels(size), size, Image.Resampling.LANCZOS), {})


def _encoded_mask(inputs: Inputs, size: Size) -> bytes:
    assert inputs.mask is not None  # noqa: S101 - the request has one
    small = _resized(inputs.mask, size, Image.Resampling.NEAREST)
    return png.encode(np.repeat(small[..., None], 3, axis=2), {})


def _resized(pixels: Pixels, size: Size, resampling: Image.Resampling) -> Pixels:
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, resampling), dtype=np.uint8)
