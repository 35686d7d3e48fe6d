"""Where jobs live: the keys of their records and the atomic moves between states."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never

from shared.queues import QueuedMessage
from shared.schemas import Backend, Job, Priority, Progress
from shared.states import State
from shared.store import Argument, Operation

#: How long the events of a finished job can still be resumed; the record outlives them.
EVENTS_LIFETIME_MS = 5 * 60 * 1000
#: Events of one job that are kept, or a few more; the oldest go first.
MOST_EVENTS = 1000
#: Records one list call looks at before it hands back a cursor.
LIST_BUDGET = 2000


@dataclass(frozen=True)
class JobSnapshot:
    """A job and what is known of it between moves."""

    job: Job
    progress: Progress | None = None
    queue_position: int | None = None
    """Jobs of the same backend that are before it; None unless it is queued."""


@dataclass(frozen=True)
class JobPage:
    jobs: tuple[JobSnapshot, ...]
    cursor: str | None


@dataclass(frozen=True)
class JobFilter:
    state: State | None = None
    backend: Backend | None = None
    label: str | None = None


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


class Verdict(StrEnum):
    """What a worker learns when it reports on a job."""

    GO_ON = "go-on"
    CANCEL = "cancel"
    LOST = "lost"


class Jobs:
    """Operations on job records. `prefix` begins every key, so that several services may share one server."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.channel = f"{prefix}events"

    def create(self, job: Job, message: QueuedMessage, most_queued: int) -> Operation[bool]:
        """Store a new job and its message in one step. False when the queue is full and nothing was stored."""
        keys = [
            self._record(job.id),
            self._events(job.id),
            self._state(State.QUEUED),
            self._line(job.backend),
        ]
        keys += [self._prefix + message.key, self._all(), f"{self._prefix}jobs:backend:{job.backend}"]
        if job.request.label is not None:
            keys.append(self._label(job.request.label))
        args = [job.id, self.channel, _dump(job), job.backend, job.request.label or "", message.payload]
        return Operation("create", keys, [*args, _rank(job.request.priority), most_queued], bool)

    def move(self, old: Job, new: Job, message: QueuedMessage | None = None) -> Operation[bool]:
        """Compare-and-set on the old (state, attempt). False when the job was moved by somebody else first.

        `message` goes with a job that returns to the queue, and only then.
        """
        keys = [self._record(old.id), self._events(old.id), self._state(old.state), self._state(new.state)]
        keys += [self._line(old.backend), self._prefix + message.key if message else self._line(old.backend)]
        args: list[Argument] = [old.id, self.channel, old.state, old.attempt, new.state, new.attempt, _dump(new)]
        args += [message.payload if message else "", _rank(new.request.priority)]
        return Operation("move", keys, [*args, EVENTS_LIFETIME_MS if new.state.is_terminal else ""], bool)

    def report(self, job: Job, progress: Progress | None = None, preview: str = "") -> Operation[Verdict]:
        """Tell of a running job; `preview` is one line of JSON."""
        keys = [self._record(job.id), self._events(job.id)]
        told = progress.model_dump_json() if progress else ""
        return Operation("report", keys, [job.id, self.channel, job.attempt, told, preview, MOST_EVENTS], Verdict)

    def ask_to_cancel(self, job_id: str) -> Operation[State | None]:
        """Flag the job if it runs; the state it is in, None for an unknown id."""
        return Operation("cancel", [self._record(job_id)], [], lambda state: State(state) if state else None)

    def read(self, job_id: str) -> Operation[JobSnapshot | None]:
        return Operation("read", [self._record(job_id)], [job_id, self._line("")], _snapshot)

    def page(self, wanted: JobFilter, limit: int, cursor: str | None) -> Operation[JobPage]:
        """Newest first. `cursor` is an id; the page begins with the job before it."""
        if wanted.label is not None:
            index = self._label(wanted.label)
        elif wanted.state is not None:
            index = self._state(wanted.state)
        else:
            index = f"{self._prefix}jobs:backend:{wanted.backend}" if wanted.backend else self._all()
        filters = [wanted.state or "", wanted.backend or "", wanted.label or ""]
        args: list[Argument] = [self._record(""), cursor or "", limit, *filters, LIST_BUDGET, self._line("")]
        return Operation("list", [index], args, _page)

    def events(self, job_id: str, after: str = "") -> Operation[tuple[JobEvent, ...]]:
        """What happened to a job after the event `after`, oldest first."""

        def decode(rows: list[tuple[str, list[str]]]) -> tuple[JobEvent, ...]:
            return tuple(JobEvent(job_id, event_id, fields[1], fields[3]) for event_id, fields in rows)

        return Operation("events", [self._events(job_id)], [after], decode)

    def _record(self, job_id: str) -> str:
        return f"{self._prefix}job:{job_id}"

    def _events(self, job_id: str) -> str:
        return f"{self._prefix}events:{job_id}"

    def _all(self) -> str:
        return f"{self._prefix}jobs"

    def _state(self, state: State) -> str:
        return f"{self._prefix}jobs:state:{state}"

    def _label(self, label: str) -> str:
        return f"{self._prefix}jobs:label:{label}"

    def _line(self, backend: str) -> str:
        return f"{self._prefix}line:{backend}"


def _dump(job: Job) -> str:
    return job.model_dump_json(exclude_defaults=True)


def _rank(priority: Priority) -> int:
    match priority:
        case Priority.HIGH:
            return 0
        case Priority.NORMAL:
            return 1
        case Priority.LOW:
            return 2
        case _:
            assert_never(priority)


def _snapshot(reply: tuple[str, str, int] | None) -> JobSnapshot | None:
    if reply is None:
        return None
    doc, progress, before = reply
    return JobSnapshot(
        job=Job.model_validate_json(doc),
        progress=Progress.model_validate_json(progress) if progress else None,
        queue_position=before if before >= 0 else None,
    )


def _page(reply: list[Any]) -> JobPage:
    cursor, cells = reply[0], reply[1:]
    rows = zip(cells[::3], cells[1::3], cells[2::3], strict=True)
    return JobPage(tuple(snapshot for row in rows if (snapshot := _snapshot(row))), cursor or None)
