"""Operations of the housekeeper on job records."""

from shared.jobs.operations import LEASE_MS
from shared.jobs.types import ApiProtocol
from shared.redis.keys import Keys
from shared.redis.store import Argument, Operation

#: Input images that are older than this cannot become part of a new job.
UPLOAD_MS = 25 * 3600 * 1000


class JobHousekeeping:
    def __init__(self, prefix: str) -> None:
        self._keys = Keys(prefix)

    def list_expired_leases(self, limit: int) -> Operation[list[str]]:
        """Ids of running jobs whose lease has expired."""
        return Operation("housekeeping/list_expired", [self._keys.leases], [limit, LEASE_MS], list)

    def list_overdue(self, limit: int) -> Operation[list[str]]:
        """Ids of queued jobs whose deadline has passed."""
        return Operation("housekeeping/list_expired", [self._keys.deadlines], [limit], list)

    def take_turn(self, task: str, seconds: float) -> Operation[bool]:
        """Whether this housekeeper does a periodic task; if so, no other one does for `seconds`."""
        return Operation("housekeeping/take_turn", [self._keys.turn(task)], [int(seconds * 1000)], bool)

    def installation_id(self, proposed: str) -> Operation[str]:
        """Id of this installation: the first proposal."""
        return Operation("housekeeping/get_or_create_secret", [self._keys.installation], [proposed], str)

    def register_upload(self, job_id: str) -> Operation[bool]:
        """Called before input images are stored: a process that dies before the job is accepted leaves them behind."""
        return Operation("housekeeping/register_upload", [self._keys.uploads], [job_id, 2 * UPLOAD_MS], bool)

    def inputs_unneeded(self, job_id: str) -> Operation[bool]:
        """Whether the input images of a job can be deleted. An unknown job may belong to another installation."""
        return Operation(
            "housekeeping/inputs_unneeded", [self._keys.record(job_id), self._keys.uploads], [job_id, UPLOAD_MS], bool
        )

    def list_older_than(self, limit_id: str, after: str, limit: int) -> Operation[list[str]]:
        """Ids between `after` ('' for the oldest) and `limit_id`, oldest first."""
        span = f"({after}" if after else "-", f"({limit_id}"
        args: list[Argument] = ["ZRANGE", *span, "BYLEX", "LIMIT", 0, limit]
        return Operation("commands/run", [self._keys.jobs], args, list)

    def delete_job(self, job_id: str, *, dry_run: bool = False) -> Operation[bool]:
        """Delete a finished job that is not pinned; False for any other."""
        keys = [self._keys.record(job_id), self._keys.events(job_id), self._keys.jobs]
        keys += [self._keys.origin(origin) for origin in ApiProtocol]
        indexes = [self._keys.state(""), self._keys.backend(""), self._keys.label(""), self._keys.owner("")]
        return Operation("housekeeping/delete_job", keys, [job_id, *indexes, "1" if dry_run else ""], bool)
