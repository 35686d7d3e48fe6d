"""Translates a body of Hugging Face's inference API into the fields of a request."""

import re
from typing import Any

from api.field_errors import invalid_field
from api.intake.json_uploads import PADDING
from api.intake.submissions import VARIATION, Translation
from api.protocols.model_names import ModelNames

#: How an image begins in base64: PNG, JPEG, WebP, or the address of one.
_IMAGE = re.compile(r"iVBORw0KGgo|[/_]9j[/_]|UklGR|data:image/|https?://")
#: Parameters that are read here, or that only other kinds of models have.
_READ = frozenset({"target_size", "prompt"})


def translate(names: ModelNames, model: str, body: dict[str, Any]) -> Translation:
    """`model` is the one in the address. Raises InvalidRequest."""
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise invalid_field("/parameters", "must be an object")
    translation = Translation.of(parameters, _READ)
    fields, prompt = translation.fields, parameters.get("prompt")
    # The address says which.
    fields.pop("model", None)
    fields |= {**names.fields(model), **_inputs(body.get("inputs"), prompt), **_size(parameters)}
    names.set_scheduler(translation)
    if prompt is None:
        translation.names["prompt"] = "inputs"
    return translation


def _inputs(inputs: object, prompt: object) -> dict[str, Any]:
    """A prompt, or an image with the prompt among the parameters."""
    if inputs is None:
        raise invalid_field("/inputs", "is missing")
    # Of a long text, this is what stands for it (see JsonUploadReader).
    is_image = isinstance(inputs, str) and (_IMAGE.match(inputs) is not None or inputs.endswith(PADDING))
    if prompt is not None or is_image or isinstance(inputs, list):
        return {"image": inputs, "prompt": VARIATION if prompt is None else prompt}
    return {"prompt": inputs}


def _size(parameters: dict[str, Any]) -> dict[str, Any]:
    size = parameters.get("target_size")
    if size is None:
        return {}
    if not isinstance(size, dict):
        raise invalid_field("/target_size", "must have a width and a height")
    return {side: size[side] for side in ("width", "height") if size.get(side) is not None}
