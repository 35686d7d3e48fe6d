"""Atomic operations on job records: create, move between states, report, read and list."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from shared.jobs.admission import Admission, AdmissionOutcome, IdempotencyKey, OnDuplicate, QueueLimits
from shared.jobs.job import Job, ModelLoad, Progress, QueuedJob, QueueHead
from shared.jobs.requests import GenerationRequest
from shared.jobs.snapshots import (
    JobEvent,
    JobFilter,
    JobPage,
    JobSnapshot,
    dump_job,
    dump_provider_tasks,
    parse_head,
    parse_jobs,
    parse_page,
    parse_queued_jobs,
    parse_snapshot,
)
from shared.jobs.states import State
from shared.jobs.types import Backend
from shared.net.url import Url
from shared.observability.counters import count_creation, count_move
from shared.redis.keys import Keys
from shared.redis.store import Argument, Operation
from shared.redis.wakeups import wake_up

#: How long the event stream of a finished job can be resumed; the record outlives it.
EVENTS_LIFETIME_MS = 5 * 60 * 1000
#: A running job whose worker has not reported for this long is requeued. Workers report every second.
LEASE_MS = 10_000
#: What a worker has in memory counts for this long after its last heartbeat.
RESIDENCY_MS = 12_000
#: Approximate number of events kept for each job; the oldest are removed first.
MAX_EVENTS = 1000
#: Matches every owner; no API key has this name.
ANY_OWNER = "*"


@dataclass(frozen=True)
class ModelAffinity:
    """Which jobs a worker prefers."""

    worker: str
    loaded: Collection[str]
    """Models that it has in memory."""
    default_model: str
    """The model of jobs that name none."""
    bound_ms: int
    """How much longer a job may wait because a worker prefers others; 0 keeps the order of the queue."""


class ProgressReply(StrEnum):
    """What a worker does after it reported on a job."""

    CONTINUE = "continue"
    CANCEL = "cancel"
    LOST = "lost"


class Jobs:
    """Operations on job records."""

    def __init__(self, prefix: str) -> None:
        self._keys = Keys(prefix)
        self.channel = self._keys.channel

    def create(
        self,
        job: Job,
        limits: QueueLimits,
        idempotency: IdempotencyKey | None = None,
        expected_ms: int = 0,
        answer_by_ms: int | None = None,
    ) -> Operation[Admission]:
        """Store and queue a new job, or nothing if the queue is full or an earlier request created it.

        May be repeated: the same job is created once. After `answer_by_ms`, by the store's clock, the caller has got
        StoreUnavailable.
        """
        keys = [self._keys.record(job.id), self._keys.state(State.QUEUED), *self._queue(job.backend)]
        keys += [self._keys.idempotency(idempotency.name if idempotency else ""), self._keys.deadlines]
        keys += [self._keys.unfinished(job.owner), self._keys.counts, *self._indexes(job)]
        args: list[Argument] = [job.id, self.channel, dump_job(job), job.backend, job.request.label or "", job.owner]
        args += [job.request.priority.rank, job.request.num_images, expected_ms, wake_up(job.backend)]
        args += [limits.queued, limits.queued_per_backend, limits.per_owner]
        if idempotency is None:
            args += [OnDuplicate.CREATE, "", ""]
        else:
            args += [idempotency.on_duplicate, idempotency.request_hash, idempotency.lifetime_ms]
        args += [self._keys.record(""), round(job.deadline.timestamp() * 1000) if job.deadline else ""]
        args += [*_webhook(job.request), *count_creation(job), "" if answer_by_ms is None else answer_by_ms]
        args.append(job.model or job.request.requested_model or "")
        return Operation("jobs/create", keys, args, _admission)

    def ping_listeners(self) -> Operation[int]:
        """Publish a ping, so that subscribers to `channel` know that they listen to the current server."""
        return Operation("jobs/ping_listeners", [self.channel], [], int)

    def _queue(self, backend: Backend) -> list[str]:
        """The keys of shared/redis/lua/queue/fair_queue.lua."""
        return [self._keys.queue(backend), self._keys.shares(backend), self._keys.wake_ups(backend)]

    def mark_unconfirmed(self, idempotency: IdempotencyKey, job_id: str) -> Operation[bool]:
        """Return the job, if it was accepted, to the next identical request."""
        keys = [self._keys.record(job_id), self._keys.idempotency(idempotency.unconfirmed_name)]
        return Operation("jobs/mark_unconfirmed", keys, [job_id, idempotency.lifetime_ms], bool)

    def _indexes(self, job: Job) -> list[str]:
        """Every index that lists the job until it is deleted."""
        indexes = [self._keys.jobs, self._keys.backend(job.backend), self._keys.origin(job.origin)]
        label = job.request.label
        if label is not None:
            indexes.append(self._keys.label(label))
        if job.owner:
            indexes.append(self._keys.owner(job.owner))
        if job.owner and label is not None:
            indexes.append(self._keys.owner_label(job.owner, label))
        return indexes

    def move(self, old: Job, new: Job) -> Operation[bool]:
        """Compare-and-set on the old (state, attempt). False when another process moved the job first."""
        keys = [self._keys.record(old.id), self._keys.events(old.id)]
        keys += [self._keys.state(old.state), self._keys.state(new.state), *self._queue(old.backend)]
        keys += [self._keys.leases, self._keys.duration_stats(old.backend), self._keys.deadlines]
        keys += [self._keys.unfinished(old.owner), self._keys.counts]
        args: list[Argument] = [old.id, self.channel, old.state, old.attempt, new.state, new.attempt, dump_job(new)]
        args += [old.owner, new.request.priority.rank, new.request.num_images, wake_up(old.backend), new.worker or ""]
        args.append(EVENTS_LIFETIME_MS if new.state.is_terminal else "")
        args += [workload_key(new.model or "", new.request), new.work_ms] if new.work_ms is not None else ["", ""]
        args += [LEASE_MS, self._keys.webhooks, *(part for count in count_move(old, new) for part in count)]
        return Operation("jobs/move", keys, args, bool)

    def report_progress(
        self, job: Job, progress: Progress | None = None, preview: str = ""
    ) -> Operation[ProgressReply]:
        """Report on a running job and renew its lease; `preview` is one line of JSON."""
        keys = [self._keys.record(job.id), self._keys.events(job.id), self._keys.leases]
        args: list[Argument] = [job.id, self.channel, job.attempt, progress.model_dump_json() if progress else ""]
        args += [preview, MAX_EVENTS, LEASE_MS, self._keys.webhooks]
        return Operation("jobs/report_progress", keys, args, ProgressReply)

    def save_provider_tasks(self, job: Job) -> Operation[ProgressReply]:
        """Record `job.providers` if the job still runs in this attempt; its state does not change.

        A task without an id is about to be bought, which a cancelled job must not. They have a field of the record to
        themselves, so that a move with an older copy of the job keeps them.
        """
        is_purchase = any(task.id is None for task in job.providers)
        args: list[Argument] = [job.attempt, dump_provider_tasks(job), "1" if is_purchase else ""]
        return Operation("jobs/save_provider_tasks", [self._keys.record(job.id)], args, ProgressReply)

    def request_cancel(self, job_id: str) -> Operation[State | None]:
        """Flag the job if it runs; returns its state, None for an unknown id."""
        return Operation(
            "jobs/request_cancel", [self._keys.record(job_id)], [], lambda state: State(state) if state else None
        )

    def pin(self, job_id: str, *, pinned: bool) -> Operation[bool]:
        """Exempt a job and its images from retention, or end that. False for an unknown id."""
        keys = [self._keys.record(job_id), self._keys.pinned]
        return Operation("jobs/pin", keys, [job_id, "1" if pinned else ""], bool)

    def read(self, job_id: str, owner: str | None = None) -> Operation[JobSnapshot | None]:
        """None for an unknown id, and for a job of another owner where `owner` is given."""
        args = [job_id, self._keys.queue(""), self._keys.record(""), ANY_OWNER if owner is None else owner]
        return Operation("jobs/read", [self._keys.record(job_id)], args, parse_snapshot)

    def filter_owned(self, job_ids: Sequence[str], owner: str) -> Operation[frozenset[str]]:
        """The jobs among these that the owner has."""

        def decode(reply: list[int]) -> frozenset[str]:
            return frozenset(job_id for job_id, is_owned in zip(job_ids, reply, strict=True) if is_owned)

        return Operation("jobs/filter_owned", [self._keys.record(job_id) for job_id in job_ids], [owner], decode)

    def peek_queue(self, backend: Backend, limit: int) -> Operation[tuple[QueuedJob, ...]]:
        """The head of the queue, in the order in which jobs start."""
        args: list[Argument] = [self._keys.record(""), limit]
        return Operation("queue/peek", [self._keys.queue(backend)], args, parse_queued_jobs)

    def next_in_queue(
        self, backend: Backend, limit: int, affinity: ModelAffinity, passed_over: Iterable[str] = ()
    ) -> Operation[QueueHead]:
        """The job that a worker is to start next, and jobs of the same model behind it; at most `limit`.

        `passed_over` holds ids of jobs and names of models.
        """
        keys = [self._keys.queue(backend), self._keys.residency, self._keys.load_stats(backend)]
        args: list[Argument] = [self._keys.record(""), limit, affinity.worker, affinity.bound_ms, RESIDENCY_MS]
        args += [backend, affinity.default_model, len(affinity.loaded), *affinity.loaded, *passed_over]
        return Operation("queue/next", keys, args, parse_head)

    def report_load(self, job: Job, load: ModelLoad) -> Operation[bool]:
        """Tell the followers of a queued job that its model is being loaded."""
        keys = [self._keys.record(job.id)]
        return Operation("jobs/report_load", keys, [job.id, self.channel, load.model_dump_json()], bool)

    def repair_queue(self, backend: Backend) -> Operation[int]:
        """Adopt jobs that the version before queued, and replace lost wake-ups; returns how many were missing."""
        keys = [*self._queue(backend), self._keys.former_queue(backend), *self._keys.former_wake_ups(backend)]
        return Operation("queue/repair_queue", keys, [wake_up(backend)], int)

    def list_running_on(self, worker: str) -> Operation[tuple[Job, ...]]:
        """The jobs that run on a worker, by their records."""
        args = [self._keys.record(""), worker]
        return Operation("housekeeping/list_running", [self._keys.state(State.RUNNING)], args, parse_jobs)

    def list_page(self, job_filter: JobFilter, limit: int, cursor: str | None) -> Operation[JobPage]:
        """Newest first. The page begins after `cursor`, which the page before returned.

        With a search, the page has those of `limit` jobs that match it.
        """
        keys, has_owner = self._filter_indexes(job_filter), job_filter.owner is not None
        args: list[Argument] = [1 if has_owner else len(keys), self._keys.record(""), cursor or "", limit]
        args += [scan_budget(limit), self._keys.queue("")]
        return Operation("jobs/list", keys, args, partial(parse_page, search=job_filter.search))

    def _filter_indexes(self, job_filter: JobFilter) -> list[str]:
        """Indexes that all list a matching job; with an owner, the first lists jobs of that owner only."""
        indexes, owner, label = [], job_filter.owner, job_filter.label
        if owner is not None:
            indexes.append(self._keys.owner(owner) if label is None else self._keys.owner_label(owner, label))
        elif label is not None:
            indexes.append(self._keys.label(label))
        if job_filter.state is not None:
            indexes.append(self._keys.state(job_filter.state))
        if job_filter.backend is not None:
            indexes.append(self._keys.backend(job_filter.backend))
        if job_filter.origin is not None:
            indexes.append(self._keys.origin(job_filter.origin))
        if job_filter.pinned:
            indexes.append(self._keys.pinned)
        return indexes or [self._keys.jobs]

    def read_events(self, job_id: str, after: str = "") -> Operation[tuple[JobEvent, ...]]:
        """Events of a job after the event `after`, oldest first."""

        def decode(rows: list[tuple[str, list[str]]]) -> tuple[JobEvent, ...]:
            return tuple(JobEvent(job_id, event_id, fields[1], fields[3]) for event_id, fields in rows)

        return Operation("jobs/read_events", [self._keys.events(job_id), self._keys.record(job_id)], [after], decode)


def _admission(reply: list[Any]) -> Admission:
    outcome, job_id, *position = reply
    # A repeated call gets no more than the position.
    values = dict(zip(("queue_position", "work_ahead_ms"), position, strict=False))
    models_ahead = tuple(position[2]) if len(position) > 2 else ()
    return Admission(AdmissionOutcome(outcome), job_id, **values, models_ahead=models_ahead)


def scan_budget(limit: int) -> int:
    """How many ids a list call examines before it returns a cursor."""
    return max(200, 8 * limit)


def workload_key(model: str, request: GenerationRequest) -> str:
    """Identifies jobs that take about the same time."""
    size = f"{request.width}x{request.height}"
    return f"{model} {size} {request.num_inference_steps} {request.num_images}"


def _webhook(request: GenerationRequest) -> tuple[str, str]:
    """Origin of the receiver and the events it wants."""
    if request.webhook_url is None:
        return "", ""
    return Url.parse(request.webhook_url).origin, " ".join(request.webhook_events)
