"""What the housekeeper asks of the job records."""

from shared.keys import Keys
from shared.store import Operation


class Upkeep:
    def __init__(self, prefix: str) -> None:
        self._keys = Keys(prefix)

    def lapsed(self, most: int) -> Operation[list[str]]:
        """Ids of running jobs whose lease has run out."""
        return Operation("expired", [self._keys.leases], [most], list)

    def overdue(self, most: int) -> Operation[list[str]]:
        """Ids of queued jobs whose deadline has passed."""
        return Operation("expired", [self._keys.deadlines], [most], list)

    def older_than(self, limit: str, after: str, most: int) -> Operation[list[str]]:
        """Ids below `limit` and above `after` ('' for the first), oldest first."""
        return Operation("older", [self._keys.jobs], [limit, after, most], list)

    def forget(self, job_id: str, *, dry_run: bool = False) -> Operation[bool]:
        """Remove an ended job that is not pinned; False for any other."""
        keys = [self._keys.record(job_id), self._keys.events(job_id), self._keys.jobs]
        indexes = [self._keys.state(""), self._keys.backend(""), self._keys.label(""), self._keys.owner("")]
        return Operation("forget", keys, [job_id, *indexes, "1" if dry_run else ""], bool)
