"""The interfaces between running jobs and their records."""

from collections.abc import Sequence, Set
from contextlib import AbstractContextManager
from typing import Protocol

from shared.jobs.job import Job, Progress, QueuedJob


class JobCancelled(Exception):
    """A client cancelled the job."""


class JobLost(Exception):
    """Another worker has the job, or it has ended: its record has moved on."""


class ProgressChannel(Protocol):
    """Sends the progress of one running job and receives its cancellation."""

    def progress(self, progress: Progress) -> None: ...

    def preview(self, preview_json: str, *, at_once: bool = False) -> None: ...

    def check(self) -> None:
        """Raise JobCancelled or JobLost if the latest report said so."""
        ...

    def confirm(self) -> None:
        """Like `check`, but ask the record again unless its answer is recent."""
        ...


class JobStore(Protocol):
    """The job records that a worker reads and moves."""

    def peek(self, limit: int, loaded: Set[str] | None, tried: Set[str]) -> Sequence[QueuedJob]:
        """Return up to `limit` queued jobs in the order in which this worker is to start them.

        Jobs of `loaded` models come first, within bounds; None gives all jobs in the order of the queue. `tried` holds
        jobs and models that are passed over. None at all may be returned although jobs are queued, if other workers
        will do them.
        """
        ...

    def report_load(self, jobs: Sequence[Job], model: str, bytes_done: int, bytes_total: int) -> None:
        """Tell the followers of queued jobs how far their model is loaded. May be called often."""
        ...

    def is_elsewhere(self, model: str) -> bool:
        """Whether a worker on another machine has, or had, a model that this one does not know."""
        ...

    def move(self, moves: Sequence[tuple[Job, Job]]) -> list[bool]:
        """Compare-and-set each record from the old job to the new one, retried until the store answers.

        False for a job whose record has changed meanwhile.
        """
        ...

    def save_provider_tasks(self, job: Job) -> None:
        """Record the job's `providers`, retried until the store answers.

        Raise JobLost, and JobCancelled if a task is about to be bought for a job that was cancelled.
        """
        ...

    def open_channel(self, job: Job) -> AbstractContextManager[ProgressChannel]: ...


class ResultCache(Protocol):
    """Finished jobs whose images can be reused."""

    def find(self, job: Job, fingerprint: str) -> Job | None:
        """Return a succeeded job with the same images as this one would get.

        `fingerprint` identifies the model and how it runs.
        """
        ...

    def add(self, job: Job, fingerprint: str) -> None:
        """Offer the images of a job that has ended for reuse."""
        ...
