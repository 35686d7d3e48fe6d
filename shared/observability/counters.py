"""Counters and histograms of the whole deployment, stored in Redis.

The Lua script that moves a job also increments its counters, in the same atomic step: the figures are exact, however
many processes there are and whichever of them restart.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf

from shared.errors import JobFailure
from shared.jobs.job import Job
from shared.jobs.states import State
from shared.jobs.types import Backend
from shared.webhooks.deliveries import DeliveryState

#: A field of the hash of counts, and its increment.
Count = tuple[str, int]
_SEPARATOR, _SUM = "|", "sum"
_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Counter:
    name: str
    """Between `imagegen_` and `_total`."""
    help: str
    labels: tuple[str, ...]
    expected: tuple[tuple[str, ...], ...] = ((),)
    """Label values, except the backend, that are reported as 0 before they first occur: a series that appears with its
    first event would not show that event as an increase."""

    def increment(self, *values: str, count: int = 1) -> Count:
        return _SEPARATOR.join((self.name, *values)), count


@dataclass(frozen=True)
class Histogram:
    """A histogram of seconds, by backend."""

    name: str
    """Between `imagegen_` and `_seconds`."""
    help: str
    bounds: tuple[float, ...]
    """Upper bounds of its buckets, without infinity. They may change: earlier counts keep their buckets."""

    def observe(self, backend: Backend, milliseconds: float) -> tuple[Count, Count]:
        bound = (*self.bounds, inf)[bisect_left(self.bounds, milliseconds / 1000)]
        key = f"{self.name}{_SEPARATOR}{backend}{_SEPARATOR}"
        return (f"{key}{bound:g}", 1), (f"{key}{_SUM}", round(milliseconds * 1000))


@dataclass(frozen=True)
class Distribution:
    """Contents of a histogram for one backend."""

    below: tuple[tuple[float, int], ...]
    """Each bound, and the number of values up to it."""
    sum_seconds: float


class Counts:
    """All counts so far."""

    def __init__(self, fields: Mapping[str, int]) -> None:
        self._rows = [(field.split(_SEPARATOR), value) for field, value in fields.items()]

    def values(self, counter: Counter) -> dict[tuple[str, ...], int]:
        """By the values of its labels."""
        return {tuple(key[1:]): value for key, value in self._rows if key[0] == counter.name}

    def distribution(self, histogram: Histogram, backend: Backend) -> Distribution:
        buckets = {key[2]: value for key, value in self._rows if key[:2] == [histogram.name, backend]}
        total = buckets.pop(_SUM, 0) / _MICROSECONDS
        counted = [(float(bound), value) for bound, value in buckets.items()]
        below = ((bound, sum(n for at, n in counted if at <= bound)) for bound in (*histogram.bounds, inf))
        return Distribution(tuple(below), total)


def _failures() -> Iterator[str]:
    families = [JobFailure]
    for family in families:
        families += family.__subclasses__()
    return (family.code for family in families[1:])


ACCEPTED = Counter("jobs_accepted", "Jobs that were accepted", ("backend",))
ENDED = Counter(
    "jobs",
    "Jobs that have ended; code says why one failed",
    ("backend", "outcome", "code"),
    expected=(
        (State.SUCCEEDED, ""),
        (State.CANCELLED, ""),
        *((State.FAILED, code) for code in dict.fromkeys(_failures())),
    ),
)
REQUEUED = Counter(
    "jobs_requeued",
    "Jobs that were requeued: their worker was lost, or returned them when it was stopped",
    ("backend", "reason"),
    expected=(("lost",), ("handed-back",)),
)
IMAGES = Counter(
    "images",
    "Images that were generated; withheld ones were flagged by the safety checker",
    ("backend", "withheld"),
    expected=(("false",), ("true",)),
)
REUSED = Counter("jobs_reused", "Jobs that reused images of the result cache", ("backend",))
SENT = Counter(
    "webhook_attempts",
    "Attempts to send a webhook, by outcome",
    ("outcome",),
    expected=(("delivered",), ("retried",), ("dropped",), ("dead",)),
)
DROPPED = Counter(
    "webhooks_dropped",
    "Webhooks that were dropped: overtaken by newer ones, too many of their owner pending, or answered with 410",
    ("reason",),
    expected=(("overtaken",), ("limit",), ("gone",)),
)
EVICTIONS = Counter(
    "model_evictions", "Models evicted from memory, because it was needed or they were unused", ("backend",)
)
COUNTERS = (ACCEPTED, ENDED, REQUEUED, REUSED, IMAGES, SENT, DROPPED, EVICTIONS)

WAIT = Histogram(
    "job_wait",
    "From the acceptance of a job to its first start",
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
RUN = Histogram(
    "job_run",
    "From the start of a successful job to its end",
    (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800),
)
STEP = Histogram(
    "job_step",
    "A denoising step: the mean of each job, including what precedes its first step",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
ENCODE = Histogram(
    "job_encode",
    "Encoding and writing the images of a job",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
LOAD = Histogram(
    "model_load",
    "Loading a model into memory",
    (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600),
)
HISTOGRAMS = (WAIT, RUN, STEP, ENCODE, LOAD)


def count_creation(job: Job) -> Count:
    return ACCEPTED.increment(job.backend)


def count_move(old: Job, new: Job) -> list[Count]:
    match new.state:
        case State.RUNNING if new.attempt == 1:
            return [*WAIT.observe(new.backend, new.timings.queued_ms or 0)]
        case State.RUNNING:
            return []
        case State.QUEUED:
            return [REQUEUED.increment(new.backend, "lost" if new.losses > old.losses else "handed-back")]
        case State.SUCCEEDED:
            return [ENDED.increment(new.backend, new.state, ""), *_count_images(new)]
        case State.FAILED | State.CANCELLED:
            return [ENDED.increment(new.backend, new.state, new.error.code if new.error else "")]


def _count_images(job: Job) -> Iterator[Count]:
    if job.reused_from is not None:
        yield REUSED.increment(job.backend)
        return
    for withheld in (False, True):
        if made := sum(image.flagged is withheld for image in job.images):
            yield IMAGES.increment(job.backend, str(withheld).lower(), count=made)
    times, spent = job.timings, job.run_ms
    # Images that another worker made and this one only recorded have no known duration.
    if times.generate_ms is None or times.encode_ms is None or spent is None:
        return
    yield from RUN.observe(job.backend, spent)
    yield from ENCODE.observe(job.backend, times.encode_ms)
    if times.step_ms is not None:
        yield from STEP.observe(job.backend, times.step_ms)


def count_attempt(state: DeliveryState) -> Count:
    return SENT.increment("retried" if state is DeliveryState.PENDING else state)
