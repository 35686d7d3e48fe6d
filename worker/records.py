"""What a worker needs of whoever keeps records."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from shared.schemas import Job
from worker.follower import Line


class Ledger(Protocol):
    """Where jobs are on record."""

    def look(self, job_id: str, most: int) -> tuple[Job | None, Sequence[Job]]:
        """The job, and the first `most` in line that nobody has started; itself among them if it is one."""
        ...

    def move(self, moves: Sequence[tuple[Job, Job]]) -> list[bool]:
        """Compare-and-set from the old to the new, each by itself, retried until the record keeper answers. False for a
        job that was moved by somebody else."""
        ...

    def note(self, job: Job) -> bool:
        """Put its `providers` on record, retried like a move. False when the job is no longer this worker's."""
        ...

    def started_together(self, jobs: Sequence[Job]) -> None:
        """These were started without having been handed out: nobody else is to be handed them."""
        ...

    def open_line(self, job: Job) -> AbstractContextManager[Line]: ...


class Repeats(Protocol):
    """Jobs whose pictures can be given again."""

    def find(self, job: Job) -> Job | None:
        """One that ended well, and whose pictures are those that this one would get."""
        ...

    def remember(self, job: Job) -> None:
        """One that has ended."""
        ...
