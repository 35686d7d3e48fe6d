"""Everything that can go wrong, as one tree. Codes never change once released.

ImagegenError
├── ConfigurationError            the process cannot start
├── RequestError                  asked wrongly, told at once
│   ├── InvalidRequest · UnsupportedMediaType · PayloadTooLarge · NotAcceptable
│   ├── NotFound · MethodNotAllowed · JobNotFound · ImageNotFound · RangeNotSatisfiable · WebhookNotFound
│   ├── InvalidTransition · IdempotencyMismatch
│   ├── MalformedRequest · RequestTimedOut · HeadersTooLarge · MisdirectedRequest
│   ├── Unauthorized · Forbidden
│   └── RateLimited · QueueFull · TooManyConnections · BackendUnavailable · StoreUnavailable    try again later
├── OutboundError                 an address that somebody gave us gave nothing; who asked it says what that means
│   └── ForbiddenUrl · Unreachable · ResponseTooLarge · OutboundTimeout
└── JobFailure                    happened later, kept on the job
    ├── InvalidImage · OutOfMemory · InvalidOutput · DeadlinePassed · TimedOut · WorkerLost · StorageFull
    │   · StorageUnavailable · InternalError
    └── ContentRejected · UpstreamRejected · UpstreamOutOfCredits    told by a provider in the cloud
        · UpstreamUnavailable (ProviderResponseLost)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar


class ImagegenError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "internal-error"
    retryable: ClassVar[bool] = False
    #: Seconds after which the same request may succeed.
    retry_after: int | None = None

    def __init__(self, detail: str | None = None) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        super().__init__(self.detail)


class ConfigurationError(ImagegenError):
    """The settings do not allow a start."""

    code = "configuration-error"


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field; `pointer` is its JSON pointer (RFC 6901)."""

    pointer: str
    detail: str


class RequestError(ImagegenError):
    """The request cannot be served."""


