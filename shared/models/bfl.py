"""The models of Black Forest Labs that make or change images, each with its own limits.

From the openapi.json of their API, September 2026; sizes of FLUX.2 from their documentation.
"""

from shared.models.capabilities import Capabilities

DEFAULT_MODEL = "flux-2-pro-preview"

_NEITHER = ("guidance_scale", "num_inference_steps")
_NEVER = ("loras", "negative_prompt", "scheduler", "strength")


def _flux_2(model: str, most: int = 8) -> Capabilities:
    return Capabilities(
        model=model,
        width=1024,
        height=1024,
        multiple_of=16,
        min_side=64,
        max_side=8192,
        # Told as 4 MP. Whether that means 2048x2048, which is more, is told nowhere.
        max_pixels=4_000_000,
        exact_size=False,
        num_inference_steps=None,
        guidance_scale=None,
        max_input_images=most,
        ignored=(*_NEVER, *_NEITHER),
    )


def _flux_1(model: str) -> Capabilities:
    sides = {"width": 1024, "height": 768, "multiple_of": 32, "min_side": 256, "max_side": 1440, "max_pixels": None}
    return _flux_2(model, 1).model_copy(update=sides)


def _by_ratio(model: str, side: int, most: int) -> Capabilities:
    sides = {"width": side, "height": side, "multiple_of": 1, "min_side": 16, "max_side": 8192, "max_pixels": None}
    return _flux_2(model, most).model_copy(update={**sides, "max_ratio": 21 / 9, "only_ratio": True})


def _with_steps(model: Capabilities, steps: int, guidance: float, lowest: float, highest: float) -> Capabilities:
    told = {"num_inference_steps": steps, "max_steps": 50, "guidance_scale": guidance}
    return model.model_copy(update={**told, "min_guidance": lowest, "max_guidance": highest, "ignored": _NEVER})


def _filling(model: str) -> Capabilities:
    """Changes one image, of any size, which stays as large as it is."""
    sides = {"multiple_of": 1, "min_side": 16, "max_side": 8192, "max_pixels": None}
    plain = _with_steps(_flux_2(model, 1), 50, 60.0, 1.5, 100.0).model_copy(update={**sides, "min_steps": 15})
    painting = {"inpainting": True, "requires": ("image", "mask"), "ignored": (*_NEVER, "width", "height")}
    return plain.model_copy(update=painting)


def _expanding(model: str) -> Capabilities:
    """Adds to one image on all sides."""
    growing = {"inpainting": False, "requires": ("image", "width", "height"), "ignored": _NEVER, "max_added": 2048}
    return _filling(model).model_copy(update=growing)


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
    _filling("flux-pro-1.0-fill"),
    _expanding("flux-pro-1.0-expand"),
)

#: By the name in their addresses, which is also what requests say in `bfl_model`.
MODELS = {model.model: model for model in _ALL}


#: How a model calls the image that comes with a request; a second one has `_2` behind it.
_IMAGE = {
    "flux-pro-1.1": "image_prompt",
    "flux-pro-1.1-ultra": "image_prompt",
    "flux-dev": "image_prompt",
    "flux-pro-1.0-fill": "image",
    "flux-pro-1.0-expand": "image",
}


def image_field_names(model: str, count: int) -> list[str]:
    first = _IMAGE.get(model, "input_image")
    return [first, *(f"{first}_{number}" for number in range(2, count + 1))][:count]


def capabilities(default: str) -> Capabilities:
    """What flux-api can do, where requests that name no model get `default`."""
    return MODELS[default].model_copy(update={"choices": _ALL})
