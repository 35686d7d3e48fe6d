"""Values of admission: queue limits, idempotency keys, and whether a request became a job."""

from dataclasses import dataclass
from enum import StrEnum

from shared.jobs.snapshots import JobSnapshot


class AdmissionOutcome(StrEnum):
    """Result of a request to create a job."""

    CREATED = "created"
    DUPLICATE = "duplicate"
    MISMATCH = "mismatch"
    QUEUE_FULL = "queue-full"
    OWNER_LIMIT = "owner-limit"
    """The owner has reached its limit of unfinished jobs."""


@dataclass(frozen=True)
class Admission:
    """`job_id` is the job that the caller gets: a new one, or the one that an earlier request created."""

    outcome: AdmissionOutcome
    job_id: str
    accepted: JobSnapshot | None = None
    """A new job, with its position in the queue."""


class OnDuplicate(StrEnum):
    """What happens to a repeated request."""

    CREATE = "create"
    """It creates a new job, unless an identical request got an error because its job took too long."""
    RETURN = "return"
    """It gets the same job, whatever its state; a different request with the same key is refused."""
    RETURN_UNLESS_FAILED = "return-unless-failed"
    """It gets the same job, unless that failed or was cancelled."""
    RETURN_UNCONFIRMED = "return-unconfirmed"
    """It creates a new job, unless an earlier one may have been accepted without its caller receiving the response."""


@dataclass(frozen=True)
class IdempotencyKey:
    """Identifies repeated requests: by the key that the caller chose, or by their content."""

    name: str
    request_hash: str
    on_duplicate: OnDuplicate
    lifetime_ms: int

    @property
    def unconfirmed_name(self) -> str:
        """Names the job that the next identical request gets, if its caller got no result; see lua/jobs/create.lua."""
        return self.name if self.on_duplicate is OnDuplicate.RETURN_UNCONFIRMED else f"{self.name}:unconfirmed"


@dataclass(frozen=True)
class QueueLimits:
    """Limits of queued jobs, in total and per backend, and of unfinished jobs per owner."""

    queued: int
    queued_per_backend: int
    per_owner: int = 0
    """0 for no limit; jobs without an owner have none."""
