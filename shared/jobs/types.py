"""The base class of stored values, and the choices that requests and jobs share."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Backend(StrEnum):
    """An engine that generates images, with its own workers and its own queue."""

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
