"""The values every process shares: what is asked for, the job that results, its images."""

import json
import re
import secrets
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Self
from uuid import UUID

import uuid_utils.compat
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from shared.errors import ImagegenError, InvalidTransition
from shared.jobs.states import TRANSITIONS, State

MAX_SEED = 2**32 - 1
#: Ids go by the store's clock in steps of this: in between, those of one machine stay in order.
DRIFT_MS = 10_000
#: How many workers a job may cost. One that has ended its worker each time is not worth a fourth.
MOST_LOSSES = 3


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Backend(StrEnum):
    """What generates: an engine with its own workers and its own queue."""

    SD = "sd"
    FLUX_LOCAL = "flux-local"
    FLUX_API = "flux-api"
    NULL = "null"
    """Makes deterministic patterns without a model; for tests, benchmarks and users' CI."""


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


class Priority(StrEnum):
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class WebhookEvent(StrEnum):
    """What a receiver of webhooks can be told of."""

    STARTED = "started"
    PROGRESS = "progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDS = (WebhookEvent.SUCCEEDED, WebhookEvent.FAILED, WebhookEvent.CANCELLED)


def _with_failures(events: tuple[WebhookEvent, ...]) -> tuple[WebhookEvent, ...]:
    """Who waits to be told must not wait in vain."""
    return tuple(event for event in WebhookEvent if event in (*events, WebhookEvent.FAILED))


#: Everything but control characters; tab and line breaks are text. Also part of the JSON schema.
_TEXT = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
MAX_METADATA_BYTES = 2048
MAX_METADATA_DEPTH = 32


