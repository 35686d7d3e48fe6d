# Over 300 lines: the list of all errors, from which docs/errors.md is generated.
"""All errors of the service, as one tree. Released codes never change.

ImagegenError
├── ConfigurationError            the process cannot start
├── RequestError                  the response to a request
│   ├── InvalidRequest · UnsupportedMediaType · PayloadTooLarge · NotAcceptable
│   ├── NotFound · MethodNotAllowed · JobNotFound · ImageNotFound · RangeNotSatisfiable · WebhookNotFound
│   ├── ModelNotFound · LicenceForbidden
│   ├── InvalidTransition · IdempotencyMismatch
│   ├── MalformedRequest · RequestTimedOut · HeadersTooLarge · MisdirectedRequest
│   ├── Unauthorized · Forbidden
│   ├── NotFinished                 retryable if the request can be recognised when it is repeated
│   ├── RateLimited · QueueFull · TooManyConnections · BackendUnavailable · StoreUnavailable    retryable
│   └── ModelUnavailable · ModelLoading                                                         retryable
├── OutboundError                 a request to another server failed; its caller decides what that means
│   └── ForbiddenUrl · Unreachable · ResponseTooLarge · OutboundTimeout
└── JobFailure                    stored with the failed job
    ├── InvalidImage · OutOfMemory · InvalidOutput · DeadlinePassed · TimedOut · WorkerLost · StorageFull
    │   · StorageUnavailable · InternalError
    └── ContentRejected · UpstreamRejected · UpstreamOutOfCredits    reported by a cloud provider
        · UpstreamUnavailable (ProviderResponseLost)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar


@dataclass(frozen=True)
class FieldError:
    """One invalid field; `pointer` is its JSON pointer (RFC 6901)."""

    pointer: str
    detail: str


class ImagegenError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "internal-error"
    retryable: ClassVar[bool] = False
    #: Seconds after which the same request may succeed.
    retry_after: int | None = None

    def __init__(self, detail: str | None = None, errors: Sequence[FieldError] = ()) -> None:
        """`errors` are the fields of a request that are to blame."""
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.errors = tuple(errors)
        super().__init__(self.detail)


class ConfigurationError(ImagegenError):
    """The settings are invalid."""

    code = "configuration-error"


class RequestError(ImagegenError):
    """The request cannot be served."""


class InvalidRequest(RequestError):
    """The request is invalid; `errors` lists the invalid fields."""

    code = "invalid-request"


class UnsupportedMediaType(RequestError):
    """The media type is not supported; send JSON with the header `content-type: application/json`."""

    code = "unsupported-media-type"


class PayloadTooLarge(RequestError):
    """The request body is too large."""

    code = "payload-too-large"


class NotAcceptable(RequestError):
    """The Accept header allows none of these: application/json, image/png, image/jpeg, image/webp."""

    code = "not-acceptable"


class NotFound(RequestError):
    """Nothing exists at this path; /docs lists all routes."""

    code = "not-found"


class MethodNotAllowed(RequestError):
    """This path does not support the method; the Allow header lists those it supports."""

    code = "method-not-allowed"


class JobNotFound(RequestError):
    """No job has this id."""

    code = "job-not-found"


class ImageNotFound(RequestError):
    """The job has no image with this index, or its file was deleted."""

    code = "image-not-found"


class RangeNotSatisfiable(RequestError):
    """The requested range begins after the end of the image."""

    code = "range-not-satisfiable"

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


class WebhookNotFound(RequestError):
    """No pending or dead webhook has this id; delivered ones are not kept."""

    code = "webhook-not-found"


class InvalidTransition(RequestError):
    """The state of the job does not allow this."""

    code = "invalid-transition"


class IdempotencyMismatch(RequestError):
    """This Idempotency-Key was used for a different request within the last day; use a new key."""

    code = "idempotency-mismatch"


class MalformedRequest(RequestError):
    """The HTTP request is malformed."""

    code = "malformed-request"


class RequestTimedOut(RequestError):
    """The request arrived too slowly; send it again."""

    code = "request-timed-out"
    retryable = True


class HeadersTooLarge(RequestError):
    """The request line and headers are too large."""

    code = "headers-too-large"


class TooManyConnections(RequestError):
    """Too many connections are open, in total or from your address; try again shortly."""

    code = "too-many-connections"
    retryable = True
    retry_after = 5


class MisdirectedRequest(RequestError):
    """The Host header names an unknown host; the operator can add it to SD_ALLOWED_HOSTS."""

    code = "misdirected-request"


class Unauthorized(RequestError):
    """The API key is missing or invalid; send it as X-API-Key, Authorization: Bearer, or the password of HTTP Basic."""

    code = "unauthorized"


class Forbidden(RequestError):
    """The API key does not allow this."""

    code = "forbidden"


class RateLimited(RequestError):
    """Too many requests; slow down."""

    code = "rate-limited"
    retryable = True

    def __init__(self, detail: str | None = None, seconds: float = 1) -> None:
        super().__init__(detail)
        self.seconds = seconds
        self.retry_after = ceil(seconds)


class QueueFull(RequestError):
    """The job queue is full; try again later."""

    code = "queue-full"
    retryable = True
    retry_after = 5


class BackendUnavailable(RequestError):
    """No worker serves this backend."""

    code = "backend-unavailable"
    retryable = True
    retry_after = 10


class ModelNotFound(RequestError):
    """No model has this name; GET /api/models lists all. Jobs whose model is removed also fail with it."""

    code = "model-not-found"

    def __init__(self, near: Sequence[str] = (), detail: str = "No model has this name") -> None:
        """`near` are known names that the caller may have meant."""
        hint = f"perhaps you mean {' or '.join(near)}; " if near else ""
        super().__init__(f"{detail}; {hint}GET /api/models lists all models.")
        self.near = tuple(near)


class LicenceForbidden(RequestError):
    """The licence of this model does not allow commercial use, or is unknown, and this service requires it
    (SD_COMMERCIAL_ONLY)."""

    code = "licence-forbidden"


class ModelUnavailable(RequestError):
    """This model cannot be used now: it is incomplete, broken or still being downloaded; the detail says what is
    missing. Jobs whose model cannot be loaded also fail with it."""

    code = "model-unavailable"
    retryable = True
    retry_after = 30


class ModelLoading(RequestError):
    """This model is not in memory yet, and the request does not wait for it; try again shortly."""

    code = "model-loading"
    retryable = True
    retry_after = 10


class StoreUnavailable(RequestError):
    """The job store is unavailable; try again shortly."""

    code = "store-unavailable"
    retryable = True
    retry_after = 2


class AcceptanceUnconfirmed(StoreUnavailable):
    """The job store did not respond and may have accepted the job; the same request, sent again, returns that job."""

    def __init__(self, job_id: str) -> None:
        super().__init__()
        self.job_id = job_id


class NotFinished(RequestError):
    """The job takes longer than this call waits, and continues; the same request, sent again, waits for it."""

    code = "not-finished"
    retryable = True
    retry_after = 1

    def __init__(self, job_id: str, detail: str = "send the same request again to wait for it") -> None:
        super().__init__(f"The job {job_id} has not finished yet and continues; {detail}.")
        self.job_id = job_id


class OutboundError(ImagegenError):
    """A request to another server failed.

    `status` is its response status, if it sent one. No detail names an address of the network.
    """

    def __init__(self, detail: str | None = None, status: int | None = None) -> None:
        super().__init__(detail)
        self.status = status


class ForbiddenUrl(OutboundError):
    """The service does not connect to this address."""


class Unreachable(OutboundError):
    """The response is incomplete."""


class ConnectionFailed(Unreachable):
    """No connection, or none with a trusted certificate; the path of the request does not matter."""


class ResponseTooLarge(OutboundError):
    """The response is too large."""


class OutboundTimeout(OutboundError):
    """The response timed out."""


class JobFailure(ImagegenError):
    """The job failed."""


class InvalidImage(JobFailure):
    """An input image is invalid; send PNG, JPEG or WebP."""

    code = "invalid-image"


class OutOfMemory(JobFailure):
    """The device has too little memory for this size."""

    code = "out-of-memory"


class InvalidOutput(JobFailure):
    """The model returned an image that is black, broken or of the wrong size."""

    code = "invalid-output"


class DeadlinePassed(JobFailure):
    """No worker started the job before its deadline."""

    code = "deadline-passed"


class TimedOut(JobFailure):
    """The job exceeded the time limit and was stopped."""

    code = "timed-out"


class WorkerLost(JobFailure):
    """The worker died each time it ran this job; it will not be run again."""

    code = "worker-lost"
    retryable = True


class ContentRejected(JobFailure):
    """The prompt or the image was rejected by the provider's moderation or the safety checker."""

    code = "content-rejected"


class UpstreamRejected(JobFailure):
    """The provider rejected the request or failed to process it."""

    code = "upstream-rejected"


class UpstreamOutOfCredits(JobFailure):
    """The provider account has no credits left; add credits and send the request again."""

    code = "upstream-out-of-credits"


class UpstreamUnavailable(JobFailure):
    """The provider is unavailable or overloaded; try again later."""

    code = "upstream-unavailable"
    retryable = True


class ProviderResponseLost(UpstreamUnavailable):
    """The provider may have charged for this request but did not confirm it; sending it again may cost twice."""

    retryable = False


class StorageFull(JobFailure):
    """The image could not be written: the disk is full or read-only."""

    code = "storage-full"
    retryable = True


class StorageUnavailable(JobFailure):
    """The image storage is unavailable; try again shortly."""

    code = "storage-unavailable"
    retryable = True
    retry_after = 5


class InternalError(JobFailure):
    """An unexpected error occurred; the log contains it with the job's id."""

    code = "internal-error"
