"""What a worker needs of whoever keeps records."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from shared.jobs.job import Job, QueuedJob
from worker.jobs.follower import ProgressChannel


class Ledger(Protocol):
    """Where jobs are on record."""

    def peek(self, most: int) -> Sequence[QueuedJob]:
        """The first `most` queued jobs, in the order in which they are to start."""
        ...

    def move(self, moves: Sequence[tuple[Job, Job]]) -> list[bool]:
        """Compare-and-set from the old to the new, each by itself, retried until the record keeper answers. False for a
        job that was moved by somebody else."""
        ...

    def note(self, job: Job) -> bool:
        """Put its `providers` on record, retried like a move. False when the job is no longer this worker's."""
        ...

    def open_line(self, job: Job) -> AbstractContextManager[ProgressChannel]: ...


class ResultCache(Protocol):
    """Jobs whose images can be given again."""

    def find(self, job: Job) -> Job | None:
        """One that ended well, and whose images are those that this one would get."""
        ...

    def remember(self, job: Job) -> None:
        """One that has ended."""
        ...