def _without_control_characters(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("must not have control characters, except tab and line breaks")
    return text


def _small(metadata: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
    if metadata is None:
        return None
    try:
        written = json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        # 1e999 is JSON, but becomes infinity, which is not.
        raise ValueError("has a number that is too large") from None
    if len(written) > MAX_METADATA_BYTES:
        raise ValueError(f"may take at most {MAX_METADATA_BYTES} bytes as JSON")
    # The job's record is JSON around it, and parsers give up somewhere: what was accepted must be readable again.
    if _is_deeper(metadata, MAX_METADATA_DEPTH):
        raise ValueError(f"may be nested at most {MAX_METADATA_DEPTH} levels deep")
    return metadata


def _is_deeper(value: JsonValue, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in inner)


#: So many images may come with a request, whatever its model takes.
MAX_INPUT_IMAGES = 16
#: A submitted image on record, by the hash of its bytes; where it lies follows from the job (see InputStore).
Reference = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
#: What callers send in place of a reference.
_SOURCE = {"type": "string", "description": "base64, a data: URL, or a public http(s) address"}
Sources = Annotated[
    tuple[Reference, ...],
    WithJsonSchema(
        {"anyOf": [_SOURCE, {"type": "array", "items": _SOURCE, "maxItems": MAX_INPUT_IMAGES}, {"type": "null"}]}
    ),
]
Source = Annotated[Reference | None, WithJsonSchema({"anyOf": [_SOURCE, {"type": "null"}]})]


Text = Annotated[str, AfterValidator(_without_control_characters), Field(json_schema_extra={"pattern": _TEXT})]


#: Paths below one folder, without the ending: no part begins with a dot or a blank, and none has a backslash or
#: characters that cannot be seen or that turn the direction of writing.
_UNSEEN = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069/\\"
_LORA_PART = rf"[^{_UNSEEN}. ][^{_UNSEEN}]*"
LORA_NAME = rf"{_LORA_PART}(/{_LORA_PART})*"
MAX_LORA_NAME = 200
MAX_LORAS = 5


class Lora(Frozen):
    """A small addition to the model."""

    name: Annotated[
        str,
        Field(pattern=rf"^{LORA_NAME}$", max_length=MAX_LORA_NAME, examples=["watercolour", "people/anna"]),
        AfterValidator(partial(unicodedata.normalize, "NFC")),
    ]
    """One of those that the worker has; listed in GET /api/backends."""
    scale: Annotated[float, Field(ge=-2, le=2)] = 1.0
    """How much of it: 0 is nothing, 1 is what it was trained for."""


def _named_once(loras: tuple[Lora, ...]) -> tuple[Lora, ...]:
    if len({lora.name for lora in loras}) < len(loras):
        raise ValueError("may name each of them once")
    return loras


# The first wrong entry is enough: errors that tell of each take a hundred times the memory of what they tell of.
Loras = Annotated[tuple[Lora, ...], Field(max_length=MAX_LORAS, fail_fast=True), AfterValidator(_named_once)]
WebhookEvents = Annotated[tuple[WebhookEvent, ...], Field(max_length=8, fail_fast=True), AfterValidator(_with_failures)]


class GenerationRequest(Frozen):
    """What a caller asks for. Fields left out take the model's own defaults."""

    prompt: Annotated[Text, Field(min_length=1, max_length=4000, examples=["a red heart on a blue background"])]
    """What the image shows."""
    negative_prompt: Annotated[Text | None, Field(max_length=4000)] = None
    """What the image should not show."""
    backend: Backend | None = None
    """Which engine makes it; default: the service's default backend."""
    width: Annotated[int | None, Field(ge=16, le=8192)] = None
    """Pixels; default: the model's native size. Limits and multiples: GET /api/backends."""
    height: Annotated[int | None, Field(ge=16, le=8192)] = None
    """Pixels; default: the model's native size."""
    num_inference_steps: Annotated[int | None, Field(ge=1, le=150)] = None
    """Denoising steps; more take longer."""
    guidance_scale: Annotated[float | None, Field(ge=0, le=100)] = None
    """How strictly the image follows the prompt."""
    seed: Annotated[int | None, Field(ge=0, le=MAX_SEED)] = None
    """Where the randomness starts; default: drawn and reported. Image i uses seed + i."""
    image: Annotated[Sources, Field(max_length=MAX_INPUT_IMAGES)] = ()
    """What to begin with or to go by: one image or a list, PNG, JPEG or WebP. Answers name them by their hash."""
    mask: Source = None
    """Where to repaint the image in `image`: white there, black elsewhere, and of the same size."""
    strength: Annotated[float | None, Field(gt=0, le=1)] = None
    """How much of the image in `image` may change: 1 is all of it; default: the model's."""
    num_images: Annotated[int, Field(ge=1, le=64)] = 1
    """How many images to make from the one prompt."""
    bfl_model: Annotated[Text | None, Field(max_length=64, examples=["flux-2-pro-preview"])] = None
    """Which model of Black Forest Labs makes it; only for flux-api, from the list in GET /api/backends."""
    scheduler: Annotated[Text | None, Field(max_length=32)] = None
    """How the noise is removed; only for sd, from the list in GET /api/backends."""
    loras: Loras | None = None
    """Small additions to the model; only for sd, from the list in GET /api/backends."""
    output_format: OutputFormat = OutputFormat.PNG
    response_format: ResponseFormat = ResponseFormat.URL
    """Whether answers carry a link to each image, or its bytes as base64."""
    label: Annotated[Text | None, Field(min_length=1, max_length=128)] = None
    """The caller's own name for the job; jobs can be listed by it."""
    metadata: Annotated[dict[str, JsonValue] | None, AfterValidator(_small)] = None
    """Given back unchanged in every answer; at most 2 KB."""
    priority: Priority = Priority.NORMAL
    deadline_seconds: Annotated[int | None, Field(ge=1, le=86_400)] = None
    """A job that has not started after this many seconds fails with `deadline-passed`."""
    webhook_url: Annotated[str | None, Field(max_length=2048, examples=["https://example.com/hooks/images"])] = None
    """Where the service posts news of the job, signed (docs/webhooks.md)."""
    webhook_events: WebhookEvents = ENDS
    """News of what; default: how the job ended. A failure is told in any case."""
    webhook_inline_images: bool = False
    """Whether the news of success carries the images themselves as base64, as far as they are small
    (SD_WEBHOOK_INLINE_MAX_BYTES); there is a link to each in any case."""

    @model_validator(mode="after")
    def _news_goes_somewhere(self) -> Self:
        if self.webhook_url is None and (self.webhook_events != ENDS or self.webhook_inline_images):
            raise ValueError("webhook_events and webhook_inline_images need a webhook_url")
        return self

    @field_validator("mask", "strength")
    @classmethod
    def _only_with_an_image(cls, value: object, known: ValidationInfo) -> object:
        if value is not None and known.data.get("image") == ():
            raise ValueError("makes sense only with an image")
        return value

    @model_validator(mode="after")
    def _every_seed_can_be_asked_for(self) -> Self:
        if self.seed is not None and self.seed + self.num_images - 1 > MAX_SEED:
            raise ValueError(f"seed + num_images - 1 may be at most {MAX_SEED}")
        return self

    def with_seed(self) -> Self:
        """The same request with a seed, so that the image can be made again."""
        if self.seed is not None:
            return self
        return self.model_copy(update={"seed": secrets.randbelow(MAX_SEED + 2 - self.num_images)})

    def told(self, *, without: set[str]) -> dict[str, Any]:
        """As JSON has it, but for what was left out and has no default."""
        fields = self.model_dump(mode="json", exclude_none=True, exclude=without)
        return {name: value for name, value in fields.items() if value != []}


class Image(Frozen):
    """An image on record; where its file lies follows from the job (see ImageStore)."""

    index: int
    media_type: str
    width: int
    height: int
    seed: int
    bytes: int | None
    sha256: str | None
    flagged: bool = False
    """Whether the safety checker objected. Such an image is withheld: it has no file, and so no bytes and no hash."""


class JobError(Frozen):
    code: str
    detail: str
    retryable: bool = False

    @classmethod
    def of(cls, error: ImagegenError) -> Self:
        return cls(code=error.code, detail=error.detail, retryable=error.retryable)


class Provider(Frozen):
    """A task of this job with a provider that charges for it.

    Without an id it is one that was sent, and whose answer is not on record.
    """

    id: str | None = None
    polling_url: str | None = None
    cost: float | None = None
    """In the provider's own credits."""


class Timings(Frozen):
    """Milliseconds."""

    queued_ms: int | None = None
    generate_ms: int | None = None
    encode_ms: int | None = None
    total_ms: int | None = None
    step_ms: float | None = None
    """Mean time of a denoising step, what comes before the first one included; None where there are no steps."""
    batch_size: int | None = None
    """How many images were rendered in the same go, those of other jobs included; None for its own alone."""


class Progress(Frozen):
    step: int
    steps: int
    fraction: float
    """0 to 1."""
    eta_seconds: float | None = None


class Job(Frozen):
    """One accepted request and what became of it.

    A value: each move returns a new Job and raises InvalidTransition where states.TRANSITIONS has no such
    arrow. Storing the move is another matter (shared.jobs).
    """

    id: str
    state: State = State.QUEUED
    backend: Backend
    owner: str = ""
    """Name of the key that it was submitted with; empty where no keys are set."""
    model: str | None = None
    request: GenerationRequest
    attempt: int = 0
    """How often it was started; the fencing token of every later move."""
    worker: str | None = None
    """Who runs it, or ran it last."""
    losses: int = 0
    """How often the worker that ran it was lost."""
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    images: tuple[Image, ...] = ()
    error: JobError | None = None
    warnings: tuple[str, ...] = ()
    timings: Timings = Timings()
    base_url: str = ""
    """What links to its images begin with in webhooks; no slash at the end."""
    reused_from: str | None = None
    """The job that its images were made for, where they were not made anew (see SD_REUSE_PICTURES)."""
    traceparent: str = ""
    """Context of the request that made it, where requests are traced (shared.tracing)."""
    providers: tuple[Provider, ...] = ()
    """Tasks that were paid for, one for each image in order; kept through every move (see Jobs.save_provider_tasks)."""

    @classmethod
    def new(
        cls, request: GenerationRequest, backend: Backend, now: datetime, owner: str = "", base_url: str = ""
    ) -> Self:
        """A queued job. Its id is a UUIDv7: ids sort by creation and cannot be guessed. `now`: by the store's clock."""
        seeded = request.with_seed()
        return cls(id=_new_id(now), backend=backend, owner=owner, request=seeded, created_at=now, base_url=base_url)

    @property
    def seed(self) -> int:
        if self.request.seed is None:
            raise ValueError("a job's request always carries a seed")
        return self.request.seed

    @property
    def deadline(self) -> datetime | None:
        """When it must have started."""
        limit = self.request.deadline_seconds
        return self.created_at + timedelta(seconds=limit) if limit is not None else None

    def is_overdue(self, now: datetime) -> bool:
        return self.deadline is not None and self.attempt == 0 and now > self.deadline

    def start(self, model: str, worker: str, now: datetime) -> Self:
        timings = self.timings.model_copy(update={"queued_ms": _milliseconds(now - self.created_at)})
        return self._move(
            State.RUNNING, attempt=self.attempt + 1, model=model, worker=worker, started_at=now, timings=timings
        )

    @property
    def run_ms(self) -> int | None:
        """From its start to its end; None unless it was started and has ended."""
        return _milliseconds(self.finished_at - self.started_at) if self.started_at and self.finished_at else None

    @property
    def work_ms(self) -> int | None:
        """How long a worker was busy with it, or its share where it was done with others; None unless its images
        were made, and for it."""
        if self.state is not State.SUCCEEDED or self.run_ms is None or self.reused_from is not None:
            return None
        own = self.request.num_images
        return self.run_ms * own // (self.timings.batch_size or own)

    def requeue(self, *, lost: bool = False) -> Self:
        """Back into the queue; `lost` where it cost its worker, so that this can be counted."""
        return self._move(State.QUEUED, started_at=None, losses=self.losses + lost)

    def warned(self, warnings: Iterable[str]) -> Self:
        """The same job with these warnings beside those that it has, each of them once."""
        return self.model_copy(update={"warnings": tuple(dict.fromkeys((*self.warnings, *warnings)))})

    def succeed(
        self, images: tuple[Image, ...], timings: Timings, now: datetime, reused_from: str | None = None
    ) -> Self:
        spent = timings.model_copy(update={"queued_ms": self.timings.queued_ms})
        return self._end(State.SUCCEEDED, now, images=images, timings=spent, reused_from=reused_from)

    def fail(self, error: JobError, now: datetime, images: tuple[Image, ...] = ()) -> Self:
        """With the images that were bought before it failed. Whoever tries again by itself would buy them again."""
        error = error.model_copy(update={"retryable": error.retryable and not self.providers})
        return self._end(State.FAILED, now, error=error, images=images)

    def cancel(self, now: datetime) -> Self:
        return self._end(State.CANCELLED, now)

    def _end(self, state: State, now: datetime, **changes: object) -> Self:
        ended = self._move(state, finished_at=now, **changes)
        timings = ended.timings.model_copy(update={"total_ms": _milliseconds(now - self.created_at)})
        return ended.model_copy(update={"timings": timings})

    def _move(self, state: State, **changes: object) -> Self:
        if state not in TRANSITIONS[self.state]:
            raise InvalidTransition(f"The job is {self.state} and cannot become {state}.")
        return self.model_copy(update={"state": state, **changes})


@dataclass(frozen=True)
class QueuedJob:
    """A job at the head of its queue."""

    job: Job
    expected_ms: int
    """How long jobs like it took lately, when it was accepted; 0 where that was not known."""


def _new_id(now: datetime) -> str:
    """Made by this machine's clock, which orders what it makes within one ms, and shifted where now is far from it."""
    made = uuid_utils.compat.uuid7()
    drift = now.timestamp() * 1000 - (made.int >> 80)
    return str(UUID(int=made.int + (round(drift / DRIFT_MS) * DRIFT_MS << 80)))


def _milliseconds(span: timedelta) -> int:
    """Never negative: readings of one clock by several machines differ by the time that reading takes."""
    return max(0, round(span.total_seconds() * 1000))
