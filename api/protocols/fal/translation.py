"""Translates a body of fal's API into the fields of a request."""

from collections.abc import Mapping
from typing import Any

from api.field_errors import invalid_field
from api.intake.submissions import VARIATION, Translation
from api.protocols.model_names import ModelNames
from shared.jobs.types import FINAL_EVENTS
from shared.protocols.replicate import model_name

#: Our fields by the names that fal's models have for them.
_NAMES = {"image_url": "image", "image_urls": "image", "mask_url": "mask"}
_READ = frozenset({"image_size", "enable_safety_checker", "sync_mode", "acceleration"})
#: The sizes that have a name, as fal's models list them.
_SIZES = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}


def translate(names: ModelNames, model: str, body: dict[str, Any], webhook: str | None = None) -> Translation:
    """`model` is the one in the path of the call. Raises InvalidRequest."""
    translation = Translation.of(body, _READ, _NAMES)
    fields = translation.fields
    translation.names["webhook_url"] = "fal_webhook"
    if fields.get("image"):
        fields.setdefault("prompt", VARIATION)
    fields |= {**names.fields(model_name(model)), **_size(body), **_loras(body)}
    names.set_scheduler(translation)
    if webhook:
        fields |= {"webhook_url": webhook, "webhook_events": list(FINAL_EVENTS)}
    checker = "the operator chooses the safety checker"
    translation.ignore("enable_safety_checker", body.get("enable_safety_checker"), True, reason=checker)
    translation.ignore("sync_mode", body.get("sync_mode"), False, reason="results have links to the images")
    translation.ignore("acceleration", body.get("acceleration"), "none", reason="the operator chooses it")
    return translation


def _size(inputs: Mapping[str, Any]) -> dict[str, Any]:
    match inputs.get("image_size"):
        case None:
            return {}
        case str(name) if name in _SIZES:
            return dict(zip(("width", "height"), _SIZES[name], strict=True))
        case {"width": int(width), "height": int(height)}:
            return {"width": width, "height": height}
        case _:
            raise invalid_field("/image_size", f"must have width and height, or be one of {', '.join(_SIZES)}")


def _loras(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """fal names a LoRA by its `path`; here that is a name of the catalogue."""
    loras = inputs.get("loras")
    if not isinstance(loras, list):
        return {}
    return {
        "loras": [
            {**{name: value for name, value in lora.items() if name != "path"}, "name": lora["path"]}
            if isinstance(lora, dict) and "path" in lora
            else lora
            for lora in loras
        ]
    }
