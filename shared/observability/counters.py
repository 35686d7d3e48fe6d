"""What is counted of the whole deployment: in Redis, in the same step as what happens.

Whoever moves a job says what is to be counted with the move, and the Lua script that makes the move counts it. So the
figures are true however many processes there are, and whichever of them come and go.
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

#: A field of the hash that holds the counts, and what is added to it.
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
    """Values of the labels, but for the backend, that are told as 0 before they first occur: nobody could see that
    what appears with its first event has grown by it."""

    def add(self, *values: str, count: int = 1) -> Count:
        return _SEPARATOR.join((self.name, *values)), count


@dataclass(frozen=True)
class Histogram:
    """Of seconds, by backend."""

    name: str
    """Between `imagegen_` and `_seconds`."""
    help: str
    bounds: tuple[float, ...]
    """Of its buckets, without the infinite one. They may change: what was counted before stays where it was."""

    def of(self, backend: Backend, milliseconds: float) -> tuple[Count, Count]:
        bound = (*self.bounds, inf)[bisect_left(self.bounds, milliseconds / 1000)]
        key = f"{self.name}{_SEPARATOR}{backend}{_SEPARATOR}"
        return (f"{key}{bound:g}", 1), (f"{key}{_SUM}", round(milliseconds * 1000))


@dataclass(frozen=True)
class Distribution:
    """What a histogram holds of one backend."""

    below: tuple[tuple[float, int], ...]
    """Each bound, and how many were not above it."""
    sum_seconds: float


class Counts:
    """What has been counted so far, by the fields of Count."""

    def __init__(self, fields: Mapping[str, int]) -> None:
        self._rows = [(field.split(_SEPARATOR), value) for field, value in fields.items()]

    def of(self, counter: Counter) -> dict[tuple[str, ...], int]:
        """By the values of its labels."""
        return {tuple(key[1:]): value for key, value in self._rows if key[0] == counter.name}

    def distribution(self, histogram: Histogram, backend: Backend) -> Distribution:
        own = {key[2]: value for key, value in self._rows if key[:2] == [histogram.name, backend]}
        spent = own.pop(_SUM, 0) / _MICROSECONDS
        counted = [(float(bound), value) for bound, value in own.items()]
        below = ((bound, sum(n for at, n in counted if at <= bound)) for bound in (*histogram.bounds, inf))
        return Distribution(tuple(below), spent)


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
    "Jobs that went back into the queue: because their worker was lost, or handed them back when it was told to stop",
    ("backend", "reason"),
    expected=(("lost",), ("handed-back",)),
)
IMAGES = Counter(
    "images",
    "Images that were made; withheld ones are those that the safety checker objected to",
    ("backend", "withheld"),
    expected=(("false",), ("true",)),
)
REUSED = Counter("jobs_reused", "Jobs that were given images which had been made before", ("backend",))
SENT = Counter(
    "webhook_attempts",
    "Attempts to send a webhook, by what came of it",
    ("outcome",),
    expected=(("delivered",), ("retried",), ("dropped",), ("dead",)),
)
DROPPED = Counter(
    "webhooks_dropped",
    "Webhooks that were not sent (again): newer ones overtook them, too many of their owner waited, or a 410 ended it",
    ("reason",),
    expected=(("overtaken",), ("limit",), ("gone",)),
)
COUNTERS = (ACCEPTED, ENDED, REQUEUED, REUSED, IMAGES, SENT, DROPPED)

WAIT = Histogram(
    "job_wait",
    "From accepting a job to its first start",
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
RUN = Histogram(
    "job_run",
    "From the start of a job that succeeded to its end",
    (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800),
)
STEP = Histogram(
    "job_step",
    "A denoising step: the mean of each job, what comes before its first step included",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
ENCODE = Histogram(
    "job_encode",
    "Encoding and writing the images of a job",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
HISTOGRAMS = (WAIT, RUN, STEP, ENCODE)


def count_creation(job: Job) -> Count:
    return ACCEPTED.add(job.backend)


def count_move(old: Job, new: Job) -> list[Count]:
    match new.state:
        case State.RUNNING if new.attempt == 1:
            return [*WAIT.of(new.backend, new.timings.queued_ms or 0)]
        case State.RUNNING:
            return []
        case State.QUEUED:
            return [REQUEUED.add(new.backend, "lost" if new.losses > old.losses else "handed-back")]
        case State.SUCCEEDED:
            return [ENDED.add(new.backend, new.state, ""), *_of_making(new)]
        case State.FAILED | State.CANCELLED:
            return [ENDED.add(new.backend, new.state, new.error.code if new.error else "")]


def _of_making(job: Job) -> Iterator[Count]:
    if job.reused_from is not None:
        yield REUSED.add(job.backend)
        return
    for withheld in (False, True):
        if made := sum(image.flagged is withheld for image in job.images):
            yield IMAGES.add(job.backend, str(withheld).lower(), count=made)
    times, spent = job.timings, job.run_ms
    # What another worker made, and this one only recorded, took no time that could be told.
    if times.generate_ms is None or times.encode_ms is None or spent is None:
        return
    yield from RUN.of(job.backend, spent)
    yield from ENCODE.of(job.backend, times.encode_ms)
    if times.step_ms is not None:
        yield from STEP.of(job.backend, times.step_ms)


def count_attempt(state: DeliveryState) -> Count:
    return SENT.add("retried" if state is DeliveryState.PENDING else state)
