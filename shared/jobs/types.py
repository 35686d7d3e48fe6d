"""The base class of stored values, and the types of their fields that requests and jobs share."""

import ast
import inspect
import json
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from itertools import pairwise
from textwrap import dedent
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, GetJsonSchemaHandler, JsonValue


class DescribedModel(BaseModel):
    """Describes fields in JSON schemas by their docstrings.

    They are read when a schema is requested. pydantic's `use_attribute_docstrings` reads and parses the source of each
    class in every process that imports it.
    """

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in field_docstrings(cls).items():
            if name in properties:
                properties[name].setdefault("description", text)
        return schema


class FrozenModel(DescribedModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


@cache
def field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The docstrings of fields by their names, those of base classes included."""
    owners = [owner for owner in model.__mro__ if issubclass(owner, BaseModel) and owner is not BaseModel]
    return {name: text for owner in reversed(owners) for name, text in _docstrings(owner)}


def _docstrings(owner: type) -> Iterator[tuple[str, str]]:
    (definition,) = ast.parse(dedent(inspect.getsource(owner))).body
    for field, text in pairwise(definition.body if isinstance(definition, ast.ClassDef) else ()):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(docstring))):
                yield name, inspect.cleandoc(docstring)


class Backend(StrEnum):
    """A queue of jobs, and the workers that serve it."""

    SD = "sd"
    FLUX_LOCAL = "flux-local"
    FLUX_API = "flux-api"
    NULL = "null"
    """Makes deterministic patterns without a model; for tests, benchmarks and users' CI."""


class ApiProtocol(StrEnum):
    """A protocol that clients speak with this service."""

    NATIVE = "native"
    OPENAI = "openai"
    A1111 = "a1111"
    REPLICATE = "replicate"
    HUGGINGFACE = "huggingface"
    FAL = "fal"
    MCP = "mcp"


class MaskMode(StrEnum):
    """Which parts of a mask mark what to repaint."""

    WHITE = "white"
    BLACK = "black"
    TRANSPARENT = "transparent"


class MaskFill(StrEnum):
    """Initial content of the masked area of an image."""

    ORIGINAL = "original"
    SURROUNDINGS = "surroundings"
    """The colours around them, blurred."""
    NOISE = "noise"
    GREY = "grey"


class ResizeMode(StrEnum):
    """How an input image is fitted to the aspect ratio of the result."""

    STRETCH = "stretch"
    CROP = "crop"
    """What lies outside is cut off, equally on both sides."""
    FILL = "fill"
    """What is missing is filled with the colours of the edges."""


class OutputFormat(StrEnum):
    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def media_type(self) -> str:
        return f"image/{self}"


class ResponseFormat(StrEnum):
    URL = "url"
    B64_JSON = "b64_json"


class PromptSyntax(StrEnum):
    PLAIN = "plain"
    """Every character is text."""
    WEIGHTED = "weighted"
    """As AUTOMATIC1111's web UI reads prompts (see shared.jobs.web_ui.prompt_weights)."""


class Priority(StrEnum):
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """Lower ranks start first."""
        return list(Priority).index(self)


class WebhookEvent(StrEnum):
    """Events of a job that webhooks report."""

    STARTED = "started"
    PROGRESS = "progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_EVENTS = (WebhookEvent.SUCCEEDED, WebhookEvent.FAILED, WebhookEvent.CANCELLED)

MAX_METADATA_BYTES = 2048
MAX_METADATA_DEPTH = 32


def _validate_metadata(metadata: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
    if metadata is None:
        return None
    try:
        encoded = json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        # 1e999 is JSON, but becomes infinity, which is not.
        raise ValueError("has a number that is too large") from None
    if len(encoded) > MAX_METADATA_BYTES:
        raise ValueError(f"may take at most {MAX_METADATA_BYTES} bytes as JSON")
    # The job's record nests it deeper, and parsers limit the depth: what is accepted must stay readable.
    if _is_deeper(metadata, MAX_METADATA_DEPTH):
        raise ValueError(f"may be nested at most {MAX_METADATA_DEPTH} levels deep")
    return metadata


def _is_deeper(value: JsonValue, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    children = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(child, levels - 1) for child in children)


#: What callers attach to a job.
Metadata = Annotated[dict[str, JsonValue] | None, AfterValidator(_validate_metadata)]
