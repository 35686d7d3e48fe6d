"""What the housekeeper asks of the job records."""

from shared.redis.keys import Keys
from shared.redis.store import Operation

#: No request that brought images becomes a job after so long.
UPLOAD_MS = 25 * 3600 * 1000


class JobHousekeeping:
    def __init__(self, prefix: str) -> None:
        self._keys = Keys(prefix)

    def list_expired_leases(self, most: int) -> Operation[list[str]]:
        """Ids of running jobs whose lease has run out."""
        return Operation("housekeeping/list_expired", [self._keys.leases], [most], list)

    def list_overdue(self, most: int) -> Operation[list[str]]:
        """Ids of queued jobs whose deadline has passed."""
        return Operation("housekeeping/list_expired", [self._keys.deadlines], [most], list)

    def take_turn(self, work: str, seconds: float) -> Operation[bool]:
        """Whether it is this housekeeper's; then no other one gets it for so long."""
        return Operation("housekeeping/take_turn", [self._keys.turn(work)], [int(seconds * 1000)], bool)

    def installation_id(self, proposed: str) -> Operation[str]:
        """Which installation this is: what was first proposed."""
        return Operation("housekeeping/get_or_create_secret", [self._keys.installation], [proposed], str)

    def register_upload(self, job_id: str) -> Operation[bool]:
        """To be noted before a job has inputs: whoever dies before it is accepted leaves them behind."""
        return Operation("housekeeping/register_upload", [self._keys.uploads], [job_id, 2 * UPLOAD_MS], bool)

    def inputs_unneeded(self, job_id: str) -> Operation[bool]:
        """Whether a job is known to need no inputs any more. One that is not known may be another installation's."""
        return Operation(
            "housekeeping/inputs_unneeded", [self._keys.record(job_id), self._keys.uploads], [job_id, UPLOAD_MS], bool
        )

    def list_older_than(self, limit: str, after: str, most: int) -> Operation[list[str]]:
        """Ids below `limit` and above `after` ('' for the first), oldest first."""
        return Operation("housekeeping/list_older", [self._keys.jobs], [limit, after, most], list)

    def delete_job(self, job_id: str, *, dry_run: bool = False) -> Operation[bool]:
        """Remove an ended job that is not pinned; False for any other."""
        keys = [self._keys.record(job_id), self._keys.events(job_id), self._keys.jobs]
        indexes = [self._keys.state(""), self._keys.backend(""), self._keys.label(""), self._keys.owner("")]
        return Operation("housekeeping/delete_job", keys, [job_id, *indexes, "1" if dry_run else ""], bool)
