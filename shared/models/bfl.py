"""Models of Black Forest Labs and their limits.

The source is the openapi.json of their API of September 2026, and their documentation for the sizes of FLUX.2.
"""

from shared.models.capabilities import Capabilities

DEFAULT_MODEL = "flux-2-pro-preview"

_SAMPLING = ("guidance_scale", "num_inference_steps")
_TEXTS = ("clip_skip", "loras", "negative_prompt", "prompt_syntax")
_UNSUPPORTED = (*_TEXTS, "mask_fill", "resize_mode", "scheduler", "strength")


def _flux_2(model: str, max_images: int = 8) -> Capabilities:
    return Capabilities(
        model=model,
        width=1024,
        height=1024,
        multiple_of=16,
        min_side=64,
        max_side=8192,
        # Documented as 4 MP; it is undocumented whether that includes 2048x2048, which is slightly more.
        max_pixels=4_000_000,
        exact_size=False,
        size_tolerance=None,
        num_inference_steps=None,
        guidance_scale=None,
        max_input_images=max_images,
        ignored=(*_UNSUPPORTED, *_SAMPLING),
    )


def _flux_1(model: str) -> Capabilities:
    sides = {"width": 1024, "height": 768, "multiple_of": 32, "min_side": 256, "max_side": 1440, "max_pixels": None}
    return _flux_2(model, 1).model_copy(update=sides)


def _by_ratio(model: str, side: int, max_images: int) -> Capabilities:
    sides = {"width": side, "height": side, "multiple_of": 1, "min_side": 16, "max_side": 8192, "max_pixels": None}
    return _flux_2(model, max_images).model_copy(update={**sides, "max_ratio": 21 / 9, "only_ratio": True})


def _with_steps(
    model: Capabilities, steps: int, guidance: float, min_guidance: float, max_guidance: float
) -> Capabilities:
    sampling = {"num_inference_steps": steps, "max_steps": 50, "guidance_scale": guidance}
    bounds = {"min_guidance": min_guidance, "max_guidance": max_guidance}
    return model.model_copy(update={**sampling, **bounds, "ignored": _UNSUPPORTED})


def _fill(model: str) -> Capabilities:
    """A model that inpaints one image of any size and keeps its size."""
    sides = {"multiple_of": 1, "min_side": 16, "max_side": 8192, "max_pixels": None}
    base = _with_steps(_flux_2(model, 1), 50, 60.0, 1.5, 100.0).model_copy(update={**sides, "min_steps": 15})
    inpainting = {"inpainting": True, "requires": ("image", "mask"), "ignored": (*_UNSUPPORTED, "width", "height")}
    return base.model_copy(update=inpainting)


def _expand(model: str) -> Capabilities:
    """A model that extends one image on all sides."""
    expanding = {
        "inpainting": False,
        "requires": ("image", "width", "height"),
        "ignored": _UNSUPPORTED,
        "max_added": 2048,
    }
    return _fill(model).model_copy(update=expanding)


_ALL = (
    _flux_2("flux-2-max"),
    _flux_2("flux-2-pro"),
    _flux_2("flux-2-pro-preview"),
    _with_steps(_flux_2("flux-2-flex"), 50, 5.0, 1.5, 10.0),
    _flux_2("flux-2-klein-9b", 4),
    _flux_2("flux-2-klein-9b-preview", 4),
    _flux_2("flux-2-klein-4b", 4),
    _by_ratio("flux-kontext-pro", 1024, 4),
    _by_ratio("flux-kontext-max", 1024, 4),
    _flux_1("flux-pro-1.1"),
    _by_ratio("flux-pro-1.1-ultra", 2048, 1),
    _with_steps(_flux_1("flux-dev"), 28, 3.0, 1.5, 5.0),
    _fill("flux-pro-1.0-fill"),
    _expand("flux-pro-1.0-expand"),
)

#: By their names in API paths, which requests also use in `bfl_model`.
MODELS = {model.model: model for model in _ALL}


#: Names of the field for the first input image; a second one has the suffix `_2`.
_IMAGE_FIELDS = {
    "flux-pro-1.1": "image_prompt",
    "flux-pro-1.1-ultra": "image_prompt",
    "flux-dev": "image_prompt",
    "flux-pro-1.0-fill": "image",
    "flux-pro-1.0-expand": "image",
}


def image_field_names(model: str, count: int) -> list[str]:
    first = _IMAGE_FIELDS.get(model, "input_image")
    return [first, *(f"{first}_{number}" for number in range(2, count + 1))][:count]


def capabilities(default: str) -> Capabilities:
    """Capabilities of flux-api, with `default` as the model of requests that name none."""
    return MODELS[default].model_copy(update={"choices": _ALL})
