"""Fits a request to the sizes that suit a model, for callers that cannot choose the size."""

from math import sqrt
from typing import TYPE_CHECKING

from shared.jobs.requests import MAX_SIDE, MIN_SIDE, GenerationRequest

if TYPE_CHECKING:
    from shared.models.capabilities import Capabilities, Size


def fit_size(
    model: "Capabilities", request: GenerationRequest, input_size: "Size | None", max_pixels: int | None
) -> tuple[GenerationRequest, tuple[str, ...]]:
    """The request at a size that suits the model, to be scaled to the requested size; and warnings about that.

    `input_size` is that of the first input image, `max_pixels` the operator's limit. Requests without `fit_size` stay
    as they are, and so do those to models that take no size or extend an image, because only the caller knows how far.
    """
    if not request.fit_size or model.max_added is not None or "width" in model.ignored:
        return request, ()
    wanted = _requested_size(model, request, input_size)
    target = _limited(wanted, max_pixels)
    # With an input image, the aspect ratio is that of the image.
    is_native = model.only_native_size and not request.image
    made = (model.width, model.height) if is_native else _good_size(model, target, max_pixels)
    size: dict[str, object] = {"fit_size": False, "width": made[0], "height": made[1]}
    warnings = []
    if target != wanted:
        warnings.append(f"{_text(wanted)} is beyond this service's limits: the image has {_text(target)}")
    # With mask_padding, the result is scaled to its area of the input image instead.
    is_scaled = request.output_width is None and request.mask_padding is None
    if is_scaled and (made != target or not model.exact_size):
        size |= {"output_width": target[0], "output_height": target[1]}
    if made != target and request.mask_padding is None:
        warnings.append(f"rendered at {_text(made)}, which suits {model.model}, and scaled to {_text(target)}")
    return request.model_copy(update=size), tuple(warnings)


def _requested_size(model: "Capabilities", request: GenerationRequest, input_size: "Size | None") -> "Size":
    """A missing side follows the aspect ratio of the input image, or of the model."""
    width, height = input_size or (model.width, model.height)
    if request.width and request.height:
        return request.width, request.height
    if request.width:
        return request.width, max(1, round(height * request.width / width))
    if request.height:
        return max(1, round(width * request.height / height)), request.height
    return width, height


def _limited(size: "Size", max_pixels: int | None) -> "Size":
    width, height = size
    scale = 1.0 if max_pixels is None else min(1.0, sqrt(max_pixels / (width * height)))
    return _side(width * scale), _side(height * scale)


def _side(length: float) -> int:
    return min(max(int(length), MIN_SIDE), MAX_SIDE)


def _good_size(model: "Capabilities", size: "Size", max_pixels: int | None) -> "Size":
    width, height = size
    native, scale = model.width * model.height, 1.0
    if model.size_tolerance is not None:
        factor = width * height / native
        if not 1 / model.size_tolerance <= factor <= model.size_tolerance:
            scale = sqrt(1 / factor)
    return model.fitted_size((width * scale, height * scale), max_pixels)


def _text(size: "Size") -> str:
    return f"{size[0]}x{size[1]}"
