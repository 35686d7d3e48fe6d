"""The parameters of the OpenAI API, as far as they are not fields of this service's own requests."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from shared.jobs.types import DescribedModel

#: Also the values that answers may have.
Quality = Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"]
_SIZE = r"auto|[0-9]{1,5}x[0-9]{1,5}"


def _size(text: str) -> str:
    if not re.fullmatch(_SIZE, text):
        raise ValueError("must be WIDTHxHEIGHT, such as 1024x1024, or auto")
    return text


class ImageParameters(DescribedModel):
    """Every other field of the service's own requests may be sent as well, such as seed or num_inference_steps."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: Annotated[str | None, Field(examples=["gpt-image-1"])] = None
    """A name from GET /v1/models; default: the service's default model."""
    n: Annotated[int | None, Field(ge=1, le=64)] = None
    """Number of images."""
    size: Annotated[
        Annotated[str, AfterValidator(_size), Field(json_schema_extra={"pattern": f"^({_SIZE})$"})] | None,
        Field(examples=["1024x1024"]),
    ] = None
    """WIDTHxHEIGHT. A size that does not suit the model is rendered at the nearest one that does, then scaled."""
    quality: Quality | None = None
    """Ignored: num_inference_steps sets it."""
    style: str | None = None
    """Ignored."""
    background: Literal["auto", "opaque", "transparent"] | None = None
    """Images are opaque."""
    moderation: Literal["auto", "low"] | None = None
    """Ignored: the operator chooses the safety checker."""
    input_fidelity: Literal["low", "high"] | None = None
    """Ignored: strength sets it."""
    output_compression: Annotated[int | None, Field(ge=0, le=100)] = None
    """Quality of JPEG and WebP."""
    stream: bool | None = None
    """Whether to answer with Server-Sent Events."""
    partial_images: Annotated[int | None, Field(ge=0, le=3)] = None
    """Previews to send while the image is made, if `stream` is set."""
    user: Annotated[str | None, Field(max_length=512)] = None
    """Returned in the metadata of the job."""

    @property
    def wanted_size(self) -> tuple[int, int] | None:
        """Width and height; None to leave them to the model."""
        if self.size is None or self.size == "auto":
            return None
        width, _, height = self.size.partition("x")
        return int(width), int(height)

    @property
    def may_expect_links(self) -> bool:
        """Whether OpenAI would link to the images: for DALL-E, its default, if there is no response_format."""
        is_dall_e = self.model is None or self.model.startswith("dall-e")
        return is_dall_e and "response_format" not in (self.model_extra or {})

    @property
    def reported_quality(self) -> str:
        """As answers have it, which know fewer values."""
        known = {"low", "medium", "high", "xhigh", "max"}
        return self.quality if self.quality in known else "medium"
