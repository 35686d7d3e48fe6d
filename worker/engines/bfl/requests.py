"""Translates resolved requests to the API of Black Forest Labs."""

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
from worker.images.png import PngEncoder
from worker.images.scaling import scaled
from worker.images.values import ImageSource, Inputs

#: Aspect ratios are given in small numbers, up to 21:9.
MAX_RATIO_NUMBER = 21
#: Larger input images are scaled down: no model produces larger ones, and each megapixel costs money.
MAX_INPUT_PIXELS = 4_000_000
#: Sizes in whole pixels have inexact ratios: ratios that differ by less than this count as equal.
_RATIO_TOLERANCE = 0.01

#: What encoding an image as PNG and base64 takes in addition to the image.
ENCODING_BYTES_PER_PIXEL = 8

#: Waits until the request may use this many bytes in all.
ReserveMemory = Callable[[int], None]
#: The name of a field, the bytes that encoding takes, and the encoding.
_ImageField = tuple[str, int, Callable[[], bytes]]


def request_body(
    request: GenerationRequest, model: Capabilities, inputs: Inputs, seed: int, reserve: ReserveMemory
) -> io.BytesIO:
    """As JSON. Input images are decoded one at a time; `reserve` is called before each."""
    fields: dict[str, Any] = {"prompt": request.prompt, "output_format": request.output_format.value, "seed": seed}
    fields |= _size_fields(model, request.size, inputs)
    if model.num_inference_steps is not None:
        fields["steps"] = request.num_inference_steps
    if model.guidance_scale is not None:
        fields["guidance"] = request.guidance_scale
    body = io.BytesIO()
    body.write(json.dumps(fields).encode())
    for name, encoding_bytes, encode in _image_fields(request, model, inputs):
        reserve(body.tell() + encoding_bytes)
        # Replaces the closing brace.
        body.seek(-1, io.SEEK_CUR)
        body.write(b', "%s": "' % name.encode())
        body.write(base64.b64encode(encode()))
        body.write(b'"}')
    reserve(body.tell())
    return body


def aspect_ratio(width: int, height: int) -> str:
    """The nearest ratio of small numbers."""
    ratio = Fraction(max(width, height), min(width, height)).limit_denominator(MAX_RATIO_NUMBER // 2)
    longer, shorter = ratio.numerator, ratio.denominator
    return f"{longer}:{shorter}" if width >= height else f"{shorter}:{longer}"


def _size_fields(model: Capabilities, size: Size, inputs: Inputs) -> dict[str, Any]:
    width, height = size
    if model.max_added is not None:
        return _padding_fields(size, inputs.sources[0])
    if "width" in model.ignored:
        return {}
    if not model.only_ratio:
        return {"width": width, "height": height}
    if inputs.sources and abs(_ratio(inputs.sources[0]) / (width / height) - 1) < _RATIO_TOLERANCE:
        # By default the model uses the ratio of the image, which small numbers can only approximate.
        return {}
    return {"aspect_ratio": aspect_ratio(width, height)}


def _ratio(source: ImageSource) -> float:
    width, height = source.size
    return width / height


def _padding_fields(size: Size, source: ImageSource) -> dict[str, int]:
    """The pixels to add on each side to reach this size with the image in the middle."""
    across, down = size[0] - source.size[0], size[1] - source.size[1]
    return {"left": across // 2, "right": across - across // 2, "top": down // 2, "bottom": down - down // 2}


def _image_fields(request: GenerationRequest, model: Capabilities, inputs: Inputs) -> Iterator[_ImageField]:
    names = image_field_names(model.model, len(inputs.sources))
    for name, source in zip(names, inputs.sources, strict=True):
        size = request.size if request.mask is not None else _limited_size(source.size)
        encoding_bytes = source.decoding_bytes + ENCODING_BYTES_PER_PIXEL * size[0] * size[1]
        yield name, encoding_bytes, partial(_encoded, source, size)
    if request.mask is not None:
        # The mask has the size of the image, and usually its format.
        yield "mask", encoding_bytes, partial(_encoded_mask, inputs, size)


def _limited_size(size: Size) -> Size:
    width, height = size
    scale = min(1.0, (MAX_INPUT_PIXELS / (width * height)) ** 0.5)
    return max(1, int(width * scale)), max(1, int(height * scale))


def _encoded(source: ImageSource, size: Size) -> bytes:
    """As a PNG of the pixels alone: no metadata of the original file leaves this service."""
    return PngEncoder().encode(scaled(source.pixels(size), size))


def _encoded_mask(inputs: Inputs, size: Size) -> bytes:
    assert inputs.mask is not None  # noqa: S101 - the request has one
    mask = np.asarray(Image.fromarray(inputs.mask).resize(size, Image.Resampling.NEAREST))
    return PngEncoder().encode(np.repeat(mask[..., None], 3, axis=2))
