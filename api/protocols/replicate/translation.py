"""Translates a body of Replicate's API into the fields of a request."""

import re
from collections.abc import Mapping
from math import sqrt
from typing import Any

from api.field_errors import invalid_field
from api.intake.submissions import Translation
from api.models.offered import OfferedModels
from api.protocols.model_names import ModelNames
from shared.jobs.types import WebhookEvent
from shared.models.capabilities import Capabilities
from shared.protocols.replicate import model_name, version_id

#: Our fields by the names that the inputs of Replicate's models have for them.
_NAMES = {
    "num_outputs": "num_images",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "cfg": "guidance_scale",
    "prompt_strength": "strength",
    "input_image": "image",
    "input_images": "image",
    "image_input": "image",
    "image_prompt": "image",
}
_READ = frozenset({"aspect_ratio"})
_EVENTS = {
    "start": (WebhookEvent.STARTED,),
    "output": (WebhookEvent.SUCCEEDED,),
    "logs": (WebhookEvent.PROGRESS,),
    "completed": (WebhookEvent.SUCCEEDED, WebhookEvent.FAILED, WebhookEvent.CANCELLED),
}
_RATIO, _SIZE = re.compile(r"(\d{1,4}):(\d{1,4})"), re.compile(r"(\d{1,5})x(\d{1,5})")


def translate(names: ModelNames, path: str | None, body: dict[str, Any]) -> Translation:
    """`path` is the model in the path of the call, if there is one. Raises InvalidRequest and ModelNotFound."""
    inputs = body.get("input")
    if not isinstance(inputs, dict):
        raise invalid_field("/input", "is missing" if inputs is None else "must be an object")
    inputs = _with_sides({name: value for name, value in inputs.items() if value is not None})
    translation = Translation.of(inputs, _READ, _NAMES)
    fields = translation.fields
    translation.names.update({"webhook_url": "webhook", "webhook_events": "webhook_events_filter"})
    fields |= names.fields(model_name(path) if path is not None else _model_of(body.get("version"), names.models))
    if fields.get("output_format") == "jpg":
        fields["output_format"] = "jpeg"
    fields |= _size(inputs, fields, names.capabilities(fields))
    names.set_scheduler(translation)
    if not fields.get("image"):
        # The examples of Replicate's models send it with every call.
        fields.pop("strength", None)
    fields |= _webhook(body)
    return translation


def _model_of(version: object, models: OfferedModels) -> str:
    """The name of a model from a path, a version, or a path and a version."""
    if not isinstance(version, str):
        raise invalid_field("/version", "is missing: name a model or one of its versions")
    path, _, digest = version.rpartition(":")
    if path:
        return model_name(path)
    entries = (model.entry for model in models)
    names = {version_id(entry.name, entry.revision): entry.name for entry in entries}
    return names.get(digest, model_name(digest))


def _with_sides(inputs: dict[str, Any]) -> dict[str, Any]:
    """The sides of a `size` such as 1024x1024, which the AI SDK sends; others are names that only some models have."""
    size = inputs.get("size")
    if not isinstance(size, str) or not (match := _SIZE.fullmatch(size)):
        return inputs
    sides = {"width": int(match[1]), "height": int(match[2])}
    return sides | {name: value for name, value in inputs.items() if name != "size"}


def _size(inputs: Mapping[str, Any], fields: Mapping[str, Any], model: Capabilities | None) -> dict[str, Any]:
    """Sides of this aspect ratio with the area of the model's native size."""
    ratio = inputs.get("aspect_ratio")
    if ratio in (None, "custom", "match_input_image") or "width" in fields or "height" in fields:
        return {}
    match = _RATIO.fullmatch(ratio) if isinstance(ratio, str) else None
    if match is None or not int(match[1]) or not int(match[2]):
        raise invalid_field("/aspect_ratio", "must be two numbers such as 16:9")
    width, height = (model.width, model.height) if model else (1024, 1024)
    scale = sqrt(width * height / (int(match[1]) * int(match[2])))
    return {"width": round(int(match[1]) * scale), "height": round(int(match[2]) * scale)}


def _webhook(body: Mapping[str, Any]) -> dict[str, Any]:
    if not (url := body.get("webhook")):
        return {}
    wanted = body.get("webhook_events_filter") or list(_EVENTS)
    if not isinstance(wanted, list) or not all(isinstance(event, str) and event in _EVENTS for event in wanted):
        raise invalid_field("/webhook_events_filter", f"must be a list of {', '.join(_EVENTS)}")
    events = {event: None for name in wanted for event in _EVENTS[name]}
    return {"webhook_url": url, "webhook_events": list(events)}