class InvalidRequest(RequestError):
    """The request cannot be accepted; `errors` says what is wrong where."""

    code = "invalid-request"

    def __init__(self, detail: str | None = None, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.errors = tuple(errors)


class UnsupportedMediaType(RequestError):
    """Send the request as JSON, with the header `content-type: application/json`."""

    code = "unsupported-media-type"


class PayloadTooLarge(RequestError):
    """The body is larger than this service accepts."""

    code = "payload-too-large"


class NotAcceptable(RequestError):
    """Accept neither names application/json nor the format of the image."""

    code = "not-acceptable"


class NotFound(RequestError):
    """There is nothing at this address; /docs lists what there is."""

    code = "not-found"


class MethodNotAllowed(RequestError):
    """This address does not take this method; the Allow header names those it takes."""

    code = "method-not-allowed"


class JobNotFound(RequestError):
    """There is no job with this id."""

    code = "job-not-found"


class ImageNotFound(RequestError):
    """The job has no image with this number, or its file is gone."""

    code = "image-not-found"


class RangeNotSatisfiable(RequestError):
    """The image ends before the part that Range asks for."""

    code = "range-not-satisfiable"

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


class WebhookNotFound(RequestError):
    """There is no webhook with this id that waits or was given up; those that arrived are not kept."""

    code = "webhook-not-found"


class InvalidTransition(RequestError):
    """The job is in a state that does not allow this."""

    code = "invalid-transition"


class IdempotencyMismatch(RequestError):
    """This Idempotency-Key came with another request within the last day; use a new key for a new request."""

    code = "idempotency-mismatch"


class MalformedRequest(RequestError):
    """This is not HTTP as it should be."""

    code = "malformed-request"


class RequestTimedOut(RequestError):
    """The request took too long to come; send it again, and faster."""

    code = "request-timed-out"
    retryable = True


class HeadersTooLarge(RequestError):
    """The address and headers of the request are larger than this service accepts."""

    code = "headers-too-large"


class TooManyConnections(RequestError):
    """As many connections are open as this service takes, in all or from one address; try again shortly."""

    code = "too-many-connections"
    retryable = True
    retry_after = 5


class MisdirectedRequest(RequestError):
    """This service does not go by the name in the Host header; the operator can add it to SD_ALLOWED_HOSTS."""

    code = "misdirected-request"


class Unauthorized(RequestError):
    """Send a key of this service as X-API-Key, as Authorization: Bearer, or as the password of HTTP Basic."""

    code = "unauthorized"


class Forbidden(RequestError):
    """This key does not allow that."""

    code = "forbidden"


class RateLimited(RequestError):
    """More requests came than this service takes from one caller; ask more slowly."""

    code = "rate-limited"
    retryable = True

    def __init__(self, detail: str | None = None, seconds: float = 1) -> None:
        super().__init__(detail)
        self.seconds = seconds
        self.retry_after = ceil(seconds)


class QueueFull(RequestError):
    """As many jobs are waiting as this service accepts; try again when some are done."""

    code = "queue-full"
    retryable = True
    retry_after = 5


class BackendUnavailable(RequestError):
    """No worker serves this backend."""

    code = "backend-unavailable"
    retryable = True
    retry_after = 10


class StoreUnavailable(RequestError):
    """The job store does not answer; try again shortly."""

    code = "store-unavailable"
    retryable = True
    retry_after = 2


class AcceptanceUnconfirmed(StoreUnavailable):
    """The job store does not answer, and may have accepted the job; the same request, sent again, finds it if so."""

    def __init__(self, job_id: str) -> None:
        super().__init__()
        self.job_id = job_id


class OutboundError(ImagegenError):
    """Nothing could be had from an address outside.

    `status` is what the server answered before that, where it got so far. No detail names an address of the network.
    """

    def __init__(self, detail: str | None = None, status: int | None = None) -> None:
        super().__init__(detail)
        self.status = status


class ForbiddenUrl(OutboundError):
    """The address is none that this service connects to."""


class Unreachable(OutboundError):
    """No whole answer came."""


class ConnectionFailed(Unreachable):
    """Nobody is there, or nobody who can prove to be it; whatever was to be asked for makes no difference."""


class ResponseTooLarge(OutboundError):
    """The answer was larger than is taken."""


class OutboundTimeout(OutboundError):
    """The answer took longer than is waited."""


class JobFailure(ImagegenError):
    """The job could not be done."""


class InvalidImage(JobFailure):
    """An image that came with the request cannot be used; send PNG, JPEG or WebP."""

    code = "invalid-image"


class OutOfMemory(JobFailure):
    """The device has too little memory for this size."""

    code = "out-of-memory"


class InvalidOutput(JobFailure):
    """The model gave an image that is black, broken or of the wrong size."""

    code = "invalid-output"


class DeadlinePassed(JobFailure):
    """No worker was free before the job's deadline."""

    code = "deadline-passed"


class TimedOut(JobFailure):
    """The job ran longer than this service allows and was stopped."""

    code = "timed-out"


class WorkerLost(JobFailure):
    """The worker died each time it ran this job; it will not be tried again."""

    code = "worker-lost"
    retryable = True


class ContentRejected(JobFailure):
    """The prompt or the image was refused: by the provider's moderation or by this service's safety checker."""

    code = "content-rejected"


class UpstreamRejected(JobFailure):
    """The provider refused the request or could not do it."""

    code = "upstream-rejected"


class UpstreamOutOfCredits(JobFailure):
    """The account with the provider has no credits left; once there are some, send the request again."""

    code = "upstream-out-of-credits"


class UpstreamUnavailable(JobFailure):
    """The provider does not answer or takes no more work; try again later."""

    code = "upstream-unavailable"
    retryable = True


class ProviderResponseLost(UpstreamUnavailable):
    """The provider may have charged for this request, but did not say so; to send it again may cost twice."""

    retryable = False


class StorageFull(JobFailure):
    """The image could not be written: the disk is full or read-only."""

    code = "storage-full"
    retryable = True


class StorageUnavailable(JobFailure):
    """The storage that images are kept in does not answer or refuses; try again shortly."""

    code = "storage-unavailable"
    retryable = True
    retry_after = 5


class InternalError(JobFailure):
    """An unexpected error; the log has it under the job's id."""

    code = "internal-error"
