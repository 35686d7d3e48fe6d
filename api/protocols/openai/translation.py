"""Translates a body of the OpenAI API into the fields of a request."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from api.field_errors import invalid_field, validate
from api.intake.submissions import VARIATION, Translation
from api.protocols.model_names import ModelNames
from api.protocols.openai.wire import ImageParameters
from shared.jobs.types import MaskMode, ResponseFormat

#: The strength of variations, for models that have one.
VARIATION_STRENGTH = 0.7
#: The parameters that set our fields. Clients show only messages, so these must name the parameters.
_NAMES = {
    "width x height": "size",
    "width": "size",
    "height": "size",
    "num_images": "n",
    "output_quality": "output_compression",
    "previews": "partial_images",
}
#: Read here, beside the parameters of ImageParameters.
_READ = frozenset({"image", "images", "mask", "safety_identifier"})


class Call(StrEnum):
    """A route; the value begins the types of its events."""

    GENERATION = "image_generation"
    EDIT = "image_edit"
    VARIATION = "image_variation"


class ImageCall:
    """Translates the body of one call, and remembers the parameters for its answer."""

    def __init__(self, call: Call, models: ModelNames) -> None:
        self.call = call
        self.parameters = ImageParameters()
        self._models = models

    def translate(self, body: dict[str, Any]) -> Translation:
        """Raises RequestValidationError, InvalidRequest and ModelNotFound."""
        # Clients send what their user left out as null, and forms send it as an empty text.
        body = {name: value for name, value in body.items() if value not in (None, "")}
        self.parameters = parameters = validate(ImageParameters, body)
        translation = Translation.of(body, ImageParameters.model_fields.keys() | _READ)
        translation.names.update({ours: theirs for ours, theirs in _NAMES.items() if theirs in body})
        fields = translation.fields
        # It may be another name of a model.
        fields.pop("model", None)
        fields |= {**self._models.fields(parameters.model), **_images(body)}
        self._require_image(fields)
        fields.setdefault("response_format", ResponseFormat.B64_JSON)
        if (size := parameters.wanted_size) is not None:
            fields["width"], fields["height"] = size
        if parameters.n is not None:
            fields["num_images"] = parameters.n
        if parameters.output_compression is not None:
            fields["output_quality"] = max(1, parameters.output_compression)
        if parameters.stream:
            fields["previews"] = parameters.partial_images or 0
        if parameters.user and isinstance(metadata := fields.get("metadata", {}), dict):
            fields["metadata"] = {"user": parameters.user, **metadata}
        _warn(translation, parameters)
        return translation

    def _require_image(self, fields: dict[str, Any]) -> None:
        if self.call is Call.GENERATION:
            return
        if not fields.get("image"):
            raise invalid_field("/image", "is missing")
        if self.call is Call.VARIATION:
            fields.setdefault("prompt", VARIATION)
            fields.setdefault("strength", VARIATION_STRENGTH)


def _images(body: Mapping[str, Any]) -> dict[str, Any]:
    """The images and the mask. JSON has them as text, or as objects with an address."""
    fields: dict[str, Any] = {}
    if (images := body.get("images", body.get("image"))) is not None:
        images = images if isinstance(images, list) else [images]
        fields["image"] = [_address(image, "/image") for image in images]
    if (mask := body.get("mask")) is not None:
        fields["mask"] = _address(mask, "/mask")
        # Transparent parts are repainted there, whatever their colour.
        fields["mask_mode"] = body.get("mask_mode", MaskMode.TRANSPARENT)
    return fields


def _address(image: object, pointer: str) -> object:
    if not isinstance(image, dict):
        return image
    if (address := image.get("image_url")) is None:
        raise invalid_field(pointer, "needs an image_url: this service keeps no files")
    return address


def _warn(translation: Translation, parameters: ImageParameters) -> None:
    quality = "num_inference_steps sets it"
    translation.ignore("quality", parameters.quality, "auto", "standard", "medium", reason=quality)
    translation.ignore("style", parameters.style)
    translation.ignore("background", parameters.background, "auto", "opaque", reason="images are opaque")
    checker = "the operator chooses the safety checker"
    translation.ignore("moderation", parameters.moderation, "auto", reason=checker)
    translation.ignore("input_fidelity", parameters.input_fidelity, reason="strength sets it")
