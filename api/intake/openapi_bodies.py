"""Describes request bodies in OpenAPI, because routes read them without FastAPI's dependencies."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial, wraps
from typing import Any, ParamSpec, cast

from pydantic import BaseModel

from api.intake.multipart_form import FORM_MEDIA_TYPE
from shared.jobs.requests import GenerationRequest

#: Schemas of fields: a text, a flag, and the code of an error.
TEXT, FLAG = {"type": "string"}, {"type": "boolean"}
CODE = {**TEXT, "description": "The code in docs/errors.md"}
#: Fields whose value is a list.
LISTS = frozenset({"loras", "webhook_events"})


P = ParamSpec("P")


def described_later(describe: Callable[P, dict[str, Any]]) -> Callable[P, dict[str, Any]]:
    """For `openapi_extra`: describes a body when OpenAPI is requested. All together would take a tenth of the start."""

    @wraps(describe)
    def later(*args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        # FastAPI only reads it.
        return cast("dict[str, Any]", _Description(partial(describe, *args, **kwargs)))

    return later


class _Description(Mapping[str, Any]):
    def __init__(self, describe: Callable[[], dict[str, Any]]) -> None:
        self._describe = describe

    @cached_property
    def _content(self) -> dict[str, Any]:
        return self._describe()

    def __getitem__(self, name: str) -> Any:
        return self._content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


def object_schema(properties: Mapping[str, Any], required: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", **more, "properties": properties}
    return {**schema, "required": list(required)} if required else schema


def json_content(schema: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The `content` of a body or an answer that is JSON."""
    return {"application/json": {"schema": schema, **more}}


def request_body(content: Mapping[str, Any]) -> dict[str, Any]:
    """For `openapi_extra`; `content` describes the body by its media types."""
    return {"requestBody": {"required": True, "content": content}}


def json_request_body(examples: Mapping[str, Any]) -> dict[str, Any]:
    """What `json_submission` reads, for `openapi_extra`."""
    return request_body(json_content({"$ref": "#/components/schemas/GenerationRequest"}, examples=examples))


@described_later
def form_request_body(required: Sequence[str] = ("image", "prompt")) -> dict[str, Any]:
    """What `image_submission` reads, for `openapi_extra`."""
    schema = GenerationRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    file = {"type": "string", "format": "binary", "description": "a file part, or a field with an address or data: URL"}
    images: dict[str, dict[str, Any]] = {"image": {"type": "array", "items": file, "minItems": 1}, "mask": file}
    fields = {name: {**field, **images.get(name, {})} for name, field in schema["properties"].items()}
    for name in images:
        fields[name].pop("anyOf")
    for name in fields.keys() - images.keys() - {"prompt"}:
        # An empty field counts as left out. Without an example, the page at /docs fills in an invented value.
        fields[name]["examples"] = [[] if name in LISTS else ""]
    form = object_schema(fields, required)
    json = json_content({"$ref": "#/components/schemas/GenerationRequest", "required": ["image"]})
    return request_body({FORM_MEDIA_TYPE: {"schema": form}, **json})


@described_later
def model_request_body(model: type[BaseModel]) -> dict[str, Any]:
    """A JSON body of another protocol. Some clients leave fields out that others call required."""
    schema = model.model_json_schema()
    # References resolve only at the top of the document.
    definitions = schema.pop("$defs", {})
    return {"requestBody": {"content": json_content(_inlined(schema, definitions))}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    match schema:
        case {"$ref": str(reference)}:
            return _inlined(definitions[reference.rpartition("/")[2]], definitions)
        case dict():
            return {name: _inlined(value, definitions) for name, value in schema.items()}
        case list():
            return [_inlined(value, definitions) for value in schema]
        case _:
            return schema
