"""What reads of the job records return: snapshots, pages and events."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from shared.jobs.job import Job, Progress, ProviderTask, QueuedJob, QueueHead
from shared.jobs.search import JobSearch
from shared.jobs.states import State
from shared.jobs.types import ApiProtocol, Backend
from shared.webhooks.deliveries import Delivery, parse_deliveries


@dataclass(frozen=True)
class JobSnapshot:
    """A job and its data that change between moves."""

    job: Job
    progress: Progress | None = None
    queue_position: int | None = None
    """Jobs of the same backend ahead of it; None unless it is queued."""
    work_ahead_ms: int = 0
    """How long one worker needs for the jobs ahead, by recent durations."""
    models_ahead: tuple[str, ...] = ()
    """Models of the jobs ahead; '' is the backend's default one."""
    pinned: bool = False
    deliveries: tuple[Delivery, ...] = ()
    """The latest webhook of each kind of event."""


@dataclass(frozen=True)
class JobPage:
    jobs: tuple[JobSnapshot, ...]
    cursor: str | None


@dataclass(frozen=True)
class JobFilter:
    state: State | None = None
    backend: Backend | None = None
    origin: ApiProtocol | None = None
    label: str | None = None
    owner: str | None = None
    pinned: bool = False
    """Whether to list pinned jobs only."""
    search: JobSearch = field(default_factory=JobSearch)


@dataclass(frozen=True)
class JobEvent:
    """`id` orders the events of a job; `data` is a state, or JSON for progress and previews."""

    job_id: str
    id: str
    type: str
    data: str

    @classmethod
    def parse(cls, message: str) -> "JobEvent":
        """From a message of the event channel."""
        job_id, event_id, kind, data = message.split(" ", 3)
        return cls(job_id, event_id, kind, data)


_PROVIDER_TASKS = TypeAdapter(tuple[ProviderTask, ...])


def dump_job(job: Job) -> str:
    return job.model_dump_json(exclude_defaults=True, exclude={"providers"})


def dump_provider_tasks(job: Job) -> str:
    return _PROVIDER_TASKS.dump_json(job.providers, exclude_defaults=True).decode()


# Whoever polls a job reads the same document again and again.
@lru_cache(maxsize=64)
def parse_job(doc: str, providers: str = "") -> Job:
    """From the fields of a record; `providers` is '' for none."""
    job = Job.model_validate_json(doc)
    return job.model_copy(update={"providers": _PROVIDER_TASKS.validate_json(providers)}) if providers else job


def parse_snapshot(reply: Sequence[Any] | None) -> JobSnapshot | None:
    if reply is None:
        return None
    doc, progress, position, work_ahead_ms, pinned, providers, deliveries, *models_ahead = reply
    return JobSnapshot(
        job=parse_job(doc, providers),
        progress=Progress.model_validate_json(progress) if progress else None,
        queue_position=position if position >= 0 else None,
        work_ahead_ms=work_ahead_ms,
        pinned=bool(pinned),
        deliveries=parse_deliveries(deliveries),
        models_ahead=tuple(models_ahead[0]) if models_ahead else (),
    )


def parse_jobs(reply: list[str]) -> tuple[Job, ...]:
    return tuple(map(parse_job, reply))


def parse_queued_jobs(reply: list[str]) -> tuple[QueuedJob, ...]:
    return tuple(
        QueuedJob(parse_job(doc, providers), int(expected_ms))
        for doc, providers, expected_ms in zip(reply[::3], reply[1::3], reply[2::3], strict=True)
    )


def parse_head(reply: list[str]) -> QueueHead:
    return QueueHead(parse_queued_jobs(reply[1:]), bool(reply[0]))


def parse_page(reply: list[Any], search: JobSearch) -> JobPage:
    cursor, cells = reply[0], reply[1:]
    rows = zip(*(cells[column::6] for column in range(6)), strict=True)
    # Parsing takes longer than all else, so documents that cannot match are not parsed.
    found = ((doc, progress, position, 0, *rest) for doc, progress, position, *rest in rows if search.may_match(doc))
    snapshots = map(parse_snapshot, found)
    return JobPage(
        tuple(snapshot for snapshot in snapshots if snapshot and search.matches(snapshot.job)), cursor or None
    )
