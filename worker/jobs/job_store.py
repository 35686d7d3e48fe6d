"""The interfaces between running jobs and their records."""

from collections.abc import Sequence
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

    def peek(self, limit: int) -> Sequence[QueuedJob]:
        """Return the first `limit` queued jobs in the order in which they are to start."""
        ...

    def move(self, moves: Sequence[tuple[Job, Job]]) -> list[bool]:
        """Compare-and-set each record from the old job to the new one, retried until the store answers.

        False for a job whose record has changed meanwhile.
        """
        ...

    def save_provider_tasks(self, job: Job) -> bool:
        """Record the job's `providers`, retried until the store answers. False if the job was lost."""
        ...

    def open_channel(self, job: Job) -> AbstractContextManager[ProgressChannel]: ...


class ResultCache(Protocol):
    """Finished jobs whose images can be reused."""

    def find(self, job: Job) -> Job | None:
        """Return a succeeded job with the same images as this one would get."""
        ...

    def add(self, job: Job) -> None:
        """Offer the images of a job that has ended for reuse."""
        ...
