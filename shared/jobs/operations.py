"""Where jobs live: the keys of their records and the atomic moves between states."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never

from pydantic import TypeAdapter

from shared.jobs.requests import Backend, GenerationRequest, Job, Priority, Progress, Provider, QueuedJob
from shared.jobs.states import State
from shared.net.url import Url
from shared.observability.counters import of_creation, of_move
from shared.redis.keys import Keys
from shared.redis.store import Argument, Operation
from shared.redis.wakeups import wake_up
from shared.webhooks.deliveries import Delivery, deliveries

#: How long the events of a finished job can still be resumed; the record outlives them.
EVENTS_LIFETIME_MS = 5 * 60 * 1000
#: A running job whose worker was not heard of for so long is started again elsewhere. Workers report every second.
LEASE_MS = 10_000
#: Events of one job that are kept, or a few more; the oldest go first.
MOST_EVENTS = 1000
#: Stands for every owner; no key has this name.
ANYONE = "*"


@dataclass(frozen=True)
class JobSnapshot:
    """A job and what is known of it between moves."""

    job: Job
    progress: Progress | None = None
    queue_position: int | None = None
    """Jobs of the same backend that are before it; None unless it is queued."""
    work_before_ms: int = 0
    """How long those jobs together will keep one worker, by recent experience."""
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
    label: str | None = None
    owner: str | None = None


@dataclass(frozen=True)
class JobEvent:
    """`id` orders the events of a job; `data` is a state, or JSON for progress and previews."""

    job_id: str
    id: str
    type: str
    data: str

    @classmethod
    def parse(cls, message: str) -> "JobEvent":
        """From what is published on the event channel."""
        job_id, event_id, kind, data = message.split(" ", 3)
        return cls(job_id, event_id, kind, data)


class Outcome(StrEnum):
    """What became of a request to create a job."""

    CREATED = "created"
    KNOWN = "known"
    MISMATCH = "mismatch"
    FULL = "full"
    CROWDED = "crowded"
    """The owner has as many jobs as it may."""


@dataclass(frozen=True)
class Admission:
    """`job_id` is the job that the caller gets: a new one, or the one that an earlier request made."""

    outcome: Outcome
    job_id: str
    queue_position: int | None = None
    """Of a new job: how many others of its backend are before it."""
    work_before_ms: int = 0
    """How long those together will keep one worker, by recent experience."""


class OnDuplicate(StrEnum):
    """What a request does that was made before."""

    NEW = "new"
    """It makes a job of its own."""
    SAME = "same"
    """It gets the same job, whatever became of it; another request under the same name is refused."""
    AGAIN = "again"
    """It gets the same job, unless that was in vain."""
    UNSURE = "unsure"
    """It makes a job of its own, unless there is one of which the first caller was not told that it was accepted."""


@dataclass(frozen=True)
class IdempotencyKey:
    """How repetitions of a request are known: by a name that its caller gives it, or by what it asks for."""

    name: str
    request_hash: str
    on_repeat: OnDuplicate
    remembered_ms: int


@dataclass(frozen=True)
class QueueLimits:
    """Most jobs that may wait, in all and for one backend, and most of one owner that may wait or run."""

    queued: int
    queued_per_backend: int
    of_owner: int = 0
    """0 for no limit; jobs without an owner have none."""


class Verdict(StrEnum):
    """What a worker learns when it reports on a job."""

    GO_ON = "go-on"
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
        ceiling: QueueLimits,
        repeat: IdempotencyKey | None = None,
        expected_ms: int = 0,
        latest_ms: int | None = None,
    ) -> Operation[Admission]:
        """Store a new job in its queue, or nothing where there is no room or an earlier request made it.

        May be repeated: the same job is created once. At `latest_ms`, by the store's clock, the caller is told that the
        store does not answer.
        """
        keys = [self._keys.record(job.id), self._keys.state(State.QUEUED), *self._queue(job.backend)]
        keys += [self._keys.repeat(repeat.name if repeat else ""), self._keys.deadlines, self._keys.active(job.owner)]
        keys += [self._keys.counts, *self._indexes(job)]
        args: list[Argument] = [job.id, self.channel, _dump(job), job.backend, job.request.label or "", job.owner]
        args += [rank(job.request.priority), job.request.num_images, expected_ms, wake_up(job.backend)]
        args += [ceiling.queued, ceiling.queued_per_backend, ceiling.of_owner]
        if repeat is None:
            args += [OnDuplicate.NEW, "", ""]
        else:
            args += [repeat.on_repeat, repeat.request_hash, repeat.remembered_ms]
        args += [self._keys.record(""), round(job.deadline.timestamp() * 1000) if job.deadline else ""]
        args += [*_told(job.request), *of_creation(job), "" if latest_ms is None else latest_ms]
        return Operation("jobs/create", keys, args, lambda reply: Admission(Outcome(reply[0]), *reply[1:]))

    def _queue(self, backend: Backend) -> list[str]:
        """The keys that shared/redis/lua/queue/fair_queue.lua works on."""
        return [self._keys.queue(backend), self._keys.shares(backend), self._keys.wake_ups(backend)]

    def mark_unconfirmed(self, repeat: IdempotencyKey, job_id: str) -> Operation[bool]:
        """Leave the job, if it was accepted, to the same request when that comes again."""
        keys = [self._keys.record(job_id), self._keys.repeat(repeat.name)]
        return Operation("jobs/mark_unconfirmed", keys, [job_id, repeat.remembered_ms], bool)

    def _indexes(self, job: Job) -> list[str]:
        """Every list that the job is in for as long as it is known."""
        indexes, label = [self._keys.jobs, self._keys.backend(job.backend)], job.request.label
        if label is not None:
            indexes.append(self._keys.label(label))
        if job.owner:
            indexes.append(self._keys.owner(job.owner))
        if job.owner and label is not None:
            indexes.append(self._keys.owner_label(job.owner, label))
        return indexes

    def move(self, old: Job, new: Job) -> Operation[bool]:
        """Compare-and-set on the old (state, attempt). False when the job was moved by somebody else first."""
        keys = [self._keys.record(old.id), self._keys.events(old.id)]
        keys += [self._keys.state(old.state), self._keys.state(new.state), *self._queue(old.backend)]
        keys += [self._keys.leases, self._keys.duration_stats(old.backend), self._keys.deadlines, self._keys.active(old.owner)]
        keys.append(self._keys.counts)
        args: list[Argument] = [old.id, self.channel, old.state, old.attempt, new.state, new.attempt, _dump(new)]
        args += [old.owner, rank(new.request.priority), new.request.num_images, wake_up(old.backend), new.worker or ""]
        args.append(EVENTS_LIFETIME_MS if new.state.is_terminal else "")
        args += [kind_of_work(new.model or "", new.request), new.work_ms] if new.work_ms is not None else ["", ""]
        args += [LEASE_MS, self._keys.webhooks, *(part for count in of_move(old, new) for part in count)]
        return Operation("jobs/move", keys, args, bool)

    def report_progress(self, job: Job, progress: Progress | None = None, preview: str = "") -> Operation[Verdict]:
        """Tell of a running job, and renew its lease; `preview` is one line of JSON."""
        keys = [self._keys.record(job.id), self._keys.events(job.id), self._keys.leases]
        told = progress.model_dump_json() if progress else ""
        args: list[Argument] = [job.id, self.channel, job.attempt, told, preview, MOST_EVENTS, LEASE_MS]
        args.append(self._keys.webhooks)
        return Operation("jobs/report_progress", keys, args, Verdict)

    def save_provider_tasks(self, job: Job) -> Operation[bool]:
        """Put `job.providers` on record if the job runs and this is still its attempt; it stays where it is.

        A field of its own: whoever moves the job with a copy that was read before does not undo it.
        """
        told = _PROVIDERS.dump_json(job.providers, exclude_defaults=True).decode()
        return Operation("jobs/save_provider_tasks", [self._keys.record(job.id)], [job.attempt, told], bool)

    def request_cancel(self, job_id: str) -> Operation[State | None]:
        """Flag the job if it runs; the state it is in, None for an unknown id."""
        return Operation(
            "jobs/request_cancel", [self._keys.record(job_id)], [], lambda state: State(state) if state else None
        )

    def pin(self, job_id: str, *, pinned: bool) -> Operation[bool]:
        """Keep a job and its images from retention, or no longer. False for an unknown id."""
        return Operation("jobs/pin", [self._keys.record(job_id)], ["1" if pinned else ""], bool)

    def read(self, job_id: str, owner: str | None = None) -> Operation[JobSnapshot | None]:
        """None for an unknown id, and in the same way for a job that is not `owner`'s where one is given."""
        args = [job_id, self._keys.queue(""), self._keys.record(""), ANYONE if owner is None else owner]
        return Operation("jobs/read", [self._keys.record(job_id)], args, _snapshot)

    def filter_owned(self, job_ids: Sequence[str], owner: str) -> Operation[frozenset[str]]:
        """Those of the jobs that are this owner's."""

        def decode(reply: list[int]) -> frozenset[str]:
            return frozenset(job_id for job_id, owned in zip(job_ids, reply, strict=True) if owned)

        return Operation("jobs/filter_owned", [self._keys.record(job_id) for job_id in job_ids], [owner], decode)

    def peek_queue(self, backend: Backend, most: int) -> Operation[tuple[QueuedJob, ...]]:
        """The head of the queue, in the order in which jobs start."""
        args: list[Argument] = [self._keys.record(""), most]
        return Operation("queue/peek", [self._keys.queue(backend)], args, _queued_jobs)

    def fill_wake_ups(self, backend: Backend) -> Operation[int]:
        """Replace wake-ups of workers that were lost; how many."""
        keys = [*self._queue(backend), *self._keys.former_messages(backend)]
        return Operation("queue/fill_wake_ups", keys, [wake_up(backend)], int)

    def list_running_on(self, worker: str) -> Operation[tuple[Job, ...]]:
        """The jobs that a worker has on record as running."""
        return Operation(
            "housekeeping/list_running", [self._keys.state(State.RUNNING)], [self._keys.record(""), worker], _jobs
        )

    def list_page(self, wanted: JobFilter, limit: int, cursor: str | None) -> Operation[JobPage]:
        """Newest first. `cursor` is from another page, which this one goes on from."""
        keys, others = self._lists(wanted), wanted.owner is not None
        args: list[Argument] = [1 if others else len(keys), self._keys.record(""), cursor or "", limit]
        args += [list_budget(limit), self._keys.queue("")]
        return Operation("jobs/list", keys, args, _page)

    def _lists(self, wanted: JobFilter) -> list[str]:
        """All of the lists that a wanted job is on; where an owner is wanted, the first is of that owner's alone."""
        lists, owner, label = [], wanted.owner, wanted.label
        if owner is not None:
            lists.append(self._keys.owner(owner) if label is None else self._keys.owner_label(owner, label))
        elif label is not None:
            lists.append(self._keys.label(label))
        if wanted.state is not None:
            lists.append(self._keys.state(wanted.state))
        if wanted.backend is not None:
            lists.append(self._keys.backend(wanted.backend))
        return lists or [self._keys.jobs]

    def read_events(self, job_id: str, after: str = "") -> Operation[tuple[JobEvent, ...]]:
        """What happened to a job after the event `after`, oldest first."""

        def decode(rows: list[tuple[str, list[str]]]) -> tuple[JobEvent, ...]:
            return tuple(JobEvent(job_id, event_id, fields[1], fields[3]) for event_id, fields in rows)

        return Operation("jobs/read_events", [self._keys.events(job_id), self._keys.record(job_id)], [after], decode)


