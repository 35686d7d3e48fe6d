"""Sizes and limits of the second pass of a request."""

from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

from shared.errors import FieldError
from shared.jobs.requests import GenerationRequest, SecondPass

if TYPE_CHECKING:
    from shared.models.capabilities import Capabilities, RequestLimits, Size

_SCALE = "/second_pass/scale"


#: A first pass may be smaller than requested by this factor. Beyond it, a larger second pass does not suit the model.
_TOLERANCE = 1.25


def resolve_second_pass(
    model: "Capabilities", request: GenerationRequest, size: "Size", max_pixels: int | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields to change once the first pass of `request` has this size, and warnings."""
    second = request.second_pass
    if second is None:
        return {}, ()
    if not _is_possible(model):
        return {"second_pass": None}, (f"second_pass is ignored: {model.model} does not support it",)
    width, height = _second_size(model, request, second, size, max_pixels)
    return {"second_pass": second.model_copy(update={"width": width, "height": height})}, ()


def second_pass_errors(
    model: "Capabilities", request: GenerationRequest, size: "Size", limits: "RequestLimits | None"
) -> list[FieldError]:
    second = request.second_pass
    if second is None or not _is_possible(model):
        return []
    width, height = _second_size(model, request, second, size, limits.max_pixels if limits else None)
    wanted = second.size or (size[0] * second.scale, size[1] * second.scale)
    if not request.fit_size and (wanted[0] >= width + model.multiple_of or wanted[1] >= height + model.multiple_of):
        return [FieldError(_SCALE, f"would make images larger than the limit of {width}x{height}")]
    steps = second.num_inference_steps or request.num_inference_steps or model.num_inference_steps or 1
    pixel_steps = width * height * ceil(steps * second.strength) * request.num_images
    if limits is not None and pixel_steps > limits.max_pixel_steps:
        return [FieldError(_SCALE, f"the second pass may take at most {limits.max_pixel_steps} pixels times steps")]
    return []


def _second_size(
    model: "Capabilities", request: GenerationRequest, second: SecondPass, size: "Size", max_pixels: int | None
) -> "Size":
    """The requested size, within the limits of the model and the operator.

    If the first pass is much smaller than requested, a larger second pass does not suit the model: it keeps the size.
    """
    if second.size is not None:
        return model.fitted_size(second.size, max_pixels)
    width, height = (request.width or size[0], request.height or size[1]) if request.fit_size else size
    scale = sqrt(width * height / (size[0] * size[1]))
    scale = 1.0 if scale**2 > _TOLERANCE else max(1.0, second.scale * scale)
    return model.fitted_size((size[0] * scale, size[1] * scale), max_pixels)


def _is_possible(model: "Capabilities") -> bool:
    return model.max_input_images > 0 and model.strength is not None
