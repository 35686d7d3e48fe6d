"""The names of everything that is kept in Redis."""

from dataclasses import dataclass

from shared.jobs.states import State
from shared.jobs.types import Backend
from shared.redis.wakeups import queue_name


@dataclass(frozen=True)
class Keys:
    """`prefix` begins every key, so that several services may share one server."""

    prefix: str

    @property
    def channel(self) -> str:
        """Where every event of every job is published."""
        return f"{self.prefix}events"

    @property
    def leases(self) -> str:
        """Running jobs by the time at which their worker counts as lost."""
        return f"{self.prefix}leases"

    @property
    def deadlines(self) -> str:
        """Queued jobs by the time at which they must have started."""
        return f"{self.prefix}deadlines"

    @property
    def jobs(self) -> str:
        """Every job; ids sort by creation."""
        return f"{self.prefix}jobs"

    @property
    def link_secret(self) -> str:
        """What image links are signed with."""
        return f"{self.prefix}link-secret"

    @property
    def installation(self) -> str:
        """Which installation this is; it marks its images with that."""
        return f"{self.prefix}installation"

    @property
    def uploads(self) -> str:
        """Jobs whose images came lately, accepted or not, by when that was."""
        return f"{self.prefix}uploads"

    @property
    def workers(self) -> str:
        return f"{self.prefix}workers"

    @property
    def counts(self) -> str:
        """What has been counted; shared/observability/counters.py says what."""
        return f"{self.prefix}counts"

    @property
    def webhooks(self) -> str:
        """Begins the keys of webhooks on their way; lua/webhooks/outbox.lua says which there are, and makes of it
        those of `counts` and `record`."""
        return f"{self.prefix}webhooks:"

    def record(self, job_id: str) -> str:
        return f"{self.prefix}job:{job_id}"

    def events(self, job_id: str) -> str:
        return f"{self.prefix}events:{job_id}"

    def state(self, state: State | str) -> str:
        return f"{self.prefix}jobs:state:{state}"

    def backend(self, backend: str) -> str:
        return f"{self.prefix}jobs:backend:{backend}"

    def label(self, label: str) -> str:
        return f"{self.prefix}jobs:label:{label}"

    def owner(self, owner: str) -> str:
        """Every job of one owner."""
        return f"{self.prefix}jobs:owner:{owner}"

    def owner_label(self, owner: str, label: str) -> str:
        return f"{self.owner(owner)}:label:{label}"

    def active(self, owner: str) -> str:
        """The jobs of one owner that have not ended."""
        return f"{self.prefix}jobs:active:{owner}"

    def queue(self, backend: str) -> str:
        """Queued jobs of a backend, in the order in which they will start; lua/queue/fair_queue.lua says by what."""
        return f"{self.prefix}line:{backend}"

    def shares(self, backend: str) -> str:
        """Whose turn it is in the queue of a backend."""
        return f"{self.prefix}shares:{backend}"

    def wake_ups(self, backend: Backend) -> str:
        """The broker's list of messages for workers of a backend."""
        return f"{self.prefix}{queue_name(backend)}"

    def legacy_wake_ups(self, backend: Backend) -> list[str]:
        """Where version 0.1 kept a message for each job, by priority. Nothing reads them any more."""
        return [f"{self.wake_ups(backend)}\x06\x16{step}" for step in (3, 6)]

    def duration_stats(self, backend: str) -> str:
        """How long jobs of a backend have taken lately, by what they asked for."""
        return f"{self.prefix}pace:{backend}"

    def idempotency(self, name: str) -> str:
        """The job that a repeated request gets."""
        return f"{self.prefix}repeat:{name}"

    def cached_result(self, cause: str) -> str:
        """The job that made the images of an exact repeat."""
        return f"{self.prefix}twin:{cause}"

    def rate(self, account: str) -> str:
        """Until when somebody has used up its share of requests."""
        return f"{self.prefix}rate:{account}"

    def slots(self, backend: str) -> str:
        """Places for jobs that run at the same time, of all workers of a backend together."""
        return f"{self.prefix}places:{backend}"

    def turn(self, work: str) -> str:
        """Held by the one housekeeper that does it now."""
        return f"{self.prefix}turn:{work}"

    def worker(self, worker_id: str) -> str:
        return f"{self.prefix}worker:{worker_id}"

    def capabilities(self, backend: str) -> str:
        return f"{self.prefix}capabilities:{backend}"

    def start_failures(self, backend: str) -> str:
        """How many workers of a backend have failed to start in a row, and why the last one did."""
        return f"{self.prefix}failures:{backend}"
