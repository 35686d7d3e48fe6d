"""Publish the capabilities of a backend as the JSON Schema of its requests."""

import json
from functools import cache
from typing import Any

from pydantic import BaseModel

from shared.jobs.requests import MAX_LORAS, GenerationRequest, Lora
from shared.models.capabilities import Capabilities, RequestLimits

#: A field and its alias.
_MODEL_FIELDS = ("model", "bfl_model")


def request_schema(model: Capabilities, limits: RequestLimits) -> dict[str, Any]:
    """JSON Schema of the requests that `Capabilities.check` accepts, with the model's defaults and limits.

    `x-max-pixels`, `x-max-ratio` and `x-max-pixel-steps` hold what JSON Schema cannot express. Fields marked
    `x-ignored` are accepted without effect. `x-embeddings` are words that a prompt may use, and
    `x-trigger-words` those that LoRAs were trained with, by their names. If requests may choose the model, `allOf`
    holds the limits of each.
    """
    schema: dict[str, Any] = json.loads(_schema_of(GenerationRequest))
    fields: dict[str, dict[str, Any]] = schema["properties"]
    for name, field in _fields(model, limits).items():
        description = fields[name].get("description")
        fields[name] = {**field, "description": description} if description else field
    for name in () if model.choices else model.ignored:
        fields[name]["x-ignored"] = True
    if model.embeddings:
        fields["prompt"]["x-embeddings"] = list(model.embeddings)
    if model.lora_trigger_words:
        fields["loras"]["x-trigger-words"] = {name: list(words) for name, words in model.lora_trigger_words.items()}
    schema |= {"title": f"{model.model} request", "x-max-pixels": limits.max_pixels}
    schema["x-max-pixel-steps"] = limits.max_pixel_steps
    if not model.choices:
        schema["required"] += model.requires
    else:
        schema["allOf"] = [_condition(choice, limits, model.model) for choice in model.choices]
    return schema


@cache
def _schema_of(model: type[BaseModel]) -> str:
    """As text, because each request gets a copy of its own. pydantic takes ten milliseconds to make it."""
    return json.dumps(model.model_json_schema())


def _condition(choice: Capabilities, limits: RequestLimits, default: str) -> dict[str, Any]:
    """What applies to requests that choose this model; those that name none choose the default."""
    if choice.model == default:
        condition: dict[str, Any] = {"properties": {name: {"enum": [choice.model, None]} for name in _MODEL_FIELDS}}
    else:
        named = [{"properties": {name: {"const": choice.model}}, "required": [name]} for name in _MODEL_FIELDS]
        condition = {"anyOf": named}
    fields = _fields(choice, limits)
    for name in choice.ignored:
        fields[name] = {**fields.get(name, {}), "x-ignored": True}
    pixels = min(limits.max_pixels, choice.max_pixels or limits.max_pixels)
    consequence = {"properties": fields, "x-max-pixels": pixels, "x-max-ratio": choice.max_ratio}
    consequence |= {"required": list(choice.requires)} if choice.requires else {}
    return {"title": choice.model, "if": condition, "then": consequence}


def _fields(model: Capabilities, limits: RequestLimits) -> dict[str, dict[str, Any]]:
    images = {"type": "integer", "minimum": 1, "maximum": limits.max_images, "default": 1}
    if model.choices:
        names = [choice.model for choice in model.choices]
        return {
            "num_images": images,
            **{name: {"enum": [*names, None], "default": model.model} for name in _MODEL_FIELDS},
        }
    side = {
        "type": ["integer", "null"],
        "minimum": model.min_side,
        "maximum": model.max_side,
        "multipleOf": model.multiple_of,
    }
    fields: dict[str, dict[str, Any]] = {
        "width": {**side, "default": model.width},
        "height": {**side, "default": model.height},
        "num_images": images,
        **_image_fields(model),
    }
    if model.num_inference_steps is not None:
        steps = {"minimum": model.min_steps, "maximum": model.max_steps, "default": model.num_inference_steps}
        fields["num_inference_steps"] = {"type": ["integer", "null"], **steps}
    if model.guidance_scale is not None:
        guidance = {"minimum": model.min_guidance, "maximum": model.max_guidance, "default": model.guidance_scale}
        fields["guidance_scale"] = {"type": ["number", "null"], **guidance}
    if "scheduler" not in model.ignored:
        fields["scheduler"] = {"enum": [*model.schedulers, None], "default": None}
    if "loras" not in model.ignored:
        fields["loras"] = _lora_field(model)
    return fields


def _image_fields(model: Capabilities) -> dict[str, dict[str, Any]]:
    image, null = {"type": "string"}, {"type": "null"}
    if not model.max_input_images:
        return {"image": null, "mask": null, "strength": null}
    images = {"type": "array", "items": image, "maxItems": model.max_input_images}
    fields: dict[str, dict[str, Any]] = {
        "image": {"anyOf": [image, images, null]},
        "mask": {"anyOf": [image, null]} if model.inpainting else null,
    }
    if model.strength is not None:
        bounds = {"exclusiveMinimum": 0, "maximum": 1, "default": model.strength}
        fields["strength"] = {"type": ["number", "null"], **bounds}
    return fields


def _lora_field(model: Capabilities) -> dict[str, Any]:
    if not model.loras:
        return {"type": ["array", "null"], "maxItems": 0, "default": None}
    scale = json.loads(_schema_of(Lora))["properties"]["scale"]
    names = {"type": "string", "enum": list(model.loras)}
    lora = {"type": "object", "properties": {"name": names, "scale": scale}, "required": ["name"]}
    item = {**lora, "additionalProperties": False}
    return {"type": ["array", "null"], "maxItems": MAX_LORAS, "default": None, "items": item}
