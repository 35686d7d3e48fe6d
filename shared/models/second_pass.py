"""Sizes and limits of the second pass of a request."""

from math import ceil
from typing import TYPE_CHECKING, Any

from shared.errors import FieldError
from shared.jobs.requests import GenerationRequest, SecondPass

if TYPE_CHECKING:
    from shared.models.capabilities import Capabilities, RequestLimits, Size

_SCALE = "/second_pass/scale"


def resolve_second_pass(
    model: "Capabilities", request: GenerationRequest, size: "Size", max_pixels: int | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields to change once the first pass has this size, and warnings."""
    second = request.second_pass
    if second is None or second.width is not None:
        return {}, ()
    if not _is_possible(model):
        return {"second_pass": None}, (f"second_pass is ignored: {model.model} does not support it",)
    width, height = second_size(model, second, size, max_pixels)
    return {"second_pass": second.model_copy(update={"width": width, "height": height})}, ()


def second_pass_errors(
    model: "Capabilities", request: GenerationRequest, size: "Size", limits: "RequestLimits | None", *, fits: bool
) -> list[FieldError]:
    """`fits` allows a smaller size than asked for."""
    second = request.second_pass
    if second is None or not _is_possible(model):
        return []
    max_pixels = limits.max_pixels if limits else None
    width, height = second_size(model, second, size, max_pixels)
    largest = (width + model.multiple_of) * (height + model.multiple_of)
    if not fits and size[0] * second.scale * size[1] * second.scale >= largest:
        return [FieldError(_SCALE, f"would make the image larger than {width}x{height}, the most that is possible")]
    steps = second.num_inference_steps or request.num_inference_steps or model.num_inference_steps or 1
    pixel_steps = width * height * ceil(steps * second.strength) * request.num_images
    if limits is not None and pixel_steps > limits.max_pixel_steps:
        return [FieldError(_SCALE, f"the second pass may take at most {limits.max_pixel_steps} pixels times steps")]
    return []


def second_size(model: "Capabilities", second: SecondPass, size: "Size", max_pixels: int | None) -> "Size":
    """The size that `scale` asks for, as far as the model and the operator allow it."""
    limit = min(max_pixels or model.max_side**2, model.max_pixels or model.max_side**2)
    return model.fitted_size((size[0] * second.scale, size[1] * second.scale), limit)


def _is_possible(model: "Capabilities") -> bool:
    return model.max_input_images > 0 and model.strength is not None
