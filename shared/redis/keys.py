"""The names of all keys in Redis."""

from dataclasses import dataclass

from shared.jobs.states import State
from shared.jobs.types import Backend
from shared.redis.wakeups import queue_name


@dataclass(frozen=True)
class Keys:
    """`prefix` begins every key, so that several services can share one server."""

    prefix: str

    @property
    def channel(self) -> str:
        """Channel on which every event of every job is published."""
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
        """Secret that signs image links."""
        return f"{self.prefix}link-secret"

    @property
    def installation(self) -> str:
        """Id of this installation, with which it marks its images."""
        return f"{self.prefix}installation"

    @property
    def uploads(self) -> str:
        """Jobs with recent input images, accepted or not, by the time of the upload."""
        return f"{self.prefix}uploads"

    @property
    def workers(self) -> str:
        """Ids of living workers by the time at which they expire."""
        return f"{self.prefix}workers"

    @property
    def counts(self) -> str:
        """Counters and histograms (see shared/observability/counters.py)."""
        return f"{self.prefix}counts"

    @property
    def webhooks(self) -> str:
        """Prefix of the webhook keys, which lua/webhooks/outbox.lua lists; it derives `counts` and `record` from it."""
        return f"{self.prefix}webhooks:"

    def record(self, job_id: str) -> str:
        return f"{self.prefix}job:{job_id}"

    def events(self, job_id: str) -> str:
        return f"{self.prefix}events:{job_id}"

    def state(self, state: State | str) -> str:
        return f"{self.prefix}jobs:state:{state}"

    def backend(self, backend: str) -> str:
        return f"{self.prefix}jobs:backend:{backend}"

    def origin(self, origin: str) -> str:
        return f"{self.prefix}jobs:origin:{origin}"

    def label(self, label: str) -> str:
        return f"{self.prefix}jobs:label:{label}"

    def owner(self, owner: str) -> str:
        """Every job of one owner."""
        return f"{self.prefix}jobs:owner:{owner}"

    def owner_label(self, owner: str, label: str) -> str:
        return f"{self.owner(owner)}:label:{label}"

    def unfinished(self, owner: str) -> str:
        """Queued and running jobs of one owner."""
        return f"{self.prefix}jobs:active:{owner}"

    @property
    def pinned(self) -> str:
        """Pinned jobs of all owners."""
        return f"{self.prefix}jobs:pinned"

    def queue(self, backend: str) -> str:
        """Queued jobs of a backend in the order in which they will start (see lua/queue/fair_queue.lua)."""
        return f"{self.prefix}queue:{backend}"

    @property
    def residency(self) -> str:
        """Models in the memory of workers, as JSON by worker."""
        return f"{self.prefix}residency"

    def load_stats(self, backend: str) -> str:
        """Recent durations of loading models (`ms <model>`) and their measured sizes (`bytes <model>`)."""
        return f"{self.prefix}load-stats:{backend}"

    def model_sources(self, backend: str) -> str:
        """Version and last publication of every source of models."""
        return f"{self.prefix}models:{backend}"

    def model_entries(self, backend: str, source: str) -> str:
        """What a source publishes of each model, as JSON by name."""
        return f"{self.prefix}models:{backend}:{source}"

    def model_versions(self, backend: str, source: str) -> str:
        """Models of a source by the version in which their entry changed last, also removed ones."""
        return f"{self.model_entries(backend, source)}:versions"

    def pinned_models(self, backend: str) -> str:
        return f"{self.prefix}pinned-models:{backend}"

    def unfinished_loads(self, backend: str, model: str, revision: str) -> str:
        """How often loading a model has started without an end, by worker."""
        return f"{self.prefix}unfinished-loads:{backend}:{model} {revision}"

    def commands(self, worker_id: str) -> str:
        """What a worker is asked to do with models."""
        return f"{self.prefix}commands:{worker_id}"

    def former_queue(self, backend: str) -> str:
        """The queue of the version before, which lua/queue/repair_queue.lua adopts."""
        return f"{self.prefix}line:{backend}"

    def shares(self, backend: str) -> str:
        """Start tags that let owners take turns in the queue of a backend."""
        return f"{self.prefix}shares:{backend}"

    def wake_ups(self, backend: Backend) -> str:
        """The broker's list of messages for workers of a backend."""
        return f"{self.prefix}{queue_name(backend)}"

    def former_wake_ups(self, backend: Backend) -> list[str]:
        """Lists of an earlier version with a message per job, by priority; nothing reads them any more."""
        return [f"{self.wake_ups(backend)}\x06\x16{step}" for step in (3, 6)]

    def duration_stats(self, backend: str) -> str:
        """Recent durations of jobs of a backend, by workload."""
        return f"{self.prefix}pace:{backend}"

    def idempotency(self, name: str) -> str:
        """The job of an idempotency key."""
        return f"{self.prefix}repeat:{name}"

    def cached_result(self, fingerprint: str) -> str:
        """The job that made the images of identical requests."""
        return f"{self.prefix}twin:{fingerprint}"

    def rate(self, account: str) -> str:
        """The time until which an account has used up its rate limit."""
        return f"{self.prefix}rate:{account}"

    def slots(self, backend: str) -> str:
        """Concurrency slots of all workers of a backend."""
        return f"{self.prefix}places:{backend}"

    def caller_session(self, client_id: str) -> str:
        """What a caller has set and started with a protocol that has sessions."""
        return f"{self.prefix}session:{client_id}"

    def turn(self, task: str) -> str:
        """Held by the housekeeper that does a periodic task."""
        return f"{self.prefix}turn:{task}"

    def worker(self, worker_id: str) -> str:
        return f"{self.prefix}worker:{worker_id}"

    def capabilities(self, backend: str) -> str:
        return f"{self.prefix}capabilities:{backend}"

    def start_failures(self, backend: str) -> str:
        """How many workers of a backend have failed to start in a row, and the reason of the last one."""
        return f"{self.prefix}failures:{backend}"