def list_budget(limit: int) -> int:
    """How many ids a list call looks at before it hands back a cursor."""
    return max(200, 8 * limit)


def kind_of_work(model: str, request: GenerationRequest) -> str:
    """What jobs that take about as long have in common."""
    size = f"{request.width}x{request.height}"
    return f"{model} {size} {request.num_inference_steps} {request.num_images}"


def _dump(job: Job) -> str:
    return job.model_dump_json(exclude_defaults=True, exclude={"providers"})


def _told(request: GenerationRequest) -> tuple[str, str]:
    """Who is told of the job, and of which events."""
    if request.webhook_url is None:
        return "", ""
    return Url.parse(request.webhook_url).origin, " ".join(request.webhook_events)


def rank(priority: Priority) -> int:
    """Where in the queue: lower is sooner."""
    match priority:
        case Priority.HIGH:
            return 0
        case Priority.NORMAL:
            return 1
        case Priority.LOW:
            return 2
        case _:
            assert_never(priority)


_PROVIDERS = TypeAdapter(tuple[Provider, ...])


def job_of(doc: str, providers: str) -> Job:
    """A job as its record has it; `providers` is '' for none."""
    job = Job.model_validate_json(doc)
    return job.model_copy(update={"providers": _PROVIDERS.validate_json(providers)}) if providers else job


def _snapshot(reply: tuple[str, str, int, int, str, str, str] | None) -> JobSnapshot | None:
    if reply is None:
        return None
    doc, progress, before, wait, pinned, providers, told = reply
    return JobSnapshot(
        job=job_of(doc, providers),
        progress=Progress.model_validate_json(progress) if progress else None,
        queue_position=before if before >= 0 else None,
        work_before_ms=wait,
        pinned=bool(pinned),
        deliveries=deliveries(told),
    )


def _jobs(reply: list[str]) -> tuple[Job, ...]:
    return tuple(Job.model_validate_json(doc) for doc in reply)


def _queued_jobs(reply: list[str]) -> tuple[QueuedJob, ...]:
    return tuple(
        QueuedJob(job_of(doc, providers), int(expected_ms))
        for doc, providers, expected_ms in zip(reply[::3], reply[1::3], reply[2::3], strict=True)
    )


def _page(reply: list[Any]) -> JobPage:
    cursor, cells = reply[0], reply[1:]
    rows = zip(*(cells[column::6] for column in range(6)), strict=True)
    read = (_snapshot((doc, progress, before, 0, *rest)) for doc, progress, before, *rest in rows)
    return JobPage(tuple(snapshot for snapshot in read if snapshot), cursor or None)
