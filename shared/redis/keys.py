"""The names of all keys in Redis."""

from shared.jobs.states import State
from shared.jobs.types import Backend
from shared.redis.wakeups import queue_name


class Keys:
    """`prefix` begins every key, so that several services can share one server."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.channel = f"{prefix}events"
        """Channel on which every event of every job is published."""
        self.leases = f"{prefix}leases"
        """Running jobs by the time at which their worker counts as lost."""
        self.deadlines = f"{prefix}deadlines"
        """Queued jobs by the time at which they must have started."""
        self.jobs = f"{prefix}jobs"
        """Every job; ids sort by creation."""
        self.link_secret = f"{prefix}link-secret"
        """Secret that signs image links."""
        self.installation = f"{prefix}installation"
        """Id of this installation, with which it marks its images."""
        self.uploads = f"{prefix}uploads"
        """Jobs with recent input images, accepted or not, by the time of the upload."""
        self.workers = f"{prefix}workers"
        """Ids of living workers by the time at which they expire."""
        self.counts = f"{prefix}counts"
        """Counters and histograms (see shared/observability/counters.py)."""
        self.webhooks = f"{prefix}webhooks:"
        """Prefix of the webhook keys, which lua/webhooks/outbox.lua lists; it derives `counts` and `record` from it."""
        self.pinned = f"{prefix}jobs:pinned"
        """Pinned jobs of all owners."""
        self.residency = f"{prefix}residency"
        """Models in the memory of workers, as JSON by worker."""

    def record(self, job_id: str) -> str:
        return f"{self._prefix}job:{job_id}"

    def events(self, job_id: str) -> str:
        return f"{self._prefix}events:{job_id}"

    def state(self, state: State | str) -> str:
        return f"{self._prefix}jobs:state:{state}"

    def backend(self, backend: str) -> str:
        return f"{self._prefix}jobs:backend:{backend}"

    def origin(self, origin: str) -> str:
        return f"{self._prefix}jobs:origin:{origin}"

    def label(self, label: str) -> str:
        return f"{self._prefix}jobs:label:{label}"

    def owner(self, owner: str) -> str:
        """Every job of one owner."""
        return f"{self._prefix}jobs:owner:{owner}"

    def owner_label(self, owner: str, label: str) -> str:
        return f"{self.owner(owner)}:label:{label}"

    def unfinished(self, owner: str) -> str:
        """Queued and running jobs of one owner."""
        return f"{self._prefix}jobs:active:{owner}"

    def queue(self, backend: str) -> str:
        """Queued jobs of a backend in the order in which they will start (see lua/queue/fair_queue.lua)."""
        return f"{self._prefix}queue:{backend}"

    def load_stats(self, backend: str) -> str:
        """Recent durations of loading models (`ms <model>`) and their measured sizes (`bytes <model>`)."""
        return f"{self._prefix}load-stats:{backend}"

    def model_sources(self, backend: str) -> str:
        """Version and last publication of every source of models."""
        return f"{self._prefix}models:{backend}"

    def model_entries(self, backend: str, source: str) -> str:
        """What a source publishes of each model, as JSON by name."""
        return f"{self._prefix}models:{backend}:{source}"

    def model_versions(self, backend: str, source: str) -> str:
        """Models of a source by the version in which their entry changed last, also removed ones."""
        return f"{self.model_entries(backend, source)}:versions"

    def pinned_models(self, backend: str) -> str:
        return f"{self._prefix}pinned-models:{backend}"

    def unfinished_loads(self, backend: str, model: str, revision: str) -> str:
        """How often loading a model has started without an end, by worker."""
        return f"{self._prefix}unfinished-loads:{backend}:{model} {revision}"

    def commands(self, worker_id: str) -> str:
        """What a worker is asked to do with models."""
        return f"{self._prefix}commands:{worker_id}"

    def former_queue(self, backend: str) -> str:
        """The queue of the version before, which lua/queue/repair_queue.lua adopts."""
        return f"{self._prefix}line:{backend}"

    def shares(self, backend: str) -> str:
        """Start tags that let owners take turns in the queue of a backend."""
        return f"{self._prefix}shares:{backend}"

    def wake_ups(self, backend: Backend) -> str:
        """The broker's list of messages for workers of a backend."""
        return f"{self._prefix}{queue_name(backend)}"

    def former_wake_ups(self, backend: Backend) -> list[str]:
        """Lists of an earlier version with a message per job, by priority; nothing reads them any more."""
        return [f"{self.wake_ups(backend)}\x06\x16{step}" for step in (3, 6)]

    def duration_stats(self, backend: str) -> str:
        """Recent durations of jobs of a backend, by workload."""
        return f"{self._prefix}pace:{backend}"

    def idempotency(self, name: str) -> str:
        """The job of an idempotency key."""
        return f"{self._prefix}repeat:{name}"

    def cached_result(self, fingerprint: str) -> str:
        """The job that made the images of identical requests."""
        return f"{self._prefix}twin:{fingerprint}"

    def rate(self, account: str) -> str:
        """The time until which an account has used up its rate limit."""
        return f"{self._prefix}rate:{account}"

    def slots(self, backend: str) -> str:
        """Concurrency slots of all workers of a backend."""
        return f"{self._prefix}places:{backend}"

    def caller_session(self, client_id: str) -> str:
        """What a caller has set and started with a protocol that has sessions."""
        return f"{self._prefix}session:{client_id}"

    def turn(self, task: str) -> str:
        """Held by the housekeeper that does a periodic task."""
        return f"{self._prefix}turn:{task}"

    def worker(self, worker_id: str) -> str:
        return f"{self._prefix}worker:{worker_id}"

    def capabilities(self, backend: str) -> str:
        return f"{self._prefix}capabilities:{backend}"

    def start_failures(self, backend: str) -> str:
        """How many workers of a backend have failed to start in a row, and the reason of the last one."""
        return f"{self._prefix}failures:{backend}"
