"""Reads from Accept and Prefer how a caller wants the answer."""

import re

from shared.errors import NotAcceptable
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import OutputFormat

JSON_TYPES = ("application/json", "application/*", "*/*", "application/problem+json")
#: What clients write for image/jpeg.
_JPG = "image/jpg"


def wait_seconds(prefer: str, longest: int) -> int:
    """N of `Prefer: wait=N` (RFC 7240), never above the operator's limit."""
    preference = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", prefer)
    return min(int(preference.group(1)), longest) if preference else longest


def negotiate(accept: str, request: GenerationRequest) -> tuple[bool, GenerationRequest]:
    """Return whether to answer with the image itself, and the request in a format that the caller accepts.

    Raises NotAcceptable.
    """
    formats = {output.media_type: output for output in OutputFormat}
    requested = request.output_format if "output_format" in request.model_fields_set else None
    for media_type in _by_preference(accept):
        if media_type in JSON_TYPES:
            return False, request
        if media_type == "image/*":
            return True, request
        if media_type in formats and requested in (None, formats[media_type]):
            return True, request.model_copy(update={"output_format": formats[media_type]})
    if requested is not None and any(media_type in formats for media_type in _by_preference(accept)):
        raise NotAcceptable(
            f"output_format asks for {requested.media_type}, which the Accept header does not allow: leave one out."
        )
    raise NotAcceptable


def accepts_json(accept: str) -> bool:
    """Whether the caller can read a job where it asked for an image."""
    return any(media_type in JSON_TYPES for media_type in _by_preference(accept))


def _by_preference(accept: str) -> list[str]:
    """The media types of an Accept header, best first, without those that `q=0` refuses."""
    weights: dict[str, float] = {}
    for part in (accept.strip() or "*/*").split(","):
        media_type, _, parameters = part.strip().lower().replace(_JPG, OutputFormat.JPEG.media_type).partition(";")
        weight = re.search(r"(?:^|;)\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|$)", parameters)
        if media_type:
            weights[media_type.strip()] = float(weight.group(1)) if weight else 1.0
    return sorted((name for name in weights if weights[name]), key=lambda name: -weights[name])
