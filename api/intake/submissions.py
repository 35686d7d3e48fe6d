"""Reads the request of a new job, as JSON or as a form, and stores the images that come with it."""

import itertools
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import Request

from api.field_errors import invalid_field, unknown_field, validate
from api.intake.form_request import read_form_request
from api.intake.idempotency import IdempotencyScope
from api.intake.json_body import body_chunks, media_type
from api.intake.json_request import read_json_request
from api.intake.multipart_form import FORM_MEDIA_TYPE
from api.intake.uploads import RequestUploads
from api.problems import set_field_names
from api.services import Services
from shared.errors import InvalidRequest, UnsupportedMediaType
from shared.jobs.admission import IdempotencyKey
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import ApiProtocol
from shared.models.capabilities import Size


@dataclass(frozen=True)
class Submission:
    """A request that was read, whose it is, and the images that came with it."""

    http: Request
    services: Services
    scope: IdempotencyScope
    request: GenerationRequest
    uploads: RequestUploads
    origin: ApiProtocol = ApiProtocol.NATIVE
    warnings: tuple[str, ...] = ()
    """What the protocol of the caller could say and this service cannot do."""

    @property
    def key(self) -> IdempotencyKey:
        """What it shares with its repetitions."""
        return self.scope.key_for(self.request)

    @property
    def input_size(self) -> Size | None:
        """The size of the first image."""
        return self.uploads.first_image_size(self.request)


# Not dependencies of FastAPI: resolving those took a fifth of the time that accepting a job takes.
@asynccontextmanager
async def json_submission(http: Request, services: Services, scope: IdempotencyScope) -> AsyncIterator[Submission]:
    """Raises UnsupportedMediaType, and InvalidRequest, InvalidImage and PayloadTooLarge for the body."""
    # Any web page may post text/plain to any site. For JSON, browsers ask the site for permission first (CORS).
    if media_type(http) != "application/json":
        raise UnsupportedMediaType
    async with services.uploads.open_request() as uploads:
        yield Submission(http, services, scope, await read_json_request(http, uploads), uploads)


_NOTHING: Mapping[str, str] = {}


def _with_defaults(defaults: Mapping[str, str], body: Any) -> Any:
    """Validation refuses a body that is no object."""
    return {**defaults, **body} if isinstance(body, dict) else body


@asynccontextmanager
async def image_submission(
    http: Request, services: Services, scope: IdempotencyScope, defaults: Mapping[str, str] = _NOTHING
) -> AsyncIterator[Submission]:
    """The same for a request that needs an image and may be a form. `defaults` are for fields that it leaves out."""
    if media_type(http) not in (FORM_MEDIA_TYPE, "application/json"):
        raise UnsupportedMediaType(f"Send the request as {FORM_MEDIA_TYPE}, or as JSON.")
    read_request = read_form_request if media_type(http) == FORM_MEDIA_TYPE else read_json_request
    async with services.uploads.open_request() as uploads:
        request = await read_request(http, uploads, partial(_with_defaults, defaults))
        if not request.image:
            raise invalid_field("/image", "is missing: send the image as a file part of this name")
        yield Submission(http, services, scope, request, uploads)


#: Unknown fields that warnings name, and what they may be called: names are text of the caller.
MAX_UNKNOWN = 8
NAME = re.compile(r"\w{1,32}", re.ASCII)
#: Types of a body that is an image itself; clients that read it from a file leave the type out.
IMAGE_BODIES = frozenset({"", "image/png", "image/jpeg", "image/webp", "image/jpg", "application/octet-stream"})
#: What a caller wants who sends an image without words, as records of jobs say it in place of a prompt.
VARIATION, ENLARGEMENT = "a variation of this image", "enlarge this image"


@dataclass(frozen=True)
class Translation:
    """A body of another protocol as fields of a request, and what this service cannot do of it."""

    fields: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    """What the caller calls our fields."""

    @classmethod
    def of(cls, body: Mapping[str, Any], read: Collection[str], names: Mapping[str, str] = _NOTHING) -> "Translation":
        """The body's fields that are fields of a request, or are called as in `names`, and warnings about unknown ones.

        `read` are those that the caller reads. Nulls count as left out, and every size is fitted to the model: most
        clients know neither.
        """
        inputs = {name: value for name, value in body.items() if value is not None}
        fields = GenerationRequest.model_fields
        translation = cls({"fit_size": True, **{name: inputs[name] for name in inputs.keys() & fields.keys()}})
        for theirs, ours in names.items():
            if theirs in inputs:
                translation.fields[ours] = inputs[theirs]
                # Messages have these two words for the things themselves.
                if ours not in ("image", "mask"):
                    translation.names[ours] = theirs
        unknown = (name for name in inputs if not (name in fields or name in names or name in read))
        for name in itertools.islice(filter(NAME.fullmatch, unknown), MAX_UNKNOWN):
            translation.warnings.append(f"{name} {unknown_field(name)}")
        return translation

    def ignore(
        self, name: str, value: object, *harmless: object, reason: str = "this service does not support it"
    ) -> None:
        """Warn that a parameter has no effect, unless it is not set or asks for what happens anyway."""
        if value is not None and value not in harmless:
            self.warnings.append(f"{name} is ignored: {reason}")


@asynccontextmanager
async def translated_submission(
    http: Request,
    services: Services,
    scope: IdempotencyScope,
    origin: ApiProtocol,
    translate: Callable[[dict[str, Any]], Translation],
    image_field: str | None = None,
) -> AsyncIterator[Submission]:
    """A request of another protocol, as JSON or as a form. Some clients send JSON without a content type.

    With `image_field`, a body that is an image itself is read as that field.
    """
    kind, warnings = media_type(http), list[str]()
    is_image = image_field is not None and kind in IMAGE_BODIES
    if not (is_image or kind in ("", FORM_MEDIA_TYPE, "application/json") or kind.endswith("+json")):
        raise UnsupportedMediaType(f"Send the request as JSON, or as {FORM_MEDIA_TYPE}.")

    def to_fields(body: Any) -> dict[str, Any]:
        if not isinstance(body, dict):
            raise InvalidRequest("The body must be a JSON object.")
        translation = translate(body)
        set_field_names(http, translation.names)
        warnings.extend(translation.warnings)
        return translation.fields

    read_request = read_form_request if kind == FORM_MEDIA_TYPE else read_json_request
    async with services.uploads.open_request() as uploads:
        if is_image:
            reference = await uploads.store(body_chunks(http), f"/{image_field}")
            request = validate(GenerationRequest, to_fields({image_field: [reference]}))
        else:
            request = await read_request(http, uploads, to_fields)
        yield Submission(http, services, scope, request, uploads, origin, tuple(warnings))
