"""Values of admission: queue limits, idempotency keys, and whether a request became a job."""

from dataclasses import dataclass
from enum import StrEnum


class AdmissionOutcome(StrEnum):
    """Result of a request to create a job."""

    CREATED = "created"
    DUPLICATE = "duplicate"
    MISMATCH = "mismatch"
    QUEUE_FULL = "queue-full"
    OWNER_LIMIT = "owner-limit"
    """The owner has as many unfinished jobs as it may have."""


@dataclass(frozen=True)
class Admission:
    """`job_id` is the job that the caller gets: a new one, or the one that an earlier request created."""

    outcome: AdmissionOutcome
    job_id: str
    queue_position: int | None = None
    """For a new job: how many jobs of its backend are ahead."""
    work_ahead_ms: int = 0
    """How long one worker needs for the jobs ahead, by recent durations."""
    models_ahead: tuple[str, ...] = ()
    """Models of the jobs ahead; '' is the backend's default one."""


class OnDuplicate(StrEnum):
    """What happens to a request that was made before."""

    CREATE = "create"
    """It creates a new job, unless the caller of an equal request was sent away before its job ended."""
    RETURN = "return"
    """It gets the same job in whatever state; another request with the same key is refused."""
    RETURN_UNLESS_FAILED = "return-unless-failed"
    """It gets the same job, unless that failed or was cancelled."""
    RETURN_UNCONFIRMED = "return-unconfirmed"
    """It creates a new job, unless an earlier one was accepted and its caller never received the answer."""


@dataclass(frozen=True)
class IdempotencyKey:
    """Identifies repeated requests: by the key that the caller chose, or by their content."""

    name: str
    request_hash: str
    on_duplicate: OnDuplicate
    lifetime_ms: int

    @property
    def unconfirmed_name(self) -> str:
        """Of the jobs whose callers were sent away or never got an answer; lua/jobs/create.lua derives it as well."""
        return self.name if self.on_duplicate is OnDuplicate.RETURN_UNCONFIRMED else f"{self.name}:unconfirmed"


@dataclass(frozen=True)
class QueueLimits:
    """Most jobs that may wait in total and per backend, and most unfinished jobs per owner."""

    queued: int
    queued_per_backend: int
    per_owner: int = 0
    """0 for no limit; jobs without an owner have none."""
